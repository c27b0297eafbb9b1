"""What a person sees while a command runs: stderr, progress, the width and colours of a terminal; stdout kept clean.

stdout is the report, stderr is everything else. Nothing else writes to either.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, TextIO

from modelprobe.errors import BadInput
from modelprobe.report.units import printable

if TYPE_CHECKING:
    from modelprobe.report.formats import Style

NARROWEST = 20
"""Below this a report is unreadable however it is laid out; the terminal may wrap it."""

PIECE = 8192
"""Written at once. An unbuffered stdout (`python -u`) takes what a pipe took of one write for all of it."""

STDOUT, STDERR = 1, 2
"""What child processes and libraries write to, whatever `sys.stdout` is."""

DRAWING = "├─│└…█▏▁▇"

COLOUR_CHOICES: Mapping[str, Mapping[str, str | None]] = {
    "auto": {},
    "always": {"FORCE_COLOR": "1", "NO_COLOR": None},
    "never": {"NO_COLOR": "1"},
}
"""What `--color` takes -> the variables that say it, to us and to every library and process that we start."""

QUIET = "MODELPROBE_QUIET"


@contextmanager
def as_asked(color: str, quiet: bool) -> Iterator[None]:
    """While the body runs, colours as `--color` says and, if `quiet`, nothing on stderr but what went wrong."""
    wanted: dict[str, str | None] = {**COLOUR_CHOICES[color], **({QUIET: "1"} if quiet else {})}
    before = {name: os.environ.get(name) for name in wanted}
    _set_variables(wanted)
    try:
        yield
    finally:
        _set_variables(before)


def _set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def is_quiet() -> bool:
    """Whether a person asked for the answer alone."""
    return os.environ.get(QUIET, "0") not in ("", "0")


def style_of(stream: TextIO | None) -> Style:
    """Width, colour and characters that `stream` can show."""
    from modelprobe.report.formats import Style

    return Style(columns(), colour=_colour(stream), unicode=_unicode(stream))


def shown_on(stream: TextIO | None) -> list[Any]:
    """What the text of a report depends on beside the report: width, colour, characters, encoding."""
    return [columns(), _colour(stream), _unicode(stream), str(getattr(stream, "encoding", "")), is_quiet()]


def columns() -> int:
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


def write_text(stream: TextIO | None, text: str) -> None:
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


def say(text: str, *, always: bool = True) -> None:
    """One line on stderr: a note, progress, a hint. Foreign text in it is made printable; this never raises.

    What only informs is not `always` said: not under `--quiet`.
    """
    if not always and is_quiet():
        return
    try:
        write_text(sys.stderr, f"{printable(text)}\n")
    except (OSError, ValueError, BadInput):
        silence(sys.stderr)


def complain(message: str, hint: str = "") -> None:
    """An error as a person meets it: one line, and one hint."""
    red, plain = ("\x1b[1;31m", "\x1b[0m") if _colour(sys.stderr) else ("", "")
    lines = f"{red}error:{plain} {printable(message)}\n" + (f"hint: {printable(hint)}\n" if hint else "")
    try:
        write_text(sys.stderr, lines)
    except (OSError, ValueError, BadInput):
        silence(sys.stderr)


@contextmanager
def working(text: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr, while the body runs, that something is being done; nothing where stderr is no terminal.

    What the body is given changes the text. Inside another one the line shows the inner text, and then the outer one
    again; inside a bar, the bar alone.
    """
    if not _is_watched() or None in _LINES:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.text import Text

    line = _LINES[-1] if _LINES else Console(stderr=True, no_color=not _colour(sys.stderr)).status("")
    before = line.status

    def show(said: str) -> None:
        line.update(Text(printable(said)))

    with line if not _LINES else nullcontext(), _on_screen(line):
        show(text)
        yield show
        line.update(before)


_LINES: list[Any] = []
"""The status lines of the `working` that run now, None for a bar."""


@contextmanager
def _on_screen(line: Any) -> Iterator[None]:
    _LINES.append(line)
    try:
        yield
    finally:
        _LINES.pop()


@contextmanager
def torch_announced() -> Iterator[None]:
    """While the body runs, show when torch is being loaded, which takes seconds."""
    finder = _TorchFinder()
    if _is_watched():
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


class _TorchFinder:
    """Finds torch as the others do, and lets it be loaded under a status line."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        found = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)  # who looks for torch may load it later
        if found is not None and found.loader is not None:
            found.loader.exec_module = working("loading torch")(found.loader.exec_module)  # type: ignore[method-assign]
        return found


@contextmanager
def progress(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr for `total` pieces of work; what is given is called after each. Nothing where no person looks."""
    if total < 2 or _LINES or not _is_watched():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(printable(text), markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, no_color=not _colour(sys.stderr))
    with Progress(*columns, console=console, transient=True) as bar, _on_screen(None):
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def _is_watched() -> bool:
    return is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" and not is_quiet()


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
