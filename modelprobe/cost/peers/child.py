"""The inside of a child process: read the order, leave the answer, outlive nobody.

Nothing that is printed here is seen: stdout and stderr lead nowhere, and there is nothing to read.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelprobe.cost.peers.answer import Answer
from modelprobe.errors import ProbeError, one_line

ORDER, ANSWER = "order.json", "answer.json"
"""Files in the folder of a child."""


def carry_out(folder: str, answer: Callable[[Mapping[str, Any]], Answer]) -> None:
    """Answer the order in `folder`. Does not return: threads that a tool left behind must not hold the process."""
    home = Path(folder)
    _end_with_parent(home.parent)
    try:
        found = answer(json.loads((home / ORDER).read_text(encoding="utf-8")))
    except BaseException as error:  # noqa: BLE001 - whatever the tool raises is its answer, also `sys.exit`
        found = Answer(None, _told(error))
    part = home / f"{ANSWER}.part"
    part.write_text(json.dumps(asdict(found)), encoding="utf-8")
    part.replace(home / ANSWER)
    os._exit(0)


def _told(error: BaseException) -> str:
    if isinstance(error, ProbeError):
        return error.message
    text = one_line(error)
    return text if isinstance(error, SystemExit) else f"raised {type(error).__name__}: {text}"


def _end_with_parent(shared: Path) -> None:
    """End the whole process group when the parent is gone, and offer it first where memory runs out.

    `shared` is the folder of all children, which the parent then cannot remove any more.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    with suppress(OSError):
        line = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        threading.Thread(target=_watch, args=(line, shared), daemon=True).start()


def _watch(line: int, shared: Path) -> None:
    """The parent holds the other end open as long as it lives, and writes nothing."""
    with suppress(OSError):
        os.read(line, 1)
    shutil.rmtree(shared, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
