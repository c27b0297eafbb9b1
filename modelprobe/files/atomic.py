"""Writing a file whole or not at all: under a temporary name beside its target, then renamed."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, TypeVar

from modelprobe.errors import BadInput

T = TypeVar("T")

ELSEWHERE = "choose another place"

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


def atomic_write(path: Path, data: bytes | str, *, force: bool = False) -> None:
    """Write `data` (text as UTF-8) to `path` whole or not at all. Raises BadInput, and leaves no residue.

    An existing file is replaced under `force` only, and keeps its mode. A symbolic link stays one: under `force`
    the file it points to is replaced.
    """
    target = check_target(path, force=force)
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    temporary = temporary_beside(target)
    with unwound():
        try:
            stage(target, temporary, lambda file: file.write(content))
            put_in_place(temporary, target)
        finally:  # also when interrupted
            forget(temporary)


def temporary_beside(target: Path) -> Path:
    """A name in the directory of `target` that no file has."""
    return target.with_name(f".modelprobe-{os.urandom(8).hex()}.tmp")


def stage(target: Path, temporary: Path, fill: Callable[[IO[bytes]], T]) -> T:
    """Write a file under its temporary name, down to the disk, with the mode that `target` has. Raises BadInput."""
    try:
        with temporary.open("xb") as file:  # opened by name, so that the umask decides its mode
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            filled = fill(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _cannot_write(target, error) from error
    return filled


def put_in_place(temporary: Path, target: Path) -> None:
    """Give a finished file its name. Raises BadInput."""
    try:
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error


def forget(temporary: Path) -> None:
    """Remove a temporary file that may be gone already; the error that led here says more than another would."""
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def check_target(path: Path, *, force: bool = False, sources: Sequence[Path] = (), links: bool = True) -> Path:
    """The file to replace or to make: what a link points to, where `links` may be followed (which takes `force`).

    Raises BadInput for a directory, a device, a place that cannot be, an existing file without `force`, and, by
    whatever path or link it is named, for a file of `sources`: inputs are never written in place.
    """
    if "\0" in str(path):
        raise BadInput(f"cannot write {path}: a NUL is in its name", ELSEWHERE)
    try:
        link = path.is_symlink()
        target = path.resolve() if link and links and force else path
        found = target.stat() if target.exists() else None
        parent = target.parent.is_dir()
        same = found is not None and any(_same(found, source) for source in sources)
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a name too long, links in a circle
        raise _cannot_write(path, error) from error
    if same:
        raise BadInput(f"{path} is the input itself", "a weight file is never written in place: choose another name")
    if link and not links:
        raise BadInput(f"{path} is a symbolic link", "weight files are not written through links: name the file itself")
    if link and not force:
        raise BadInput(f"{path} is a symbolic link", "--force replaces the file it points to")
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise BadInput(f"{path} is a directory", "name a file in it")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{path} is not a regular file", "to write to a device or a pipe, redirect stdout with >")
    if found is not None and not force:
        raise BadInput(f"{path} exists", "--force replaces it")
    if not parent:
        raise BadInput(f"there is no directory {target.parent}", f"make it first, or {ELSEWHERE}")
    return target


def _same(found: os.stat_result, source: Path) -> bool:
    try:
        other = source.stat()
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino)


def _cannot_write(path: Path, error: Exception) -> BadInput:
    reason = str(getattr(error, "strerror", None) or error)
    return BadInput(f"cannot write {path}: {reason[:1].lower()}{reason[1:]}", ELSEWHERE)
