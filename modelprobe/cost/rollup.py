"""Sums over the ledger: costs of operators added up by module (with everything inside), operator, kind or call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modelprobe.tracing.records import ModuleTree, OpCall, Trace, parents


@dataclass(frozen=True, slots=True)
class Tally:
    """What a set of operator calls costs together. `flops` includes two per MAC; bytes are moved, both ways."""

    ops: int = 0
    macs: int = 0
    flops: int = 0
    activations: int = 0
    bytes_moved: int = 0
    uncounted: int = 0

    @property
    def intensity(self) -> float | None:
        """FLOPs per byte moved, None where nothing moves."""
        return self.flops / self.bytes_moved if self.bytes_moved else None


def tally(ops: Iterable[OpCall]) -> Tally:
    """The sum over `ops`."""
    count = macs = flops = activations = moved = uncounted = 0
    for op in ops:
        count += 1
        macs += op.macs
        flops += 2 * op.macs + op.flops
        activations += op.activations
        moved += op.bytes_read + op.bytes_written
        uncounted += op.status == "uncounted"
    return Tally(count, macs, flops, activations, moved, uncounted)


def grouped(ops: Iterable[OpCall], key: Callable[[OpCall], str]) -> dict[str, list[OpCall]]:
    """The operators by `key`, in the order of first appearance."""
    groups: dict[str, list[OpCall]] = {}
    for op in ops:
        groups.setdefault(key(op), []).append(op)
    return groups


def by_module(trace: Trace) -> dict[str, Tally]:
    """Path -> cost of the module and everything inside it; the root is the empty path."""
    inside: dict[str, list[OpCall]] = {}
    for path, ops in grouped(trace.ops, lambda op: op.module).items():
        for place in (path, *parents(path)):
            inside.setdefault(place, []).extend(ops)
    return {path: tally(ops) for path, ops in inside.items()}


def own(trace: Trace) -> dict[str, Tally]:
    """Path -> cost of the operators that the module runs itself, outside its children."""
    return {path: tally(ops) for path, ops in grouped(trace.ops, lambda op: op.module).items()}


def parameters_inside(tree: ModuleTree) -> dict[str, int]:
    """Path -> parameters registered in the module and below, each tensor once per subtree."""
    seen: dict[str, set[int]] = {}
    totals: dict[str, int] = {}
    for entry in tree.state:
        if entry.role != "parameter":
            continue
        for place in parents(entry.path):
            known = seen.setdefault(place, set())
            if entry.identity not in known:
                known.add(entry.identity)
                totals[place] = totals.get(place, 0) + entry.numel
    return totals


def fitting_depth(depths: Iterable[int], limit: int = 40) -> int:
    """The greatest depth of a tree at which at most `limit` rows show; at least 1."""
    counts: dict[int, int] = {}
    for depth in depths:
        counts[depth] = counts.get(depth, 0) + 1
    total, best = 0, 0
    for depth in sorted(counts):
        total += counts[depth]
        if total > limit and depth > 1:
            break
        best = depth
    return max(best, 1)
