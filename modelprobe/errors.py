"""What modelprobe says when it cannot answer: one line, one hint, one exit code."""

from __future__ import annotations


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
