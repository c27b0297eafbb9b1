"""The text that a command line was answered with before: printed again before the rest of the command line is loaded.

Only what is wholly the answer of a stored run of a library's model is kept, and it counts for as long as that run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from modelprobe.console import complain, say, shown_on, silence, write_text
from modelprobe.errors import BadInput
from modelprobe.files.store import Store, StoreDamagedError, is_store_on, stored_line, surroundings

if TYPE_CHECKING:
    from modelprobe.cost.traces.stored import StoredRun

FRESH = "--fresh"
COMMON = ("--quiet", "-q", "--color", "--debug")
"""Options of every command, which say how a report is shown: the command has to run."""

READER_LEFT = 141

_ASKED: ContextVar[tuple[str, ...]] = ContextVar("_ASKED", default=())
"""The command line that this process was started with, where its answer may be kept."""


def print_stored(arguments: Sequence[str]) -> int | None:
    """Print the stored answer of this command line; its exit code. None where there is none: the command has to run."""
    if not is_store_on() or any(argument.startswith(COMMON) for argument in arguments):
        return None
    _ASKED.set(tuple(argument for argument in arguments if argument != FRESH))
    content = _stored_answer(arguments) if FRESH not in arguments else None
    if content is None:
        return None
    say(stored_line(content["made"]), always=False)
    try:
        write_text(sys.stdout, content["text"])
    except BrokenPipeError:
        silence(sys.stdout)
        return READER_LEFT
    except BadInput as error:
        complain(error.message, error.hint)
        return error.exit_code
    return 0


def _stored_answer(arguments: Sequence[str]) -> dict[str, Any] | None:
    key, store = _answer_key(arguments), Store()
    try:
        held = store.get(key) if key is not None else None
        content = json.loads(held[1]) if held is not None else None
        # A run that was recorded anew since, or is gone, takes its answers with it.
        return content if content is not None and store.digest(content["run"]) == content["digest"] else None
    except (StoreDamagedError, ValueError, KeyError, TypeError):  # replaced when the command has run
        return None


def keep_text(text: str, stored: StoredRun) -> None:
    """Keep what a command printed of a stored run, for the command line that this process was started with."""
    key = _answer_key(_ASKED.get()) if _ASKED.get() else None
    digest = stored.digest
    if key is not None and digest:
        content = {"text": text, "run": stored.key, "digest": digest, "made": stored.made}
        Store().put(key, {"what": "answer", "target": " ".join(_ASKED.get())}, json.dumps(content).encode())


def _answer_key(arguments: Sequence[str]) -> dict[str, Any] | None:
    """What an answer's text depends on: the arguments, what they are shown on, and what their run depends on."""
    depends = surroundings()
    return {"arguments": list(arguments), "shown": shown_on(sys.stdout), **depends} if depends is not None else None
