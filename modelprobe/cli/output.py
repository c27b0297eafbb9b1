"""Where a report goes and in which format: stdout, or a file in the format that its suffix means."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

from modelprobe.checkpoint.file_names import SAVE_FORMATS
from modelprobe.console import columns, is_quiet, say, style_of, write_text
from modelprobe.errors import BadInput, Incomplete
from modelprobe.files.atomic import atomic_write, check_target
from modelprobe.report.blocks import Level, Note, Report
from modelprobe.report.formats import RENDERERS, Renderer, Style

if TYPE_CHECKING:
    from modelprobe.cost.traces.stored import StoredRun


def emit(
    report: Report,
    format: str | None = None,
    path: Path | None = None,
    *,
    force: bool = False,
    strict: bool = False,
    stored: StoredRun | None = None,
) -> None:
    """Write `report` to stdout, or to the file `path`, in the format asked for or that the file's suffix means.

    Raises BadInput for an unknown format or an unusable path, and under `strict` Incomplete (after the report is
    out) when a note stands against the answer. `stored` is the run that all of it is of.
    """
    renderer, text = choose(format, path), ""
    if path is None:
        shown = without_information(report) if renderer.name == "terminal" and is_quiet() else report
        text = renderer.render(shown, style_of(sys.stdout))
        write_text(sys.stdout, text)
    else:
        style = Style(columns(), colour=False, unicode=True)
        atomic_write(path, renderer.render(report, style), force=force)
        say(f"wrote {path}", always=False)
    if renderer.name in ("csv", "jsonl"):  # which have no place for them
        for note in report.notes:
            say(f"{_label(note.level)}: {note.text}", always=note.level is not Level.INFO)
    if strict:
        refuse_if_incomplete(report)
    if stored is not None and path is None and renderer.name not in ("csv", "jsonl"):
        from modelprobe.cli.answers import keep_text

        keep_text(text, stored)


def without_information(report: Report) -> Report:
    """The report without notes that only inform; what was assumed, and warnings, stay."""
    kept = (block for block in report.blocks if not isinstance(block, Note) or block.level is not Level.INFO)
    return replace(report, blocks=tuple(kept))


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
        check_target(path, force=force)
    choose(format, path)


def refuse_if_incomplete(report: Report) -> None:
    """Raise Incomplete when any note is more than information: what `--strict` means."""
    against = [note for note in report.notes if note.level is not Level.INFO]
    if against:
        many = "1 note stands" if len(against) == 1 else f"{len(against)} notes stand"
        raise Incomplete(f"{many} against this answer; the first: {against[0].text}", "without --strict this passes")


def _label(level: Level) -> str:
    return "note" if level is Level.INFO else level.value


def complete_format(incomplete: str) -> list[str]:
    """The report formats that begin so, for the shell's completion."""
    return [name for name in RENDERERS if name.startswith(incomplete)]


def known_format(value: Optional[str]) -> Optional[str]:  # noqa: UP045 - Typer reads it at run time
    """The callback of every option that names a report format: refuses an unknown one before anything is done."""
    if value in SAVE_FORMATS:  # what --format of `repair` and `convert` took in earlier releases
        raise BadInput(f"{value} is no format of reports", f"--to {value} chooses the format of a weight file")
    return choose(value, None).name if value is not None else None
