"""One run made to follow another: each step gets the other run's values, and what it makes of them is compared.

A run that is made to follow never inherits an error: a step that gives something else than the other run's did it
itself, or something between it and the steps before, which are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from modelprobe.inside.divergence.align import StepPairs, between
from modelprobe.inside.divergence.spill import StoredValue, ValueStore
from modelprobe.inside.divergence.tape import Tape, TapeOp, flat_tensors, results_of
from modelprobe.tracing.capture import Enough

COMPARED_AT_ONCE = 1 << 17
"""Elements that are compared at a time."""

EXACT = 1e-9
"""Relative difference, in float64, from which two operators on the same operands compute different things."""

_LOW = {"bfloat16", "float16"}
_CONTRACTIONS = {"matmul", "conv", "attention"}


@dataclass(frozen=True, slots=True)
class Gap:
    """How far two tensors are apart. `largest` is relative to the root mean square of the first one.

    `first` is the index of the first element beyond the tolerance, `values` are the two elements there.
    """

    largest: float
    first: tuple[int, ...] = ()
    values: tuple[float, float] | None = None


def gap_between(a: Tensor | StoredValue, b: Tensor | StoredValue, tolerance: float = math.inf) -> Gap:
    """Compare element by element, a piece at a time. Infinite for other shapes, or where one side alone is finite."""
    if tuple(a.shape) != tuple(b.shape):
        return Gap(math.inf)
    floating = a.dtype.is_floating_point or a.dtype.is_complex
    wide = torch.complex128 if a.dtype.is_complex or b.dtype.is_complex else torch.float64
    flat_a, flat_b, count = _in_order(a), _in_order(b), math.prod(a.shape)
    scale = _root_mean_square(flat_a, count, wide) if floating else 0.0
    largest = 0.0
    first: tuple[int, ...] = ()
    values: tuple[float, float] | None = None
    for start in range(0, count, COMPARED_AT_ONCE):
        part_a, part_b = (flat(start, COMPARED_AT_ONCE).to(wide) for flat in (flat_a, flat_b))
        apart = (part_a - part_b).abs()
        equal = (part_a == part_b) | (part_a.isnan() & part_b.isnan())
        apart = torch.where(equal, 0.0, torch.nan_to_num(apart, math.inf, math.inf))
        apart = apart / (scale + part_a.abs() + 1e-300) if floating else torch.where(equal, 0.0, math.inf)
        apart = torch.nan_to_num(apart, math.inf, math.inf)
        most = float(apart.max()) if apart.numel() else 0.0
        if most > (tolerance if floating else 0.0) and values is None and tolerance < math.inf:
            place = int((apart > (tolerance if floating else 0.0)).nonzero()[0])
            first = tuple(int(x) for x in torch.unravel_index(torch.tensor(start + place), tuple(a.shape)))
            values = (float(part_a[place].real), float(part_b[place].real))
        largest = max(largest, most)
    return Gap(largest, first, values)


def _in_order(value: Tensor | StoredValue) -> Callable[[int, int], Tensor]:
    """Gives so many elements from a place on, in the order of the indices."""
    if isinstance(value, StoredValue):
        return value.piece
    flat = value.detach().cpu().reshape(-1)
    return lambda start, count: flat[start : start + count]


def _beside_spread(gap: Gap, mean: Tensor | StoredValue, inverse_deviation: Tensor) -> Gap:
    """A gap between statistics of a norm, relative to the spread of what was normalised.

    The mean of values around zero is rounding alone: relative to itself it is always far off.
    """
    size = _root_mean_square(_in_order(mean), math.prod(mean.shape), torch.float64)
    deviation = 1 / inverse_deviation.detach().double()
    spread = _root_mean_square(_in_order(deviation), deviation.numel(), torch.float64)
    return replace(gap, largest=gap.largest * size / (size + spread)) if size and gap.largest < math.inf else gap


def _root_mean_square(flat: Callable[[int, int], Tensor], count: int, wide: torch.dtype) -> float:
    """Of the finite elements."""
    total = 0.0
    for start in range(0, count, COMPARED_AT_ONCE):
        part = flat(start, COMPARED_AT_ONCE).to(wide).abs()
        total += float(torch.where(part.isfinite(), part, 0.0).square().sum())
    return math.sqrt(total / max(1, count))


def tolerance_of(op: TapeOp, dtypes: Sequence[str], steps: int = 1) -> float:
    """Relative difference that rounding explains: epsilon of the coarsest type, and the length of the sums.

    A sum of n terms in another order differs by about epsilon x sqrt(n); low precision is added up in float32, so that
    only operands and result are rounded. `steps` are those that one value went through.
    """
    floating = [name for name in dtypes if name in ("float64", "float32", "float16", "bfloat16")]
    if not floating:
        return 0.0
    coarsest = max(floating, key=lambda name: torch.finfo(getattr(torch, name)).eps)
    eps = torch.finfo(getattr(torch, coarsest)).eps
    if coarsest in _LOW:
        return 16 * eps * steps
    return eps * (16 + 4 * math.sqrt(_summed(op))) * steps


def _summed(op: TapeOp) -> int:
    """How many terms an element of the result is a sum of."""
    shapes = [operand.shape for operand in op.operands]
    if op.kind == "conv" and len(shapes) > 1:
        return math.prod(shapes[1][1:]) if not op.backward else math.prod(shapes[0])
    if op.kind in _CONTRACTIONS and shapes:
        return max((max(shape[-2:], default=1) for shape in shapes), default=1)
    made = math.prod(op.outputs[0]) if op.outputs else 1
    return max(1, *(math.prod(shape) // max(1, made) for shape in shapes), *(s[-1] for s in shapes if s), 1)


@dataclass(slots=True)
class Suspect:
    """A pair of steps that gave different results on the same operands."""

    a: int
    b: int
    gap: Gap
    tolerance: float
    quiet: bool = False  # found in float64 alone


@dataclass(slots=True)
class Call:
    """An operator's function and its arguments. `constants` are its tensors that no operator made, None for others."""

    func: Any
    args: Any
    kwargs: Any
    constants: list[Tensor | None] = field(default_factory=list)

    def again(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """What it puts out for other tensors, one for each of its own."""
        left = iter(tensors)

        def filled(value: Any) -> Any:
            if isinstance(value, (Tensor, _Hole)):
                return next(left)
            return [filled(item) for item in value] if isinstance(value, (list, tuple)) else value

        args = [filled(value) for value in self.args]
        return results_of(self.func(*args, **{key: filled(value) for key, value in self.kwargs.items()}))

    def without_tensors(self) -> Call:
        """The same with holes in the place of tensors, so that it keeps none alive but its constants."""

        def emptied(value: Any) -> Any:
            if isinstance(value, Tensor):
                return _HOLE
            return [emptied(item) for item in value] if isinstance(value, (list, tuple)) else value

        named = {key: emptied(value) for key, value in self.kwargs.items()}
        return Call(self.func, [emptied(value) for value in self.args], named, self.constants)


class _Hole:
    """Stands for a tensor."""


_HOLE = _Hole()


@dataclass(slots=True)
class CapturedCall:
    """An operator with its operands, taken in the middle of a run."""

    op: TapeOp
    tensors: list[Tensor]
    func: Any
    args: Any
    kwargs: Any
    lines: tuple[str, ...] = ()


class JudgingTape(Tape):
    """Runs B, gives it A's values, and collects the steps that differ. `stopped` says why it went no further."""

    def __init__(
        self, a: Sequence[TapeOp], b: Sequence[TapeOp], pairs: StepPairs, values: ValueStore, others: Any
    ) -> None:
        super().__init__()
        self._a, self._b, self._values = a, b, values
        self._partner = {j: i for i, j in pairs.items()}
        self._pairs = pairs
        self._calls = others  # number of an operator of A -> its function and arguments, tensors of A's own in place
        self.suspects: list[Suspect] = []
        self.compared = 0
        self.quiet: list[tuple[int, int]] = []  # pairs whose arguments differ, without effect on these inputs
        self.stopped = ""

    def before(self, op: TapeOp, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if op.number < len(self._b) and self._b[op.number].name != op.name:
            self.stopped = f"the second run took another way at {op.name}: its control flow depends on values"
            raise Enough
        i = self._partner.get(op.number)
        if i is None or not self._suspicious(i, op):
            return None
        return Call(func, clone_written(func, args), kwargs)

    def _suspicious(self, i: int, op: TapeOp) -> bool:
        other = self._a[i]
        return (other.step, other.arguments, other.checks) != (op.step, op.arguments, op.checks)

    def after(self, op: TapeOp, results: Sequence[Tensor], before: Any) -> None:
        i = self._partner.get(op.number)
        if i is None:
            return
        other = self._a[i]
        self.compared += 1
        worst, tolerance = Gap(0.0), self._tolerance(other, op)
        forced = True
        for position, tensor in enumerate(results):
            wanted = self._values.stored((i, position))
            if wanted is None:
                continue
            if not op.random:
                gap = gap_between(wanted, tensor, tolerance)
                if position and other.kind == "norm" and len(results) > 2:
                    gap = _beside_spread(gap, wanted, results[2])
                worst = max(worst, gap, key=lambda found: found.largest)
            forced &= _put_into(wanted, tensor)
        apart = worst.largest > tolerance
        if op.random:
            apart = other.arguments != op.arguments
        elif before is not None and other.dtypes == op.dtypes and forced:
            exact = self._in_float64(i, op, before)
            if exact is not None:
                if exact <= EXACT:
                    self.quiet.append((i, op.number))
                elif not apart:
                    self.suspects.append(Suspect(i, op.number, worst, tolerance, quiet=True))
                    return
        if apart:
            self.suspects.append(Suspect(i, op.number, worst, tolerance))
        if not forced and apart:
            raise Enough

    def _tolerance(self, other: TapeOp, op: TapeOp) -> float:
        dtypes = {*other.dtypes[:1], *op.dtypes[:1], *(o.dtype for o in (*op.operands, *other.operands))}
        extra = 0
        for ops, step, known in ((self._a, other, self._pairs), (self._b, op, self._partner)):
            for operand in step.operands:
                extra += sum(ops[n].role == "node" for n in between(ops, operand.maker, known))
        return tolerance_of(op, sorted(dtypes), 1 + extra)

    def _in_float64(self, i: int, op: TapeOp, before: Call) -> float | None:
        """The difference of both operators on the same operands in float64; None where that cannot be told."""
        call = self._calls.get(i)
        if call is None:
            return None
        mine = flat_tensors(before.args, before.kwargs)
        given = iter([t for t, o in zip(mine, op.operands, strict=True) if not o.is_constant])
        here = next((tensor.device for tensor in mine if tensor.dim()), torch.device("cpu"))
        theirs = [own.to(here) if own is not None else next(given, None) for own in call.constants]
        if next(given, None) is not None or any(tensor is None for tensor in theirs):
            return None
        for tensor, operand in zip(theirs, self._a[i].operands, strict=True):
            if tensor is None or tuple(tensor.shape) != operand.shape or str(tensor.dtype)[6:] != operand.dtype:
                return None
        try:
            with torch.no_grad():
                first = call.again([_as_float64(tensor) for tensor in theirs if tensor is not None])
                second = before.again(list(map(_as_float64, mine)))
        except Exception:  # noqa: BLE001 - no kernel in float64: the difference in the run's own type decides
            return None
        if len(first) != len(second):
            return None
        return max((gap_between(x, y).largest for x, y in zip(first, second, strict=True)), default=0.0)


def clone_written(func: Any, args: Sequence[Any]) -> Any:
    """The arguments, with copies of those tensors that the operator writes to."""
    schema = getattr(func, "_schema", None)
    if schema is None:
        return args
    written = {k for k, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write}
    if "batch_norm" in str(func):
        written |= {3, 4}
    return tuple(v.clone() if k in written and isinstance(v, Tensor) else v for k, v in enumerate(args))


def _as_float64(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64) if tensor.is_floating_point() else tensor.clone()


def _put_into(wanted: Tensor | StoredValue, tensor: Tensor) -> bool:
    """Give a result the other run's values, in its own layout. False when the shapes differ."""
    if tuple(wanted.shape) != tuple(tensor.shape) or tensor.is_complex() != wanted.dtype.is_complex:
        return False
    with torch.no_grad():
        if isinstance(wanted, Tensor) or not tensor.is_contiguous():
            tensor.copy_(wanted if isinstance(wanted, Tensor) else wanted.whole())
        else:
            flat = tensor.view(-1)
            for start in range(0, flat.numel(), COMPARED_AT_ONCE):
                flat[start : start + COMPARED_AT_ONCE].copy_(wanted.piece(start, COMPARED_AT_ONCE))
    return True


class CapturingTape(JudgingTape):
    """A run that ends at one operator, whose operands it keeps. It follows another run where there is one to follow."""

    def __init__(self, at: int, follow: tuple[Any, ...] | None = None) -> None:
        super().__init__(*(follow or ((), (), {}, None, {})))
        self._at = at
        self.caught: CapturedCall | None = None

    def before(self, op: TapeOp, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if op.number == self._at:
            from modelprobe.inside.divergence.lines import calling_lines

            tensors = [tensor.detach().clone() for tensor in flat_tensors(args, kwargs)]
            self.caught = CapturedCall(op, tensors, func, args, kwargs, calling_lines())
            raise Enough

    def after(self, op: TapeOp, results: Sequence[Tensor], before: Any) -> None:
        i = self._partner.get(op.number)
        if i is None:
            return
        for position, tensor in enumerate(results):
            wanted = self._values.stored((i, position))
            if wanted is not None:
                _put_into(wanted, tensor)
