"""Which operator of one run is which of another: by sequence, kind, shapes and constants, checked by the flow of data.

Names decide nothing: two ports of a network call their layers as they like.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from modelprobe.inside.divergence.tape import TapeOp

_EXCHANGEABLE = frozenset({"matmul", "conv", "norm", "attention", "pooling"})
"""Kinds of which two operators may be the same step under different names, as `mm` and `addmm` are."""

_NOTHING = object()

CLOSE = 1e-4
"""Two sums count as equal when they differ by so much of the sum of magnitudes."""

StepPairs = dict[int, int]
"""Number of an operator of A -> that of B."""


def align(a: Sequence[TapeOp], b: Sequence[TapeOp]) -> StepPairs:
    """The pairs of nodes of two runs that do the same step.

    One whose results hold the same values in another order of axes is left out: the next step with equal ones tells.
    """
    first, second = [op for op in a if op.role == "node"], [op for op in b if op.role == "node"]
    pairs = {first[i].number: second[j].number for i, j in _in_sequence(first, second)}
    _by_constants(first, second, pairs)
    pairs = {i: j for i, j in pairs.items() if a[i].outputs == b[j].outputs or not _is_close(a[i], b[j])}
    return _consistent(a, b, pairs)


def _in_sequence(a: Sequence[TapeOp], b: Sequence[TapeOp]) -> list[tuple[int, int]]:
    """The alignment of two sequences that scores most; equal beginnings and ends are not searched."""
    key = _whole_key
    start = 0
    while start < min(len(a), len(b)) and key(a[start]) == key(b[start]):
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and key(a[-1 - end]) == key(b[-1 - end]):
        end += 1
    inner = _best_alignment(a[start : len(a) - end], b[start : len(b) - end])
    pairs = [(i, i) for i in range(start)]
    pairs += [(start + i, start + j) for i, j in inner]
    return pairs + [(len(a) - 1 - k, len(b) - 1 - k) for k in reversed(range(end))]


def _whole_key(op: TapeOp) -> tuple[Any, ...]:
    return (op.step, op.outputs, op.arguments, op.checks, op.backward)


def _best_alignment(a: Sequence[TapeOp], b: Sequence[TapeOp]) -> list[tuple[int, int]]:
    if not a or not b:
        return []
    scores = _scores(a, b)
    best = torch.zeros((len(a) + 1, len(b) + 1), dtype=torch.int32)
    for i in range(len(a)):
        row = best[i].clone()
        row[1:] = torch.maximum(row[1:], torch.where(scores[i] > 0, best[i, :-1] + scores[i], 0))
        best[i + 1] = row.cummax(0).values
    table, points = best.tolist(), scores.tolist()
    pairs, i, j = [], len(a), len(b)
    while i and j:
        if points[i - 1][j - 1] > 0 and table[i][j] == table[i - 1][j - 1] + points[i - 1][j - 1]:
            pairs.append((i - 1, j - 1))
            i, j = i - 1, j - 1
        elif table[i][j] == table[i - 1][j]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def _scores(a: Sequence[TapeOp], b: Sequence[TapeOp]) -> Tensor:
    """How much each operator of one run looks like each of the other; 0 where they cannot be the same step."""

    def same(of: Callable[[TapeOp], Any], skip: Any = _NOTHING) -> Tensor:
        codes: dict[Any, int] = {}
        rows = [codes.setdefault(of(op), len(codes)) for op in a]
        columns = [codes.setdefault(of(op), len(codes)) for op in b]
        equal = torch.tensor(rows)[:, None] == torch.tensor(columns)[None, :]
        return equal & (torch.tensor(rows) != codes[skip])[:, None] if skip in codes else equal

    named = same(lambda op: (op.step, op.backward))
    kind = same(lambda op: (op.kind, op.backward) if op.kind in _EXCHANGEABLE else (op.step, op.backward))
    shapes = same(lambda op: op.outputs[:1])
    constants = same(lambda op: op.checks, ())
    sized = same(lambda op: tuple(sorted(shape for _, shape in op.checks)), ())
    close = _close(a, b) & same(lambda op: tuple(len(o) and _numel(o) for o in op.outputs[:1]))
    score = 3 * named.int() + 2 * shapes.int() + 6 * constants.int() + sized.int() + 4 * close.int()
    score += same(lambda op: op.arguments).int() + same(lambda op: op.path, "").int()
    return torch.where(named | (kind & close), score + 1, 0).to(torch.int32)


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _close(a: Sequence[TapeOp], b: Sequence[TapeOp]) -> Tensor:
    def table(ops: Sequence[TapeOp]) -> Tensor:
        return torch.tensor([op.sums[0] if op.sums else (0.0, 0.0, 0.0) for op in ops], dtype=torch.float64)

    first, second = table(a)[:, None], table(b)[None]
    room = CLOSE * torch.maximum(first[..., 1:2], second[..., 1:2])
    return ((first - second).abs() <= room).all(-1)


def _is_close(a: TapeOp, b: TapeOp) -> bool:
    if not a.sums or not b.sums or list(map(_numel, a.outputs[:1])) != list(map(_numel, b.outputs[:1])):
        return False
    room = CLOSE * max(a.sums[0][1], b.sums[0][1])
    return all(abs(x - y) <= room for x, y in zip(a.sums[0], b.sums[0], strict=True))


def _by_constants(a: Sequence[TapeOp], b: Sequence[TapeOp], pairs: StepPairs) -> None:
    """Steps that stand in another order: those that share constants (weights) nobody else has."""
    left, taken = defaultdict(list), set(pairs.values())
    for op in b:
        if op.checks and op.number not in taken:
            left[(op.step, op.checks, op.outputs, op.backward)].append(op.number)
    for op in a:
        found = left.get((op.step, op.checks, op.outputs, op.backward), [])
        if op.number not in pairs and op.checks and len(found) == 1:
            pairs[op.number] = found.pop()


def _consistent(a: Sequence[TapeOp], b: Sequence[TapeOp], pairs: StepPairs) -> StepPairs:
    """The pairs without those whose data come from different places."""
    kept: StepPairs = {}
    back: dict[int, int] = {}
    for i, j in sorted(pairs.items(), key=lambda pair: pair[1]):
        made_a = {kept[n] for n in roots(a, a[i], kept)}
        made_b = set(roots(b, b[j], back))
        if made_a and made_b and not (made_a & made_b) and -1 not in made_b:
            continue
        kept[i] = j
        back[j] = i
    return kept


def roots(ops: Sequence[TapeOp], op: TapeOp, aligned: Iterable[int]) -> dict[int, None]:
    """The aligned operators that an operator's data come from, through those that are not aligned."""
    known = set(aligned) if not isinstance(aligned, (set, dict)) else aligned
    found: dict[int, None] = {}
    todo, seen = [operand.maker for operand in op.operands if operand.maker >= 0], set()
    while todo:
        number = todo.pop()
        if number in seen:
            continue
        seen.add(number)
        if number in known:
            found[number] = None
        else:
            todo += [operand.maker for operand in ops[number].operands if operand.maker >= 0]
    return found


def between(ops: Sequence[TapeOp], operand_maker: int, aligned: Iterable[int]) -> list[int]:
    """The operators that lead from aligned ones to a value, in order: views, casts, steps the other run has not."""
    known, found, todo = set(aligned), set(), [operand_maker]
    while todo:
        number = todo.pop()
        if number < 0 or number in known or number in found:
            continue
        found.add(number)
        todo += [operand.maker for operand in ops[number].operands]
    return sorted(found)
