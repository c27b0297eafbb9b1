"""The plan that makes the names of a weight file fit a model; nothing is read or written.

A rule renames whole dotted segments and changes all names at once; a plan is good only when every tensor of the result
comes from the file exactly once and is what the reference expects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from modelprobe.checkpoint.adapters.lora import find_lora
from modelprobe.checkpoint.keys import rules as repairs  # noqa: F401 - enters the rules
from modelprobe.checkpoint.keys.draft import (
    KEY_RULES,
    AppliedRule,
    DroppedTensor,
    Part,
    PlanDraft,
    PlanOptions,
    Problem,
    RuleStage,
)
from modelprobe.checkpoint.keys.reference import Expectation, ExpectedTensor, state_entries
from modelprobe.checkpoint.records import Branch, Checkpoint, TensorEntry, wasted_bytes
from modelprobe.errors import BadInput
from modelprobe.report.units import size

SPARE = 4096
"""Bytes of unseen storage below which a file is not worth compacting."""


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What a repair would do. `parts` is the result in order; `branch` the place of the model in the file.

    `by_order` are groups of tensors whose assignment only their order settles, `doubts` in words what else is not
    certain; `proven` says that equal outputs of both networks settled it, `accepted` that a person did. `assumed` is
    what was taken for granted, in words. `allowed_missing` may be missing because somebody asked for it.
    """

    path: str
    branch: Branch
    reference: str
    parts: tuple[Part, ...]
    applied: tuple[AppliedRule, ...] = ()
    dropped: tuple[DroppedTensor, ...] = ()
    problems: tuple[Problem, ...] = ()
    missing: tuple[ExpectedTensor, ...] = ()
    unexpected: tuple[Part, ...] = ()
    misshapen: tuple[tuple[Part, ExpectedTensor], ...] = ()
    by_order: tuple[tuple[str, ...], ...] = ()
    doubts: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    allowed_missing: tuple[str, ...] = ()
    structural: bool = False
    proven: bool = False
    accepted: bool = False
    untied: tuple[str, ...] = ()
    """Tensors that the reference ties and the file holds with different values, in words."""

    @property
    def complete(self) -> bool:
        """Whether the result has exactly what the reference expects; without one, whether nothing stands against it."""
        return not (self.problems or self.missing or self.unexpected or self.misshapen)

    @property
    def certain(self) -> bool:
        """Whether no part of it rests on what must be proven or asked for."""
        return not (self.by_order or self.doubts) or self.proven or self.accepted

    @property
    def good(self) -> bool:
        """Whether it may be carried out."""
        return self.complete and self.certain

    @property
    def changes(self) -> bool:
        """Whether it would change anything."""
        return bool(self.applied or self.dropped)

    @property
    def renames(self) -> dict[str, str]:
        """Old name to new name, for every tensor that is a single one of the file."""
        return {part.sources[0]: part.name for part in self.parts if len(part.sources) == 1}


def entries_by_name(found: Checkpoint, branch: Branch) -> dict[str, TensorEntry]:
    """The tensors of a branch under the names that its state_dict gives them.

    A safetensors file keeps tied tensors once and may record the other names in its metadata.
    """
    entries = {".".join(entry.path[len(branch.path) :]): entry for entry in state_entries(found, branch)}
    if "safetensors" in found.format and not branch.path:
        for name, first in found.metadata.items():
            if isinstance(first, str) and first in entries:
                entries.setdefault(name, entries[first])
    return entries


def plan_keys(
    found: Checkpoint, branch: Branch, reference: Expectation | None = None, options: PlanOptions | None = None
) -> KeyPlan:
    """Try every rule in turn. With a reference they work towards its names; without one only the certain ones do."""
    options = replace(options or PlanOptions(), path=found.path, lora=find_lora(found))
    keys = {child.key for child in found.tree.children}
    if keys & {"pytorch-lightning_version", "lightning_version"}:
        options = replace(options, lightning=True)
    entries = entries_by_name(found, branch)
    parts = {n: Part(n, entry.shape, entry.dtype, (n,), role=entry.role) for n, entry in entries.items()}
    if not parts:
        raise BadInput(f"{found.path} has no tensors of a state_dict under {branch.name or 'the root'}")
    draft = _run_rules(PlanDraft(parts, reference, options))
    spare = wasted_bytes(entries.values())
    if spare >= SPARE:
        reason = f"{size(spare)} of storages that no tensor uses are left out"
        draft.applied.append(AppliedRule("compaction", reason, len(entries)))
    return _finished(draft, found.path, branch)


def replan(
    plan: KeyPlan,
    own: Expectation,
    reference: Expectation,
    options: PlanOptions,
    stages: Sequence[RuleStage] = tuple(RuleStage),
) -> KeyPlan:
    """Go on from a plan, whose names are those of the known network `own`, to another one's."""
    place = {want.name: index for index, want in enumerate(own.expected)}
    parts = sorted(plan.parts, key=lambda part: place.get(part.name, len(place)))
    draft = PlanDraft({part.name: part for part in parts}, reference, replace(options, prefix="", drop=()), own)
    draft.applied += plan.applied
    draft.assumed += plan.assumed
    draft.dropped += plan.dropped
    return _finished(_run_rules(draft, stages), plan.path, plan.branch)


def _run_rules(draft: PlanDraft, stages: Sequence[RuleStage] = tuple(RuleStage)) -> PlanDraft:
    for stage, function in sorted(KEY_RULES.values(), key=lambda entry: entry[0]):
        if stage in stages:
            function(draft)
    return draft


def _finished(draft: PlanDraft, path: str, branch: Branch) -> KeyPlan:
    """The draft as a plan. That each tensor of the file is used once, or cut up by all who use it, is checked here."""
    _check_bijection(draft)
    order = _file_order(draft)
    return KeyPlan(
        path=path, branch=branch, reference=draft.reference.label if draft.reference else "", parts=order,
        applied=tuple(draft.applied), dropped=tuple(draft.dropped), problems=tuple(draft.problems),
        missing=tuple(draft.missing()), unexpected=tuple(draft.unexpected()), misshapen=tuple(draft.misshapen()),
        by_order=tuple(draft.by_order), doubts=tuple(draft.doubts),
        assumed=(*draft.assumed, *(draft.doubts if draft.options.unproven else ())),
        allowed_missing=tuple(sorted(draft.allowed_missing)), structural=draft.structural,
        accepted=draft.options.unproven,
    )  # fmt: skip


def _file_order(draft: PlanDraft) -> tuple[Part, ...]:
    return tuple(draft.parts.values())


def _check_bijection(draft: PlanDraft) -> None:
    """No tensor of the file may be in two tensors of the result, unless as different thirds of it or tied to itself."""
    tied = {want.name for want in draft.expected.values() if want.same} | {
        w.same for w in draft.expected.values() if w.same
    }
    used: dict[tuple[str, tuple[object, ...]], str] = {}
    for part in draft.parts.values():
        cut = tuple(step for step in part.steps if step.op in ("third", "rows"))
        for source in part.sources:
            first = used.setdefault((source, cut), part.name)
            if first != part.name and not {first, part.name} <= tied:
                raise AssertionError(f"{source} would become {first} and {part.name}")
    lost = {dropped.name for dropped in draft.dropped} & {source for source, _ in used}
    if lost:
        raise AssertionError(f"{min(lost)} is both kept and left out")
