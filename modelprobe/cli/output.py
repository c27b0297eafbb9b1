"""Where does a report go, and in which format? The only writer of reports, and of anything else to stdout or stderr.

stdout is the report, stderr is everything else. A file is written beside its target and renamed, so that a reader
sees the old file or the new one and nothing in between.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO

from modelprobe.errors import BadInput, Incomplete
from modelprobe.files.atomic import unwound
from modelprobe.report.blocks import Level, Report
from modelprobe.report.formats import RENDERERS, Renderer, Style
from modelprobe.report.units import printable

NARROWEST = 20
"""Below this a report is unreadable however it is laid out; the terminal may wrap it."""

PIECE = 8192
"""Written at once. An unbuffered stdout (`python -u`) takes what a pipe took of one write for all of it."""

STDOUT, STDERR = 1, 2
"""What child processes and libraries write to, whatever `sys.stdout` is."""

DRAWING = "├─│└…█▏▁▇"


def emit(
    report: Report,
    format: str | None = None,
    path: Path | None = None,
    *,
    force: bool = False,
    strict: bool = False,
) -> None:
    """Write `report` to stdout, or to the file `path`, in the format asked for or that the file's suffix means.

    Raises BadInput for an unknown format or an unusable path, and under `strict` Incomplete (after the report is
    out) when a note stands against the answer.
    """
    renderer = choose(format, path)
    if path is None:
        _write(sys.stdout, renderer.render(report, style_of(sys.stdout)))
    else:
        style = Style(_columns(), colour=False, unicode=True)
        atomic_write(path, renderer.render(report, style), force=force)
        say(f"wrote {path}")
    if renderer.name == "csv":  # which has no place for them
        for note in report.notes:
            say(f"{_label(note.level)}: {note.text}")
    if strict:
        refuse_if_incomplete(report)


def choose(format: str | None, path: Path | None) -> Renderer:
    """The format asked for; else the one that the file's suffix means; else the terminal's. Raises BadInput."""
    if format is not None:
        if format not in RENDERERS:
            raise BadInput(f"unknown format {format!r}", f"choose one of {', '.join(RENDERERS)}")
        return RENDERERS[format]
    if path is None:
        return RENDERERS["terminal"]
    for renderer in RENDERERS.values():
        if path.suffix.lower() in renderer.suffixes:
            return renderer
    known = ", ".join(suffix for renderer in RENDERERS.values() for suffix in renderer.suffixes)
    says = f"the suffix {path.suffix!r} of {path.name!r}" if path.suffix else f"{path.name!r}, which has no suffix,"
    raise BadInput(f"{says} names no format", f"use one of {known}, or say the format with -f")


def check(format: str | None, path: Path | None, *, force: bool = False) -> None:
    """Raise now what `emit` would raise about the format and the path later. For commands that compute for long."""
    if path is not None:
        _target(path, force)
    choose(format, path)


def refuse_if_incomplete(report: Report) -> None:
    """Raise Incomplete when any note is more than information: what `--strict` means."""
    against = [note for note in report.notes if note.level is not Level.INFO]
    if against:
        many = "1 note stands" if len(against) == 1 else f"{len(against)} notes stand"
        raise Incomplete(f"{many} against this answer; the first: {against[0].text}", "without --strict this passes")


def _label(level: Level) -> str:
    return "note" if level is Level.INFO else level.value


# What the place can show


def style_of(stream: TextIO | None) -> Style:
    """Width, colour and characters that `stream` can show."""
    return Style(_columns(), colour=_colour(stream), unicode=_unicode(stream))


def _columns() -> int:
    """COLUMNS, else the terminal's own width, else 80 (also when stdout is no terminal)."""
    return max(NARROWEST, shutil.get_terminal_size(fallback=(80, 24)).columns)


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person looks at `stream`."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def _colour(stream: TextIO | None) -> bool:
    """https://no-color.org: NO_COLOR, when not empty, wins; FORCE_COLOR comes next; then the terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def _unicode(stream: TextIO | None) -> bool:
    try:
        DRAWING.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


# Streams


def _write(stream: TextIO | None, text: str) -> None:
    """Write `text` whole; what the encoding lacks as an escape. A reader that left raises BrokenPipeError."""
    if stream is None:  # started with stdout closed
        raise BadInput("stdout is closed", "use -o FILE")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        for start in range(0, len(shown), PIECE):
            stream.write(shown[start : start + PIECE])
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(stream)
        raise BadInput(f"cannot write to stdout: {error.strerror or error}", "use -o FILE") from error


def say(text: str) -> None:
    """One line on stderr: a note, progress, a hint. Foreign text in it is made printable; this never raises."""
    try:
        _write(sys.stderr, f"{printable(text)}\n")
    except (OSError, ValueError, BadInput):
        silence(sys.stderr)


def complain(message: str, hint: str = "") -> None:
    """An error as a person meets it: one line, and one hint."""
    red, plain = ("\x1b[1;31m", "\x1b[0m") if _colour(sys.stderr) else ("", "")
    lines = f"{red}error:{plain} {printable(message)}\n" + (f"hint: {printable(hint)}\n" if hint else "")
    try:
        _write(sys.stderr, lines)
    except (OSError, ValueError, BadInput):
        silence(sys.stderr)


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr, while the body runs, that something is being done; nothing where stderr is no terminal.

    What the body is given changes the text.
    """
    if not is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True, no_color=not _colour(sys.stderr)).status(Text(printable(text))) as shown:
        yield lambda said: shown.update(Text(printable(said)))


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr for `total` pieces of work; what is given is called after each. Nothing where no person looks."""
    if total < 2 or not is_terminal(sys.stderr) or os.environ.get("TERM") == "dumb":
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(printable(text), markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, no_color=not _colour(sys.stderr))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


@contextmanager
def stdout_kept() -> Iterator[None]:
    """While the body runs somebody else's code, what it prints to stdout goes to stderr: stdout is the report alone.

    That includes what child processes and libraries write past Python, where both streams are the system's own.
    """
    saved = None
    if sys.stdout is not None and sys.stderr is not None:
        with suppress(OSError, ValueError):  # one of them is closed
            sys.stdout.flush()
            saved = os.dup(STDOUT)
            os.dup2(STDERR, STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, STDOUT)
            os.close(saved)


def silence(stream: TextIO | None) -> None:
    """Point a stream that cannot be written at nothing, so that the flush at exit does not complain once more."""
    if stream is None:
        return
    with suppress(OSError, ValueError):  # not a stream of the system's: nothing is flushed at exit
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


# Files


def atomic_write(path: Path, data: bytes | str, *, force: bool = False) -> None:
    """Write `data` (text as UTF-8) to `path` whole or not at all. Raises BadInput, and leaves no residue.

    An existing file is replaced under `force` only, and keeps its mode. A symbolic link stays one: under `force`
    the file it points to is replaced.
    """
    target = _target(path, force)
    temporary = target.with_name(f".modelprobe-{secrets.token_hex(8)}.tmp")
    content = data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data
    with unwound():
        _replace(path, target, temporary, content)


def _replace(path: Path, target: Path, temporary: Path, content: bytes) -> None:
    try:
        with temporary.open("xb") as file:  # opened by name, so that the umask decides its mode
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot write {path}: {reason}", "choose another place with -o") from error
    finally:  # also when interrupted
        _forget(temporary)


def _forget(temporary: Path) -> None:
    with suppress(OSError):  # the error that led here says more
        temporary.unlink(missing_ok=True)


def _target(path: Path, force: bool) -> Path:
    """The file to replace or to make. Raises BadInput where that is not possible or not allowed."""
    try:
        link = path.is_symlink()
        if link and not force:
            raise BadInput(f"{path} is a symbolic link", "--force replaces the file it points to")
        target = path.resolve() if link else path
        found: Any = target.stat() if target.exists() else None
        parent = target.parent.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # no permission, a name too long, links in a circle
        raise BadInput(f"cannot write {path}: {error}", "choose another place with -o") from error
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise BadInput(f"{path} is a directory", "name a file in it")
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise BadInput(f"{path} is not a regular file", "to write to a device or a pipe, redirect stdout with >")
    if found is not None and not force:
        raise BadInput(f"{path} exists", "--force replaces it")
    if not parent:
        raise BadInput(f"there is no directory {target.parent}", "make it first, or choose another place with -o")
    return target
