"""What became of a checkpoint that was written in another format: what was kept, what changed, what stayed behind?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelprobe.checkpoint.write.convert import convert
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

NAMES = {"safetensors": "safetensors", "pt": "torch zip"}
MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one entry of the source: `kept`, `changed` or `dropped`, and why."""

    entry: str
    fate: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Conversion(Result):
    """A conversion that was carried out. Sizes are bytes; `files` are all that were written, the index last."""

    source: str
    source_format: str
    source_size: int
    branch: str
    rule: str
    path: str
    format: str
    size: int
    tensors: int
    files: tuple[str, ...]
    fates: tuple[Fate, ...]
    notes: tuple[str, ...]

    @property
    def dropped(self) -> int:
        """How many entries of the source are not in the new file."""
        return sum(1 for fate in self.fates if fate.fate == "dropped")

    def report(self) -> Report:
        """Source, target, the entries beside the model, and notes."""
        return Report(
            f"{self.source} -> {self.path}", "modelprobe.convert/1", (_facts(self), *_table(self), *_notes(self)),
            self.to_dict(),
        )  # fmt: skip


def convert_weights(
    source: str, out: Path, *, format: str | None = None, branch: str | None = None, shard_size: int | None = None,
    force: bool = False,
) -> Conversion:  # fmt: skip
    """Convert, and tell what was done. Raises BadInput, and then nothing was written."""
    done = convert(source, out, format=format, branch=branch, shard_size=shard_size, force=force)
    fates = (
        *(Fate(key, "kept") for key in done.kept),
        *(Fate(text.partition(": ")[0], "changed", text.partition(": ")[2]) for text in done.changed),
        *(Fate(entry.path or "the root", "dropped", entry.why) for entry in done.dropped),
    )
    written = done.written
    return Conversion(
        source=done.source, source_format=done.source_format, source_size=done.source_size, branch=done.branch,
        rule=done.rule, path=str(written.path), format=done.format, size=written.bytes, tensors=written.tensors,
        files=tuple(map(str, written.files)), fates=fates, notes=written.notes,
    )  # fmt: skip


def _facts(result: Conversion) -> Facts:
    return Facts(
        (
            Fact("Read", result.source_format, detail=result.source),
            Fact("Size", result.source_size, Unit.BYTES),
            Fact("Model", result.branch or "the root", detail=result.rule),
            Fact("Written", NAMES[result.format], detail=result.path),
            Fact("Tensors", result.tensors, Unit.COUNT, "read back and compared"),
            Fact("New size", result.size, Unit.BYTES, f"{len(result.files)} files" if len(result.files) > 1 else ""),
        )
    )


def _table(result: Conversion) -> list[Table]:
    columns = (Column("entry", "Entry"), Column("fate", "Fate"), Column("why", "Why", wrap=True))
    shown = sorted(result.fates, key=lambda fate: ("dropped", "changed", "kept").index(fate.fate))[:MOST_ROWS]
    rows = tuple(Row((fate.entry, fate.fate, fate.why), quiet=fate.fate == "kept") for fate in shown)
    return [Table(columns, rows, "What became of the entries", key="entries")] if rows else []


def _notes(result: Conversion) -> list[Note]:
    notes = [Note(f"{text}.") for text in result.notes]
    if result.dropped:
        many = "1 entry is" if result.dropped == 1 else f"{result.dropped:,} entries are"
        notes.append(Note(f"{many} not in the new file; the source is unchanged.", Level.WARNING))
    if len(result.fates) > MOST_ROWS:
        notes.append(Note(f"{len(result.fates) - MOST_ROWS:,} more entries are not shown; -f json has all."))
    return notes
