"""Do the names of a weight file fit a model, and what would make them fit? Plans alone: nothing is read or written.

How to add a rule: see `repairs/draft.py`. A rule renames whole dotted segments and changes all names at once; a plan is
good only when every tensor of the result comes from the file exactly once and is what the reference expects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from modelprobe.checkpoint.branches import pick
from modelprobe.checkpoint.keys import rules as repairs  # noqa: F401 - enters the rules
from modelprobe.checkpoint.keys.draft import RULES, Applied, Draft, Dropped, Part, Stage, Trouble, Wishes
from modelprobe.checkpoint.keys.reference import Reference, Want, state_entries
from modelprobe.checkpoint.records import Branch, Checkpoint, TensorEntry
from modelprobe.errors import BadInput
from modelprobe.report.units import size

SPARE = 4096
"""Bytes of unseen storage below which a file is not worth compacting."""

__all__ = ["Applied", "Dropped", "KeyPlan", "Part", "Trouble", "Wishes", "chosen_branch", "plan_keys", "replan"]


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """What a repair would do. `parts` is the result in order; `branch` the place of the model in the file.

    `assumed` are groups of tensors whose assignment only their order settles; `proven` says that equal outputs of both
    networks settled it, `accepted` that a person did. `presumed` is what was taken for granted, in words.
    `excused` may be missing because somebody asked for it.
    """

    path: str
    branch: Branch
    reference: str
    parts: tuple[Part, ...]
    applied: tuple[Applied, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    missing: tuple[Want, ...] = ()
    unexpected: tuple[Part, ...] = ()
    misshapen: tuple[tuple[Part, Want], ...] = ()
    assumed: tuple[tuple[str, ...], ...] = ()
    presumed: tuple[str, ...] = ()
    excused: tuple[str, ...] = ()
    structural: bool = False
    proven: bool = False
    accepted: bool = False

    @property
    def complete(self) -> bool:
        """Whether the result has exactly what the reference expects; without one, whether nothing stands against it."""
        return not (self.troubles or self.missing or self.unexpected or self.misshapen)

    @property
    def certain(self) -> bool:
        """Whether no part of it rests on an assumption."""
        return not self.assumed or self.proven or self.accepted

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


def chosen_branch(found: Checkpoint, name: str | None) -> Branch:
    """The branch asked for, or the one that the reader chose. Raises BadInput where there is none."""
    branch = found.branch if name is None else pick(found, name)
    if branch is None and name is not None:
        known = ", ".join(branch.name or "." for branch in found.branches) or "none"
        raise BadInput(f"{found.path} has no tensors under {name}", f"branches of this file: {known}")
    if branch is None:
        raise BadInput(f"{found.path} holds no tensors", "`modelprobe summary` shows what it holds")
    return branch


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


def wasted(entries: Iterable[TensorEntry]) -> int:
    """Bytes of storages that none of these tensors shows: a slice is saved with the whole tensor it was cut from."""
    shown: dict[str, dict[tuple[object, ...], int]] = {}
    held: dict[str, int] = {}
    for entry in entries:
        if entry.storage and not entry.damaged:
            shown.setdefault(entry.storage, {})[(entry.offset, entry.shape, entry.strides)] = entry.nbytes
            held[entry.storage] = entry.storage_nbytes
    return sum(max(0, held[key] - sum(parts.values())) for key, parts in shown.items())


def plan_keys(
    found: Checkpoint, branch: Branch, reference: Reference | None = None, wishes: Wishes | None = None
) -> KeyPlan:
    """Try every rule in turn. With a reference they work towards its names; without one only the certain ones do."""
    wishes = wishes or Wishes()
    keys = {child.key for child in found.tree.children}
    if keys & {"pytorch-lightning_version", "lightning_version"}:
        wishes = replace(wishes, lightning=True)
    entries = entries_by_name(found, branch)
    parts = {n: Part(n, entry.shape, entry.dtype, (n,), role=entry.role) for n, entry in entries.items()}
    if not parts:
        raise BadInput(f"{found.path} has no tensors of a state_dict under {branch.name or 'the root'}")
    draft = _run(Draft(parts, reference, wishes))
    spare = wasted(entries.values())
    if spare >= SPARE:
        reason = f"{size(spare)} of storages that no tensor shows stay behind"
        draft.applied.append(Applied("compaction", reason, len(entries)))
    return _finished(draft, found.path, branch)


def replan(
    plan: KeyPlan, own: Reference, reference: Reference, wishes: Wishes, stages: Sequence[Stage] = tuple(Stage)
) -> KeyPlan:
    """Go on from a plan, whose names are those of the known network `own`, to another one's."""
    place = {want.name: index for index, want in enumerate(own.wants)}
    parts = sorted(plan.parts, key=lambda part: place.get(part.name, len(place)))
    draft = Draft({part.name: part for part in parts}, reference, replace(wishes, prefix="", drop=()), own)
    draft.applied += plan.applied
    draft.presumed += plan.presumed
    draft.dropped += plan.dropped
    return _finished(_run(draft, stages), plan.path, plan.branch)


def _run(draft: Draft, stages: Sequence[Stage] = tuple(Stage)) -> Draft:
    for stage, function in sorted(RULES.values(), key=lambda entry: entry[0]):
        if stage in stages:
            function(draft)
    return draft


def _finished(draft: Draft, path: str, branch: Branch) -> KeyPlan:
    """The draft as a plan. That each tensor of the file is used once, or cut up by all who use it, is checked here."""
    _check_bijection(draft)
    order = _file_order(draft)
    return KeyPlan(
        path=path,
        branch=branch,
        reference=draft.reference.label if draft.reference else "",
        parts=order,
        applied=tuple(draft.applied),
        dropped=tuple(draft.dropped),
        troubles=tuple(draft.troubles),
        missing=tuple(draft.missing()),
        unexpected=tuple(draft.unexpected()),
        misshapen=tuple(draft.misshapen()),
        assumed=tuple(draft.assumed),
        presumed=tuple(draft.presumed),
        excused=tuple(sorted(draft.excused)),
        structural=draft.structural,
        accepted=draft.wishes.unproven,
    )


def _file_order(draft: Draft) -> tuple[Part, ...]:
    return tuple(draft.parts.values())


def _check_bijection(draft: Draft) -> None:
    """No tensor of the file may be in two tensors of the result, unless as different thirds of it or tied to itself."""
    tied = {want.name for want in draft.wants.values() if want.same} | {w.same for w in draft.wants.values() if w.same}
    used: dict[tuple[str, tuple[object, ...]], str] = {}
    for part in draft.parts.values():
        cut = tuple(step for step in part.steps if step.op == "third")
        for source in part.sources:
            first = used.setdefault((source, cut), part.name)
            if first != part.name and not {first, part.name} <= tied:
                raise AssertionError(f"{source} would become {first} and {part.name}")
    lost = {dropped.name for dropped in draft.dropped} & {source for source, _ in used}
    if lost:
        raise AssertionError(f"{min(lost)} is both kept and left out")
