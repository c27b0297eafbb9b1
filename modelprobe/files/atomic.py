"""How does a process that is told to end (SIGTERM, SIGHUP) take its half-written files away first?"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDINGS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class _ToldToEndError(BaseException):
    """Unwinds the body, so that whatever it has to clean up is cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def unwound() -> Iterator[None]:
    """While the body runs, a signal to end unwinds it like an exception; then the signal does what it always does.

    Handlers that somebody else installed stay, and threads other than the main one are left as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in ENDINGS if signal.getsignal(number) is signal.SIG_DFL]
    told = 0
    try:
        for number in ours:
            signal.signal(number, _raise)
        yield
    except _ToldToEndError as error:
        told = error.number
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
    if told:
        os.kill(os.getpid(), told)


def _raise(number: int, frame: FrameType | None) -> None:
    raise _ToldToEndError(number)
