"""The summary of a weight file: its format, the model in it, every tensor, and every other value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelprobe.checkpoint.adapters.lora import describe, find_lora
from modelprobe.checkpoint.answers.checks_report import check_facts, check_notes, check_table, stats_table
from modelprobe.checkpoint.answers.name_tree import NameRow, name_rows
from modelprobe.checkpoint.answers.summary_report import (
    contents_table,
    dtype_table,
    facts,
    global_table,
    notes,
    shared_table,
    tensor_table,
    value_table,
)
from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.pickle.globals import Trust, judged
from modelprobe.checkpoint.pickle.torch_allows import allowing, refused
from modelprobe.checkpoint.records import (
    BUFFER,
    PARAMETER,
    Branch,
    Checkpoint,
    Finding,
    Item,
    Scalar,
    TensorEntry,
    Wrapper,
    wasted_bytes,
)
from modelprobe.report.blocks import Block, Facts, Report
from modelprobe.report.result import Result
from modelprobe.report.units import shape

if TYPE_CHECKING:
    from modelprobe.checkpoint.answers.stats import TensorStats
    from modelprobe.checkpoint.values.checksums import Verification

MAX_VALUES = 60


@dataclass(frozen=True, slots=True)
class Content:
    """One entry at the top of the file: what it is, and how many tensors and bytes lie under it."""

    key: str
    kind: str
    type: str
    length: int
    tensors: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Value:
    """A value that is no tensor: an epoch, a learning rate, a version."""

    path: str
    kind: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class DtypeShare:
    """How many tensors, elements and bytes of the branch have one dtype."""

    dtype: str
    tensors: int
    numel: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Shared:
    """Tensors that use one storage. `tied`: they are the same tensor; otherwise views of parts of it."""

    storage: str
    names: tuple[str, ...]
    nbytes: int
    tied: bool


LOADED_BY_TORCH = ("torch zip", "torch legacy")
"""The formats of `torch.save`, of which `torch.load` has an opinion."""


@dataclass(frozen=True, slots=True)
class GlobalUse:
    """A name that ordinary unpickling would import, and how far it can be trusted."""

    name: str
    trust: Trust
    count: int
    called: bool


@dataclass(frozen=True, slots=True)
class WeightsSummary(Result):
    """A weight file as it declares itself. Counts of elements take a tied tensor once; `damaged` asks for exit code 1.

    `adapter` describes the LoRA that the file is, `adapter_base` names what it was trained on. `parameters` and
    `buffers` are elements whose role is known or guessed by name, `undecided` those of no known role.
    """

    path: str
    format: str
    version: str
    size: int
    branch: Branch | None
    alternatives: tuple[Branch, ...]
    tensors: int
    parameters: int
    buffers: int
    undecided: int
    nbytes: int
    guessed: int
    contents: tuple[Content, ...]
    rows: tuple[NameRow, ...]
    rows_left_out: int
    dtypes: tuple[DtypeShare, ...]
    devices: tuple[str, ...]
    shared: tuple[Shared, ...]
    wasted_bytes: int
    optimizer_bytes: int
    all_bytes: int
    values: tuple[Value, ...]
    values_left_out: int
    globals: tuple[GlobalUse, ...]
    refused: tuple[str, ...]
    """Names for which `torch.load` with `weights_only=True`, its default since 2.6, refuses the file."""
    allowing: str
    """The line of Python that makes it take them."""
    wrappers: tuple[Wrapper, ...]
    findings: tuple[Finding, ...]
    flags: tuple[tuple[str, int], ...]
    code: str
    damaged: bool
    adapter: str = ""
    adapter_base: str = ""
    stats: tuple[TensorStats, ...] | None = None
    verification: Verification | None = None

    def report(self) -> Report:
        """Head, tensors (or their statistics), contents, other values, shared storages, names, notes."""
        blocks: list[Block] = [Facts((*facts(self), *check_facts(self.stats, self.verification)))]
        first = tensor_table(self.rows) if self.stats is None else stats_table(self.stats)
        tables = (first, check_table(self.verification), contents_table(self), dtype_table(self), shared_table(self),
                  value_table(self), global_table(self))  # fmt: skip
        blocks += [table for table in tables if table.rows]
        said = (*notes(self), *check_notes(self.stats, self.verification))
        return Report(f"{self.path}: {self.format}", "modelprobe.weights/2", (*blocks, *said), self.to_dict())


def summarize_weights(
    checkpoint: Checkpoint,
    depth: int | None = None,
    all_tensors: bool = False,
    branch: str | None = None,
    stats: bool = False,
    verified: bool = False,
) -> WeightsSummary:
    """Summarize a listing. `branch` is a dotted name ("." is the root); `depth` levels of names, `all_tensors` for all.
    `stats` reads the values of the branch, `verified` the whole file.

    Raises BadInput for a branch that the file does not have.
    """
    chosen = checkpoint.branch if branch is None else chosen_branch(checkpoint, branch)
    start = len(chosen.path) if chosen else 0
    named = [(".".join(entry.path[start:]), entry) for entry in (checkpoint.tensors_in(chosen) if chosen else ())]
    return replace(
        _summary(checkpoint, chosen, named, depth, all_tensors),
        stats=_stats(checkpoint, chosen, named) if stats else None,
        verification=_verification(checkpoint) if verified else None,
    )


def _summary(
    checkpoint: Checkpoint, chosen: Branch | None, named: list[tuple[str, TensorEntry]], depth: int | None, every: bool
) -> WeightsSummary:
    """What the headers say of the chosen branch, and of the file around it."""
    entries, reused = [entry for _, entry in named], _reused(checkpoint.tensors)
    unique = _unique(entries, reused)
    values = [*_scalar_values(checkpoint.tree, ()), *(Value(k, "metadata", v) for k, v in checkpoint.metadata.items())]
    roles = _elements_by_role(unique)
    rows, left_out = name_rows(named, depth, every)
    lora = find_lora(checkpoint)
    lora = lora if lora is not None and lora.layers else None
    loadable = checkpoint.format in LOADED_BY_TORCH
    refusing = refused(checkpoint.globals) if loadable else []
    sources = checkpoint.format == "torch legacy" and bool(checkpoint.modules)  # stand beside, which no line allows
    return WeightsSummary(
        path=checkpoint.path, format=checkpoint.format, version=checkpoint.version, size=checkpoint.size, branch=chosen,
        alternatives=tuple(other for other in checkpoint.branches if chosen is None or other.path != chosen.path),
        tensors=len(entries),
        parameters=roles[PARAMETER], buffers=roles[BUFFER], undecided=roles[None],
        nbytes=sum(entry.nbytes for entry in unique),
        guessed=sum("by-name" in entry.flags for entry in entries),
        contents=_contents(checkpoint, chosen),
        rows=rows, rows_left_out=left_out,
        dtypes=_dtypes(unique),
        devices=tuple(sorted({entry.device for entry in entries if entry.device})),
        shared=_shared_storages(named, reused),
        wasted_bytes=wasted_bytes(checkpoint.tensors),
        optimizer_bytes=sum(c.nbytes for c in checkpoint.tree.children if "optim" in c.key.lower()),
        all_bytes=sum(storage.length for storage in checkpoint.storages.values()),
        values=tuple(values if every else values[:MAX_VALUES]),
        values_left_out=0 if every else max(0, len(values) - MAX_VALUES),
        globals=_globals(checkpoint),
        refused=tuple(entry.spelled for entry in refusing),
        allowing=allowing(refusing) if refusing and not sources else "",
        wrappers=checkpoint.wrappers if chosen == checkpoint.branch else (),
        findings=checkpoint.findings,
        flags=tuple(sorted(Counter(flag for entry in checkpoint.tensors for flag in entry.flags).items())),
        code=checkpoint.code,
        damaged=checkpoint.damaged,
        adapter=describe(lora) if lora is not None else "", adapter_base=lora.base if lora is not None else "",
    )  # fmt: skip


def _stats(
    checkpoint: Checkpoint, branch: Branch | None, named: Sequence[tuple[str, TensorEntry]]
) -> tuple[TensorStats, ...]:
    from modelprobe.checkpoint.answers.stats import measure_tensors  # numpy is for those who ask

    return measure_tensors(checkpoint, branch.name if branch else "", named)


def _verification(checkpoint: Checkpoint) -> Verification:
    from modelprobe.checkpoint.values.checksums import verify

    return verify(checkpoint)


def _elements_by_role(entries: Sequence[TensorEntry]) -> Counter[str | None]:
    found: Counter[str | None] = Counter()
    for entry in entries:
        found[entry.role] += entry.numel
    return found


def _reused(entries: Sequence[TensorEntry]) -> frozenset[str]:
    """The storages that several tensors use."""
    return frozenset(key for key, count in Counter(entry.storage for entry in entries).items() if count > 1 and key)


def _unique(entries: Sequence[TensorEntry], reused: Container[str]) -> Sequence[TensorEntry]:
    """Each tensor once, under the last of its names."""
    if not reused:
        return entries
    return list({entry.identity if entry.storage in reused else id(entry): entry for entry in entries}.values())


def _contents(found: Checkpoint, branch: Branch | None) -> tuple[Content, ...]:
    """What stands at the top of the file, and the tensors there that are not in the branch."""
    if found.tree.kind not in ("dict", "list", "tuple", "object"):
        return ()
    held = [Content(i.key, i.kind, i.type, i.length, i.tensors, i.nbytes) for i in found.tree.children]
    above = branch.path if branch else ()
    beside = [entry for entry in found.tensors if above and len(entry.path) == 1 and entry.path != above]
    return (*held, *(Content(e.name, "tensor", f"{shape(e.shape)} {e.dtype}", 0, 1, e.nbytes) for e in beside))


def _scalar_values(item: Item, above: tuple[str, ...]) -> Iterator[Value]:
    """The scalars of the tree in order. Its depth is bounded by the reader."""
    for child in item.children:
        path = (*above, child.key)
        if child.kind in ("dict", "list", "tuple", "set", "frozenset", "object", "module"):
            if child.children:
                yield from _scalar_values(child, path)
            elif child.tensors == 0:
                yield Value(".".join(path), child.kind, child.type if child.kind == "object" else child.length)
        elif child.kind != "deep":
            yield Value(".".join(path), child.kind, child.value)


def _dtypes(entries: Sequence[TensorEntry]) -> tuple[DtypeShare, ...]:
    groups: dict[str, list[TensorEntry]] = {}
    for entry in entries:
        groups.setdefault(entry.dtype, []).append(entry)
    found = [
        DtypeShare(dtype, len(held), sum(entry.numel for entry in held), sum(entry.nbytes for entry in held))
        for dtype, held in groups.items()
    ]
    return tuple(sorted(found, key=lambda share: -share.nbytes))


def _shared_storages(named: Sequence[tuple[str, TensorEntry]], reused: Container[str]) -> tuple[Shared, ...]:
    groups: dict[str, list[tuple[str, TensorEntry]]] = {}
    for name, entry in named:
        if entry.storage in reused and entry.numel:
            groups.setdefault(entry.storage, []).append((name, entry))
    found = []
    for storage, held in groups.items():
        if len(held) > 1:
            tied = len({entry.identity for _, entry in held}) == 1
            found.append(Shared(storage, tuple(name for name, _ in held), held[0][1].storage_nbytes, tied))
    return tuple(found)


def _globals(checkpoint: Checkpoint) -> tuple[GlobalUse, ...]:
    order = {Trust.DANGEROUS: 0, Trust.SUSPICIOUS: 1, Trust.UNKNOWN: 2, Trust.HARMLESS: 3}
    found = [
        GlobalUse(g.spelled, judged(g.module, g.name, called=g.called, texts=g.texts).trust, g.count, g.called)
        for g in checkpoint.globals
    ]
    return tuple(sorted(found, key=lambda use: (order[use.trust], use.name)))
