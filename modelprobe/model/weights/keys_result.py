"""Which tensors of a weight file match a model, why the others do not, and the command that repairs the file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelprobe.checkpoint.keys.draft import AppliedRule, DroppedTensor, Part, Problem
from modelprobe.checkpoint.keys.plan import KeyPlan, entries_by_name
from modelprobe.checkpoint.keys.reference import ExpectedTensor
from modelprobe.checkpoint.records import TensorEntry
from modelprobe.model.weights.load import Fit, refusals
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, shape

if TYPE_CHECKING:
    from modelprobe.model.weights.equivalence import OutputComparison  # which imports torch
    from modelprobe.model.weights.ways_out import WayOut

MISSING, UNEXPECTED, SHAPE, DTYPE = "missing", "unexpected", "other shape", "other dtype"
BECAUSE = {
    "position embedding resized": "a position embedding of another grid",
    "first convolution adapted": "a first convolution of other channels",
    "query, key and value fused": "query, key and value are separate in the file",
    "query, key and value split": "query, key and value are one tensor in the file",
    "tied tensor": "tied to another tensor; the file keeps it once",
    "batch counters added": "num_batches_tracked is absent",
    "buffer computed by the model": "a buffer that the model recomputes",
    "names of another library": "another library's name for the same layer",
    "parametrization respelled": "weight norm or spectral norm under its other names",
    "pruning mask": "pruned: weight and mask are separate",
    "floating-point type": "another floating-point type",
}
"""What a conversion says about the file. Rules that only rename speak for themselves."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """A tensor that does not fit as it is. `expected` and `found` are shapes or dtypes in words; `reason` says why."""

    kind: str
    name: str
    expected: str
    found: str
    reason: str


@dataclass(frozen=True, slots=True)
class KeysResult(Result):
    """How the names of a file compare with what is expected. Without a reference `fits` is None.

    `repairable` tells whether `command` would make it fit. `refusals` say why not, `ways` are commands that would.
    `allowed_missing` are tensors that were not asked for (`--drop`), `untied` tensors that the reference ties and the
    file holds with different values, in words.
    """

    path: str
    format: str
    branch: str
    branch_rule: str
    alternatives: tuple[str, ...]
    reference: str
    tensors: int
    expected: int
    matched: int
    misfits: tuple[Misfit, ...]
    applied: tuple[AppliedRule, ...]
    dropped: tuple[DroppedTensor, ...]
    problems: tuple[Problem, ...]
    refusals: tuple[tuple[str, str], ...]
    assumed: tuple[str, ...]
    fits: bool | None
    repairable: bool
    command: str
    equivalence: OutputComparison | None
    all_rows: bool
    ways: tuple[WayOut, ...] = ()
    allowed_missing: tuple[str, ...] = ()
    untied: tuple[str, ...] = ()

    def count(self, kind: str) -> int:
        """How many misfits are of a kind."""
        return sum(1 for misfit in self.misfits if misfit.kind == kind)

    def report(self) -> Report:
        """Counts, the misfits by reason, the rules that a repair would apply, and the command."""
        blocks: list[Block] = [Facts(_keys_facts(self))]
        blocks += [table for table in (_misfits(self), rules_table(self.applied)) if table.rows]
        title = f"{self.path} for {self.reference}" if self.reference else f"Names in {self.path}"
        return Report(title, "modelprobe.keys/2", (*blocks, *_keys_notes(self)), self.to_dict())


def compare_keys(
    fitted: Fit, asked: Sequence[str] = (), all_rows: bool = False, ways: tuple[WayOut, ...] = ()
) -> KeysResult:
    """Compare the names as they are, with the reasons that the plan of a repair gives. `asked` is for the command,
    `ways` are commands that were tried where the plan is refused.
    """
    plan, found = fitted.plan, fitted.found
    entries = entries_by_name(found, plan.branch)
    expected = fitted.reference.by_name if fitted.reference else {}
    misfits = _find_misfits(plan, entries, expected) if fitted.reference else ()
    matched = sum(1 for name, want in expected.items() if name in entries and entries[name].shape == want.shape)
    named = {name for problem in plan.problems for name in problem.names}
    standing = any(misfit.kind != DTYPE or misfit.name in named for misfit in misfits)
    stopped = tuple(refusals(fitted))
    changes = bool(plan.applied or plan.dropped)
    return KeysResult(
        path=found.path, format=found.format, branch=plan.branch.name, branch_rule=plan.branch.rule,
        alternatives=tuple(other.name or "." for other in found.branches if other.path != plan.branch.path),
        reference=plan.reference, tensors=len(entries), expected=len(expected), matched=matched, misfits=misfits,
        applied=plan.applied, dropped=plan.dropped, problems=plan.problems, refusals=stopped, assumed=plan.assumed,
        fits=not standing if fitted.reference else None, repairable=changes and not stopped,
        command=repair_command(found.path, plan, asked) if changes and not stopped else "",
        equivalence=fitted.equivalence, all_rows=all_rows, ways=ways, allowed_missing=plan.allowed_missing,
        untied=plan.untied,
    )  # fmt: skip


def repair_command(path: str, plan: KeyPlan, asked: Sequence[str], output: Sequence[str] = ()) -> str:
    """The command line that carries a plan out, or that checks it where the file needs no change.

    `output` are the options for the new file, where a person gave them.
    """
    if not plan.changes:
        return shlex.join(["modelprobe", "keys", path, "--arch", plan.reference, *asked])
    stem = path.rpartition("/")[2].rpartition(".")
    out = f"{stem[0] or stem[2]}.repaired.{stem[2] if stem[0] and stem[2] in ('safetensors', 'pt', 'pth') else 'pt'}"
    given = ["--arch", plan.reference] if plan.reference else []
    return shlex.join(["modelprobe", "repair", path, *given, *asked, *(output or ("-o", out))])


def _find_misfits(
    plan: KeyPlan, entries: dict[str, TensorEntry], expected: dict[str, ExpectedTensor]
) -> tuple[Misfit, ...]:
    made = {part.name: part for part in plan.parts}
    used = {source: part for part in plan.parts for source in part.sources}
    left = {dropped.name: dropped.reason for dropped in plan.dropped}
    said = {name: problem.text for problem in plan.problems for name in problem.names}
    found = []
    for want in expected.values():
        entry = entries.get(want.name)
        if entry is None and want.name in plan.allowed_missing:
            continue
        if entry is None:
            part = made.get(want.name)
            reason = said.get(want.name) or _by(part) or "not in the file"
            there = entries[part.sources[0]].shape if part is not None and len(part.sources) == 1 else None
            found.append(
                Misfit(MISSING, want.name, shape(want.shape), shape(there) if there is not None else "", reason)
            )
        elif entry.shape != want.shape:
            reason = said.get(want.name) or _by(made.get(want.name)) or "unrelated shapes"
            found.append(Misfit(SHAPE, want.name, shape(want.shape), shape(entry.shape), reason))
        elif entry.dtype != want.dtype:
            found.append(Misfit(DTYPE, want.name, want.dtype, entry.dtype, said.get(want.name, "converted on load")))
    for name, entry in entries.items():
        if name not in expected:
            part = used.get(name)
            became = _by(part) if part is not None and part.name in expected else ""
            reason = left.get(name) or became or said.get(name) or "not expected"
            found.append(Misfit(UNEXPECTED, name, "", shape(entry.shape), reason))
    return tuple(found)


def _by(part: Part | None) -> str:
    """The rules that made a part, in words; empty without any."""
    if part is None:
        return ""
    rules = list(dict.fromkeys(part.rules))
    said = [BECAUSE[rule] for rule in rules if rule in BECAUSE]
    names = [rule for rule in rules if rule not in BECAUSE]
    return "; ".join([*said, *([f"another name: {', '.join(names)}"] if names else [])])


def _keys_facts(result: KeysResult) -> tuple[Fact, ...]:
    facts = [Fact("Format", result.format), Fact("Model", result.branch or "the root", detail=result.branch_rule)]
    if result.alternatives:
        facts.append(Fact("Other branches", ", ".join(result.alternatives[:6]), detail="see --branch"))
    facts.append(Fact("Tensors", result.tensors, Unit.COUNT, "in the file"))
    if result.fits is not None:
        facts.append(Fact("Expected", result.expected, Unit.COUNT, f"by {result.reference}"))
        facts.append(Fact("Matched", result.matched, Unit.COUNT, "the same name and shape"))
        for kind in (MISSING, UNEXPECTED, SHAPE, DTYPE):
            if result.count(kind):
                facts.append(Fact(kind.capitalize(), result.count(kind), Unit.COUNT))
        strict = f"strict=False: {len(result.allowed_missing):,} tensors not asked for"
        how = strict if result.allowed_missing else "strict=True"
        facts.append(Fact("Fits", result.fits, Unit.YESNO, f"load_state_dict({how})", Tone.of(result.fits)))
    if result.equivalence is not None:
        facts.append(Fact("Outputs", difference(result.equivalence), detail="random weights, float64"))
    return tuple(facts)


def difference(found: OutputComparison) -> str:
    """What a comparison of outputs gave, in words."""
    if found.reason:
        return f"not compared with {found.source}: {found.reason}"
    if not found.difference:
        return f"{found.source} and {found.target} compute the same, bit for bit"
    return f"{found.source} and {found.target} differ by {found.difference:.3g} (relative {found.relative:.3g})"


def _misfits(result: KeysResult) -> Table:
    columns = (
        Column("kind", "What", wrap=True),
        Column("count", "Tensors", Unit.COUNT),
        Column("name", "Example"),
        Column("expected", "Expected", priority=2),
        Column("found", "In file", priority=2),
        Column("reason", "Reason", wrap=True),
    )
    groups: dict[tuple[str, str], list[Misfit]] = {}
    for index, misfit in enumerate(result.misfits):
        key = (misfit.kind, f"{misfit.reason}{index}") if result.all_rows else (misfit.kind, misfit.reason)
        groups.setdefault(key, []).append(misfit)
    rows = []
    for held in groups.values():
        first = held[0]
        rows.append(Row((first.kind, len(held), first.name, first.expected, first.found, first.reason)))
    return Table(columns, tuple(rows), "Mismatches", key="misfits")


def rules_table(applied: Sequence[AppliedRule]) -> Table:
    """The rules of a plan with an example each."""
    columns = (
        Column("rule", "Rule"),
        Column("tensors", "Tensors", Unit.COUNT),
        Column("before", "Before", wrap=True),
        Column("after", "After", wrap=True),
        Column("reason", "Why", priority=1, wrap=True),
    )
    rows = []
    for rule in applied:
        before, after = rule.examples[0] if rule.examples else ("", "")
        rows.append(Row((rule.rule, rule.tensors, before, after or ("left out" if before else ""), rule.reason)))
    return Table(columns, tuple(rows), "Changes", key="rules")


def _keys_notes(result: KeysResult) -> list[Note]:
    notes = []
    if result.command:
        notes.append(Note(f"To repair it: {result.command}"))
    notes += [Note(f"{text}.", Level.ASSUMED) for text in result.assumed]
    notes += [Note(f"{text}.", Level.WARNING) for text in result.untied]
    if not result.reference:
        notes.append(Note("Nothing to compare with: name a model or a file with --arch."))
    if result.fits:
        return notes
    for text, hint in result.refusals:
        notes.append(Note(sentences(text, "" if hint.startswith("`modelprobe keys") else hint), Level.WARNING))
    notes += [Note(f"To load what fits: {way.command} ({way.text}).") for way in result.ways]
    return notes


def sentences(*texts: str) -> str:
    """Texts as they stand in errors, as sentences."""
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in texts if text)
