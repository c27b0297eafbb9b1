"""The result of a repair, planned or carried out: the plan, the checks that it loads, the file written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelprobe.checkpoint.answers.convert import damage_notes
from modelprobe.checkpoint.file_names import format_of
from modelprobe.checkpoint.keys.draft import AppliedRule, DroppedTensor
from modelprobe.checkpoint.keys.plan import KeyPlan
from modelprobe.checkpoint.keys.rewrite import Rewritten, rewrite
from modelprobe.checkpoint.values.checksums import damaged_parts
from modelprobe.errors import CheckFailed
from modelprobe.model.weights.keys_result import difference, rules_table, sentences
from modelprobe.model.weights.load import Fit, computed_by, load_strictly, refusals
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

if TYPE_CHECKING:
    from modelprobe.model.weights.equivalence import OutputComparison  # which imports torch
    from modelprobe.model.weights.ways_out import WayOut


MAX_LEFT = 6
"""Notes about what is not in the new file."""


@dataclass(frozen=True, slots=True)
class Rename:
    """One tensor of the result: what it was called or made of, what it is called, and by which rules."""

    before: str
    after: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RepairResult(Result):
    """A repair, planned or carried out (`path` is then the new file).

    `loaded` tells that the result went into a build of the target with strict=True before it was written.
    `equivalence` is the comparison of both networks with random weights, `outputs` the one with the file's own.
    """

    source: str
    branch: str
    branch_rule: str
    alternatives: tuple[str, ...]
    reference: str
    tensors: int
    renames: tuple[Rename, ...]
    applied: tuple[AppliedRule, ...]
    dropped: tuple[DroppedTensor, ...]
    allowed_missing: tuple[str, ...]
    refusals: tuple[tuple[str, str], ...]
    assumed: tuple[str, ...]
    by_order: int
    equivalence: OutputComparison | None
    outputs: OutputComparison | None
    loaded: bool
    path: str
    size: int
    kept: tuple[str, ...]
    left: tuple[str, ...]
    notes: tuple[str, ...]
    all_rows: bool
    ways: tuple[WayOut, ...] = ()
    damaged: tuple[str, ...] = ()
    untied: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """Whether there is anything to repair."""
        return bool(self.applied or self.dropped)

    def report(self) -> Report:
        """The plan by rule and by tensor, what is left out, the proofs, and notes."""
        blocks: list[Block] = [Facts(_repair_facts(self))]
        tables = (rules_table(self.applied), _renames(self), _dropped(self))
        blocks += [table for table in tables if table.rows]
        title = f"{self.source} -> {self.path}" if self.path else f"Repair of {self.source}"
        return Report(title, "modelprobe.repair/2", (*blocks, *_repair_notes(self)), self.to_dict())


def repair(
    fitted: Fit,
    out: Path | None = None,
    format: str | None = None,
    *,
    keep_others: bool = True,
    allow_infinite: bool = False,
    all_rows: bool = False,
    force: bool = False,
    ways: tuple[WayOut, ...] = (),
) -> RepairResult:
    """The plan and, with `out`, the file. Raises CheckFailed when there is nothing to repair or the plan is not good.

    Before anything is written the result is loaded into a build of the target, strict=True.
    """
    if out is None:
        return _repair_result(fitted, all_rows=all_rows, ways=ways)
    target_format = format_of(out, format)
    _refuse(fitted, ways)
    model = load_strictly(fitted.target, fitted.plan, fitted.found) if fitted.target is not None else None
    done = rewrite(
        fitted.found, fitted.plan, out, target_format,
        model=computed_by(fitted.target.build("cpu").module) if fitted.target is not None else None,
        versions=fitted.reference.versions if fitted.reference else None, keep_others=keep_others,
        allow_infinite=allow_infinite, force=force,
    )  # fmt: skip
    outputs = None
    if model is not None and fitted.target and fitted.origin and fitted.first:
        from modelprobe.model.weights.equivalence import compare_outputs

        first = load_strictly(fitted.origin, fitted.first, fitted.found)
        outputs = compare_outputs(first, model, fitted.origin, fitted.target, fitted.inputs)
    return _repair_result(fitted, done, outputs, model is not None, all_rows)


def _refuse(fitted: Fit, ways: tuple[WayOut, ...]) -> None:
    """Raise CheckFailed where the plan is not good, or changes nothing."""
    path, stopped = fitted.found.path, refusals(fitted)
    if stopped:
        hint = f"{ways[0].command} works: {ways[0].text}" if ways else stopped[0][1]
        raise CheckFailed(f"{path} is not repaired: {stopped[0][0]}", hint)
    if not fitted.plan.changes:
        raise CheckFailed(f"there is nothing to repair in {path}", "no file was written; `modelprobe convert` copies")


def _repair_result(
    fitted: Fit,
    done: Rewritten | None = None,
    outputs: OutputComparison | None = None,
    loaded: bool = False,
    all_rows: bool = False,
    ways: tuple[WayOut, ...] = (),
) -> RepairResult:
    plan = fitted.plan
    changed = [part for part in plan.parts if part.rules]
    others = [other for other in fitted.found.branches if other.path != plan.branch.path]
    return RepairResult(
        source=fitted.found.path, branch=plan.branch.name, branch_rule=plan.branch.rule,
        alternatives=tuple(other.name or "." for other in others), reference=plan.reference, tensors=len(plan.parts),
        renames=tuple(Rename(" + ".join(p.sources), p.name, tuple(dict.fromkeys(p.rules))) for p in changed),
        applied=plan.applied, dropped=plan.dropped, allowed_missing=plan.allowed_missing,
        refusals=tuple(refusals(fitted)), assumed=plan.assumed,
        by_order=0 if plan.proven else sum(len(group) for group in plan.by_order), equivalence=fitted.equivalence,
        outputs=outputs, loaded=loaded, path=str(done.written.path) if done else "",
        size=done.written.bytes if done else 0, kept=done.kept if done else (), left=_left_by_reason(done),
        notes=_writing_notes(plan, done), all_rows=all_rows, ways=ways,
        damaged=damaged_parts(fitted.found) if done else (), untied=plan.untied,
    )  # fmt: skip


def _left_by_reason(done: Rewritten | None) -> tuple[str, ...]:
    """What is not in the new file, by the reason."""
    reasons: dict[str, list[str]] = {}
    for entry in done.dropped if done else ():
        reasons.setdefault(entry.why, []).append(entry.path or "the root")
    return tuple(f"{', '.join(paths)} ({why})" for why, paths in reasons.items())


def _writing_notes(plan: KeyPlan, done: Rewritten | None) -> tuple[str, ...]:
    notes = list(done.written.notes) if done else []
    if done and done.overflowed:
        notes.append(f"{done.overflowed:,} values became infinite in the new type")
    if done and done.underflowed:
        notes.append(f"{done.underflowed:,} values became zero in the new type: they were too small for it")
    return tuple(notes)


def _repair_facts(result: RepairResult) -> tuple[Fact, ...]:
    facts = [Fact("Read", result.source), Fact("Model", result.branch or "the root", detail=result.branch_rule)]
    if result.alternatives:
        facts.append(Fact("Other branches", ", ".join(result.alternatives[:6]), detail="see --branch"))
    if result.reference:
        facts.append(Fact("For", result.reference))
    facts.append(Fact("Tensors", result.tensors, Unit.COUNT, f"{len(result.renames):,} of them renamed or converted"))
    if result.dropped:
        facts.append(Fact("Left out", len(result.dropped), Unit.COUNT))
    if result.equivalence is not None:
        facts.append(Fact("Outputs", difference(result.equivalence), detail="random weights, float64"))
    if result.loaded:
        without = (
            f", but for {len(result.allowed_missing):,} tensors left out on request" if result.allowed_missing else ""
        )
        facts.append(Fact("Loaded", True, Unit.YESNO, f"into {result.reference} with strict=True{without}"))
    if result.outputs is not None:
        facts.append(Fact("Outputs", difference(result.outputs), detail="the weights of the file"))
    if result.path:
        facts.append(Fact("Written", result.path, detail="read back and compared"))
        facts.append(Fact("Size", result.size, Unit.BYTES))
    return tuple(facts)


def _renames(result: RepairResult) -> Table:
    columns = (Column("before", "Before"), Column("after", "After"), Column("rules", "By", priority=1))
    shown = result.renames if result.all_rows else ()
    rows = tuple(Row((item.before or "nothing", item.after, ", ".join(item.rules))) for item in shown)
    return Table(columns, rows, "Tensors", key="renames")


def _dropped(result: RepairResult) -> Table:
    columns = (
        Column("name", "Example"),
        Column("tensors", "Tensors", Unit.COUNT),
        Column("reason", "Reason", wrap=True),
    )
    groups: dict[str, list[DroppedTensor]] = {}
    for index, item in enumerate(result.dropped):
        groups.setdefault(f"{index}" if result.all_rows else item.reason, []).append(item)
    rows = tuple(Row((held[0].name, len(held), held[0].reason)) for held in groups.values())
    return Table(columns, rows, "Left out", key="dropped")


def _repair_notes(result: RepairResult) -> list[Note]:
    notes = [Note(f"{text}.") for text in result.notes] + damage_notes(result.damaged)
    if result.renames and not result.all_rows:
        notes.append(Note("--all lists every tensor."))
    if result.kept:
        notes.append(Note(f"Kept beside the model as they are: {', '.join(result.kept)}."))
    if result.left:
        notes += [Note(f"Not in the new file: {text}. The source is unchanged.") for text in result.left[:MAX_LEFT]]
    if len(result.left) > MAX_LEFT:
        notes.append(Note(f"Not in the new file: {len(result.left) - MAX_LEFT:,} more entries; -f json lists all."))
    if result.by_order and not result.refusals:
        text = f"{result.by_order:,} tensors were assigned by their order alone; this is not verified."
        notes.append(Note(text, Level.WARNING))
    notes += [Note(f"{text}.", Level.WARNING) for text in result.untied]
    notes += [Note(f"{text}.", Level.ASSUMED) for text in result.assumed]
    notes += [Note(sentences(text, hint), Level.WARNING) for text, hint in result.refusals]
    notes += [Note(f"To load what fits: {way.command} ({way.text}).") for way in result.ways]
    if not result.changes and not result.refusals:
        notes.append(Note("Nothing to repair."))
    elif not result.path and not result.refusals:
        notes.append(Note("Nothing was written; -o FILE writes the repaired file."))
    return notes
