"""The result of a conversion: what was kept, what changed, and what is not in the new file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelprobe.checkpoint.answers.summary_report import model_label
from modelprobe.checkpoint.write.convert import convert, merge_adapter
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

FORMAT_NAMES = {"safetensors": "safetensors", "pt": "torch zip"}
MAX_ENTRY_ROWS = 40


@dataclass(frozen=True, slots=True)
class EntryOutcome:
    """What became of one entry of the source: `kept`, `changed` or `dropped`, and why."""

    entry: str
    action: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Conversion(Result):
    """A conversion that was carried out. Sizes are bytes; `files` are all that were written, the index last."""

    source: str
    source_format: str
    source_size: int
    branch: str
    branch_kind: str
    rule: str
    path: str
    format: str
    size: int
    tensors: int
    files: tuple[str, ...]
    entries: tuple[EntryOutcome, ...]
    notes: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    @property
    def dropped(self) -> int:
        """How many entries of the source are not in the new file."""
        return sum(1 for action in self.entries if action.action == "dropped")

    def report(self) -> Report:
        """Source, target, the entries beside the model, and notes."""
        blocks: tuple[Block, ...] = (_conversion_facts(self), *_entries_table(self), *_conversion_notes(self))
        return Report(f"{self.source} -> {self.path}", "modelprobe.convert/2", blocks, self.to_dict())


def convert_weights(
    source: str, out: Path, *, format: str | None = None, branch: str | None = None, shard_size: int | None = None,
    force: bool = False, base: str | None = None,
) -> Conversion:  # fmt: skip
    """Convert, and tell what was done; with `base`, add the adapter `source` to it. Raises BadInput, and then nothing
    was written.
    """
    if base is None:
        done = convert(source, out, format=format, branch=branch, shard_size=shard_size, force=force)
    else:
        done = merge_adapter(source, base, out, format=format, branch=branch, shard_size=shard_size, force=force)
    entries = (
        *(EntryOutcome(key, "kept") for key in done.kept),
        *(EntryOutcome(text.partition(": ")[0], "changed", text.partition(": ")[2]) for text in done.changed),
        *(EntryOutcome(entry.path or "the root", "dropped", entry.why) for entry in done.dropped),
    )
    written = done.written
    return Conversion(
        source=done.source, source_format=done.source_format, source_size=done.source_size, branch=done.branch,
        branch_kind=done.branch_kind,
        rule=done.rule, path=str(written.path), format=done.format, size=written.bytes, tensors=written.tensors,
        files=tuple(map(str, written.files)), entries=entries, notes=written.notes,
        damaged=done.damaged,
    )  # fmt: skip


def _conversion_facts(result: Conversion) -> Facts:
    return Facts(
        (
            Fact("Read", result.source_format, detail=result.source),
            Fact("Size", result.source_size, Unit.BYTES),
            Fact(model_label(result.branch_kind), result.branch or "the root", detail=result.rule),
            Fact("Written", FORMAT_NAMES[result.format], detail=result.path),
            Fact("Tensors", result.tensors, Unit.COUNT, "read back and compared"),
            Fact("New size", result.size, Unit.BYTES, f"{len(result.files)} files" if len(result.files) > 1 else ""),
        )
    )


def _entries_table(result: Conversion) -> list[Table]:
    columns = (Column("entry", "Entry"), Column("action", "Action"), Column("why", "Reason", wrap=True))
    shown = sorted(result.entries, key=lambda action: ("dropped", "changed", "kept").index(action.action))[
        :MAX_ENTRY_ROWS
    ]
    rows = tuple(Row((action.entry, action.action, action.why), quiet=action.action == "kept") for action in shown)
    return [Table(columns, rows, "Entries", key="entries")] if rows else []


def damage_notes(damaged: tuple[str, ...]) -> list[Note]:
    """That a file was written with values that had been changed or damaged before."""
    if not damaged:
        return []
    more = f" ({len(damaged) - 1:,} more)" if len(damaged) > 1 else ""
    text = f"{damaged[0]}{more}; it was written as it is. modelprobe summary FILE --verify names all."
    return [Note(text, Level.WARNING)]


def _conversion_notes(result: Conversion) -> list[Note]:
    notes = [Note(f"{text}.") for text in result.notes] + damage_notes(result.damaged)
    if result.dropped:
        many = "1 entry is" if result.dropped == 1 else f"{result.dropped:,} entries are"
        notes.append(Note(f"{many} not in the new file; the source is unchanged.", Level.WARNING))
    if len(result.entries) > MAX_ENTRY_ROWS:
        notes.append(Note(f"{len(result.entries) - MAX_ENTRY_ROWS:,} more entries are not shown; -f json lists all."))
    return notes
