"""An output directory that is filled at once: everything that a command made, or nothing."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer

from modelprobe.cli import options
from modelprobe.console import stdout_kept
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Report
from modelprobe.report.formats import RENDERERS, Style


class Placed(Protocol):
    """A result whose files stand in a directory."""

    def report(self) -> Report:
        """The answer in blocks."""

    def at(self, directory: Path) -> Placed:
        """The same with its files in another directory."""


FolderOpt = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Write pictures, arrays, index.html and report.json to this directory.",
        show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]
FolderForceOpt = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar=options.FLAG,
        help="Write into the directory of -o although other files stand in it, and replace those of the same names.",
        rich_help_panel=options.OUTPUT,
    ),
]


def check_folder(path: Path | None, force: bool) -> None:
    """Raise now what `filling` would raise later about the place. For commands that compute for long."""
    if path is None:
        return
    try:
        if path.exists() and not path.is_dir():
            raise BadInput(f"{path} is a file", "name a directory with -o")
        if path.is_dir() and any(path.iterdir()) and not force:
            raise BadInput(f"the directory {path} exists and is not empty", "choose another, or --force writes into it")
        if not path.absolute().parent.is_dir():
            raise BadInput(
                f"there is no directory {path.absolute().parent}", "make it first, or choose another with -o"
            )
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


@contextmanager
def filling(path: Path, force: bool) -> Iterator[Path]:
    """A directory to write to; what stands in it afterwards goes to `path` when the body succeeds, else nothing does.

    Raises BadInput for a place that cannot be written, a full disk included.
    """
    check_folder(path, force)
    temporary = path.absolute().parent / f".modelprobe-{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir()
        yield temporary
        if path.is_dir():
            for file in sorted(temporary.iterdir()):
                file.replace(path / file.name)
        else:
            temporary.replace(path)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error
    finally:  # also when interrupted
        shutil.rmtree(temporary, ignore_errors=True)


@stdout_kept()
def deliver(path: Path | None, force: bool, make: Callable[[Path | None], Placed]) -> Placed:
    """What `make` answers when it has written to a directory, with `index.html` and `report.json` beside its files.

    Without a `path` there is no directory, and nothing is written.
    """
    if path is None:
        return make(None)
    style = Style(80, colour=False, unicode=True)
    with filling(path, force) as temporary:
        made = make(temporary)
        page = RENDERERS["html"].render(made.at(temporary).report(), style)  # which embeds the pictures
        (temporary / "index.html").write_text(page, encoding="utf-8")
        result = made.at(path)
        text = RENDERERS["json"].render(result.report(), style)
        (temporary / "report.json").write_text(text, encoding="utf-8")
    return result


def _unwritable(path: Path, error: Exception) -> BadInput:
    reason = getattr(error, "strerror", None) or error
    return BadInput(f"cannot write to {path}: {reason}", "choose another place with -o")
