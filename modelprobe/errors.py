"""What modelprobe says when it cannot answer: one line, one hint, one exit code."""

from __future__ import annotations

import re

_NOISE = re.compile(r"\[enforce fail at [^]]*\] (?:.*?\. )?|\s*Exception raised from .*")
"""What torch's C++ puts around a message: the failed condition before it, the frames after it."""


class ProbeError(Exception):
    """Anything that a person can act on. Caught in one place, `cli.main`.

    `message` is one line that names what is wrong; `hint` is one line that says what to do next.
    Text from files and from other libraries may stand in both: it is escaped where it is printed.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class CheckFailed(ProbeError):
    """A check that was asked for did not hold (exit code 1)."""

    exit_code = 1


class Differs(CheckFailed):
    """What was compared differs (exit code 1): an answer, which is said without the word error."""


class BadInput(ProbeError):
    """The command line, a file or a shape is not usable (exit code 2)."""

    exit_code = 2


class Incomplete(ProbeError):
    """The answer has a hole and `--strict` was given (exit code 3)."""

    exit_code = 3


class ModelRaised(ProbeError):
    """The user's own code raised: while importing, constructing or running it (exit code 4)."""

    exit_code = 4


class WouldRunCode(ProbeError):
    """Refused, since going on would execute code that stands in a file (exit code 5)."""

    exit_code = 5


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of somebody else's exception in one line, without C++ frames, and not endless."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else repr(error.code)}) was called"
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - a class of the user's may fail at this too
        said = ""
    text = _NOISE.sub("", " ".join(said.split())).strip() or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


EXIT_CODES = {
    0: "fine",
    1: "a check failed",
    2: "usage or bad input",
    3: "incomplete, under --strict",
    4: "the model itself raised",
    5: "refused: it would mean running code from a file",
    70: "an error of modelprobe itself",
    130: "interrupted",
    141: "whoever read the output stopped reading",
}
