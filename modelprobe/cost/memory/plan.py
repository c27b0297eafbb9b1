"""`memory --plan`: changes that would make a run fit, each confirmed by recording the changed run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from modelprobe.console import working
from modelprobe.cost.memory.estimate import MemoryResult
from modelprobe.cost.memory.of_target import MemoryRequest, memory_of_target, memory_that_fits
from modelprobe.errors import BadInput, ProbeError
from modelprobe.model.build import LoadedModel, load_model, record
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, size
from modelprobe.tracing.records import ModuleTree, Trace, parents

CHEAPER_OPTIMIZERS = {
    "adam": ("sgd-momentum", "sgd"),
    "adamw": ("sgd-momentum", "sgd"),
    "rmsprop": ("sgd",),
    "adagrad": ("sgd",),
    "sgd-momentum": ("sgd",),
}
MAX_NAMED = 6
"""Modules that a note names one by one."""

CONTAINERS = ("Sequential", "ModuleList", "ModuleDict")
"""Classes that only hold others: blocks are what stands in them."""

CHECKPOINT_CALL = "torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)"


@dataclass(frozen=True, slots=True)
class PlanOption:
    """Changes made together. `needed_bytes` is what the changed run was recorded to need.

    `modules` are those that are checkpointed or frozen. `recomputed_macs` are MACs of forward passes that run again, in
    a step. `training_changes` says that the result of training is another one (other gradients or updates, not only
    other rounding).
    """

    changes: tuple[str, ...]
    modules: tuple[str, ...]
    needed_bytes: int
    saved_bytes: int
    recomputed_macs: int
    training_changes: bool
    fits: bool


@dataclass(frozen=True, slots=True)
class MemoryPlan(Result):
    """What would make a run fit into `limit_bytes`, cheapest first: least work repeated, training as it was."""

    model: str
    inputs: tuple[str, ...]
    limit_bytes: int
    needed_bytes: int
    fits: bool
    options: tuple[PlanOption, ...]
    unchanged: MemoryResult = field(repr=False)
    failed: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def _said(self) -> Iterator[Note]:
        if self.options:
            yield Note("Each row was recorded with its changes made.", Level.INFO)
        elif not self.fits:
            yield Note("Of the changes that were tried, none saves memory.", Level.INFO)
        told: set[str] = set()
        for one in self.options:
            for change in one.changes:
                if change.startswith("checkpoint") and change not in told:
                    yield Note(f"{change}: {_ends(one.modules)}, each as {CHECKPOINT_CALL}.", Level.INFO)
                elif change.startswith("--freeze") and change not in told:
                    pattern = f"--freeze '{','.join(one.modules)}'" if len(one.modules) <= MAX_NAMED else ""
                    yield Note(f"{change}: {pattern or f'{_ends(one.modules)}, in full in -f json'}.", Level.INFO)
                told.add(change)

    def report(self) -> Report:
        """The run as it is, and a row for each way."""
        columns = (
            Column("changes", "Changes"),
            Column("needed_bytes", "Needs", Unit.BYTES),
            Column("saved_bytes", "Saves", Unit.BYTES, priority=3),
            Column("recomputed_macs", "Recomputed", Unit.MACS, priority=1),
            Column("training_changes", "Other training", priority=2),
            Column("fits", "Fits"),
        )
        rows = tuple(
            Row((
                " + ".join(one.changes), one.needed_bytes, one.saved_bytes, one.recomputed_macs,
                "yes" if one.training_changes else "", "yes" if one.fits else "no",
            ))
            for one in self.options
        )  # fmt: skip
        facts = (
            Fact("Input", ", ".join(self.inputs) or "none"),
            Fact("Needs", self.needed_bytes, Unit.BYTES, "as it is"),
            Fact("Limit", self.limit_bytes, Unit.BYTES, "fits as it is" if self.fits else ""),
        )
        blocks: list[Facts | Table | Note] = [Facts(facts)]
        if rows:
            blocks.append(Table(columns, rows, "what would make it fit", key="option_rows"))
        return self.blocks_report(
            f"{self.model}: what would fit into {size(self.limit_bytes)}", "modelprobe.memory_plan/1", *blocks,
            *self._said(), *self.failed, *self.unchanged.notes,
        )  # fmt: skip


def _ends(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


@dataclass(frozen=True)
class _Change:
    """What is different: the request for the model, the request for its memory, MACs that run again."""

    words: tuple[str, ...]
    loaded: LoadedModel
    asked: MemoryRequest
    again: int = 0
    other: bool = False
    modules: tuple[str, ...] = ()


Needs = Callable[[_Change], PlanOption | None]
"""Records a changed run; None where it does not run."""


def memory_plan(loaded: LoadedModel, limit: int, asked: MemoryRequest) -> MemoryPlan:
    """Find changes that bring the run below `limit` bytes. Raises BadInput when the run itself cannot be recorded."""
    with working(f"looking for what fits into {size(limit)}") as said:
        unchanged = memory_of_target(loaded, asked)
        tried: list[PlanOption] = []
        failed: list[Note] = []

        def needs(change: _Change) -> PlanOption | None:
            said(f"trying {' + '.join(change.words)}")
            try:
                needed = memory_of_target(change.loaded, change.asked).needed_bytes
            except ProbeError as error:
                failed.append(Note(f"{' + '.join(change.words)} does not run: {error.message[:160]}", Level.INFO))
                return None
            return PlanOption(
                change.words,
                change.modules,
                needed,
                unchanged.needed_bytes - needed,
                change.again,
                change.other,
                needed <= limit,
            )

        if unchanged.needed_bytes > limit:
            tried.extend(filter(None, _changed_runs(loaded, limit, asked, needs)))
    worth = [one for one in tried if one.saved_bytes > 0]
    worth.sort(key=lambda one: (not one.fits, one.training_changes, one.recomputed_macs, one.needed_bytes))
    return MemoryPlan(
        loaded.target.name, unchanged.inputs, limit, unchanged.needed_bytes, unchanged.needed_bytes <= limit,
        tuple(worth), unchanged, tuple(failed), unchanged.env,
    )  # fmt: skip


def _changed_runs(loaded: LoadedModel, limit: int, asked: MemoryRequest, needs: Needs) -> Iterator[PlanOption | None]:
    start = _Change((), loaded, asked)
    half = _in_bfloat16(start)
    if half is not None:
        yield needs(half)
    if asked.train:
        if half is not None and not asked.amp:
            yield needs(replace(start, words=("--amp",), asked=replace(asked, amp=True)))
        for name in CHEAPER_OPTIMIZERS.get(asked.optimizer, ()):
            yield needs(_with_optimizer(start, name))
        blocks, trace = sibling_blocks(loaded.tree), record(loaded)
        if blocks:
            yield _fewest(lambda count: needs(_checkpointed(start, blocks, count, trace)), len(blocks))
        yield from _accumulated(start, needs)
        stages = _stages(loaded.tree, blocks, trace)
        if stages:
            yield _fewest(lambda count: needs(_frozen(start, stages, count)), len(stages))
        yield from _together(start, half, blocks, trace, needs)
    smaller = _smaller_batch(loaded, limit, asked)
    if smaller is not None:
        yield smaller


def _fewest(option: Callable[[int], PlanOption | None], most: int) -> PlanOption | None:
    """The option with the smallest count that fits, or that with `most`."""
    best = option(most)
    low, high = 0, most
    while best is not None and best.fits and high - low > 1:
        middle = (low + high) // 2
        found = option(middle)
        if found is not None and found.fits:
            best, high = found, middle
        else:
            low = middle
    return best


def _in_bfloat16(change: _Change) -> _Change | None:
    request = change.loaded.request
    if request.dtype is not None or not any(entry.dtype == "float32" for entry in change.loaded.tree.state):
        return None
    changed = load_model(replace(request, dtype="bfloat16"))
    return replace(change, words=(*change.words, "--dtype bfloat16"), loaded=changed)


def _with_optimizer(change: _Change, name: str) -> _Change:
    asked = replace(change.asked, optimizer=name)
    return replace(change, words=(*change.words, f"--optimizer {name}"), asked=asked, other=True)


def _checkpointed(change: _Change, blocks: Sequence[str], count: int, trace: Trace) -> _Change:
    first = tuple(blocks[:count])
    again = sum(
        op.macs for op in trace.ops if any(op.module == name or op.module.startswith(f"{name}.") for name in first)
    )
    words = (*change.words, f"checkpoint {count} of {len(blocks)} blocks")
    return replace(change, words=words, asked=replace(change.asked, checkpointed=first), again=again, modules=first)


def _accumulated(change: _Change, needs: Needs) -> Iterator[PlanOption | None]:
    batch = change.loaded.request.batch or 1
    for parts in (part for part in (2, 4, 8, 16, 32, 64) if batch % part == 0):
        request = replace(change.loaded.request, batch=batch // parts)
        changed = replace(change.loaded, request=request)
        words = (*change.words, f"--batch {batch // parts}, {parts} accumulated")
        found = needs(replace(change, words=words, loaded=changed, asked=replace(change.asked, accumulate=parts)))
        if found is None:  # batch norm does not train on one example
            return
        if found.fits or parts * 2 > batch:
            yield found
            return


def _frozen(change: _Change, stages: Sequence[str], count: int) -> _Change:
    first = tuple(stages[:count])
    asked = replace(change.asked, freeze=(*change.asked.freeze, *first))
    words = (*change.words, f"--freeze the first {count} of {len(stages) + 1} stages")
    return replace(change, words=words, asked=asked, other=True, modules=first)


def _together(
    change: _Change, half: _Change | None, blocks: Sequence[str], trace: Trace, needs: Needs
) -> Iterator[PlanOption | None]:
    """Changes on top of each other, from the one that changes least."""
    if half is None or not blocks:
        return
    both = _checkpointed(half, blocks, len(blocks), trace)
    yield needs(both)
    for name in CHEAPER_OPTIMIZERS.get(change.asked.optimizer, ())[-1:]:
        yield needs(_with_optimizer(both, name))


def _smaller_batch(loaded: LoadedModel, limit: int, asked: MemoryRequest) -> PlanOption | None:
    batch = loaded.request.batch or 1
    if loaded.request.inputs_from is not None or batch == 1:
        return None
    try:
        found = memory_that_fits(loaded, limit, asked)
    except BadInput:
        return None
    if found.largest_batch is None or found.largest_batch >= batch:
        return None
    before = memory_of_target(loaded, asked).needed_bytes
    words = (f"--batch {found.largest_batch}",)
    return PlanOption(words, (), found.needed_bytes, before - found.needed_bytes, 0, asked.train, True)


def sibling_blocks(tree: ModuleTree) -> tuple[str, ...]:
    """Paths of modules of one class that follow each other in a container, outermost, in order."""
    found: list[str] = []
    holding = _holding(tree)
    children: dict[str, list[tuple[str, str]]] = {}
    for node in tree.modules:
        if node.path:
            children.setdefault(node.path.rpartition(".")[0], []).append((node.path, node.cls))
    for node in tree.modules:
        if any(node.path == path or node.path.startswith(f"{path}.") for path in found):
            continue
        mine = [(path, cls) for path, cls in children.get(node.path, ()) if path in holding]
        same = {path for pair in pairwise(mine) if pair[0][1] == pair[1][1] for path, _ in pair}
        same -= {path for path, cls in mine if cls in CONTAINERS}
        found.extend(path for path, _ in mine if path in same and children.get(path))
    return tuple(found)


def _holding(tree: ModuleTree) -> frozenset[str]:
    return frozenset(above for entry in tree.state if entry.role == "parameter" for above in parents(entry.path))


def _stages(tree: ModuleTree, blocks: Sequence[str], trace: Trace) -> tuple[str, ...]:
    """Blocks, and children of the model without blocks, that hold parameters: in the order in which they run, all but
    the last."""
    holding = _holding(tree)
    ran = dict.fromkeys(call.path for call in trace.calls if call.path in holding)
    inside = {above for block in blocks for above in parents(block)}
    units = [path for path in ran if path in blocks or ("." not in path and path and path not in inside)]
    return tuple(units)[:-1]
