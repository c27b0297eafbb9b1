"""What a suspect step really differs in: its own arguments or constants, or something that was done to its operands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import Any, TypeGuard

from modelprobe.inside.divergence.align import StepPairs, between
from modelprobe.inside.divergence.judge import CapturedCall, Gap, Suspect, gap_between
from modelprobe.inside.divergence.tape import Operand, TapeOp, plain_argument

SAME_VALUES = 4e-7
"""Relative difference up to which operands in float32 are the same."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of the operator on both sides; `differs` where that is of consequence."""

    name: str
    a: str
    b: str
    differs: bool


@dataclass(frozen=True, slots=True)
class Culprit:
    """The first operator that does something else. Paths are those of the modules that call it; empty for the model.

    `operator` is the operator's name in B, or in A where B has none; `operator_a` and `operator_b` tell them apart.
    `reason` says in what they differ. `line_a`, `line_b` are lines of source, `element` the index of the first element
    that differs, `values` the two there; `largest` the difference relative to the root mean square.
    """

    path_a: str
    path_b: str
    operator: str
    operator_a: str = ""
    operator_b: str = ""
    reason: str = ""
    arguments: tuple[Argument, ...] = ()
    line_a: str = ""
    line_b: str = ""
    element: tuple[int, ...] = ()
    values: tuple[float, float] | None = None
    largest: float | None = None
    tolerance: float = 0.0
    backward: bool = False

    @property
    def place(self) -> str:
        """The module in which it is, in words."""
        return self.path_b or self.path_a or "the model itself"


def culprit_of(
    suspect: Suspect,
    calls: tuple[CapturedCall, CapturedCall],
    tapes: tuple[Sequence[TapeOp], Sequence[TapeOp]],
    pairs: StepPairs,
) -> Culprit | None:
    """What a suspect pair differs in; None when nothing does: another kernel rounds in another way."""
    first, second = calls
    inherited = _operand_at_fault(first, second, tapes, pairs, suspect.tolerance)
    if inherited is not None:
        return _culprit(inherited[0], inherited[1], first, second, suspect, inherited[2])
    reason = _own_reason(first, second)
    if not reason and suspect.gap.largest < 1e-3 and first.op.step == second.op.step:
        return None
    return _culprit(first.op, second.op, first, second, suspect, reason or "it gives another result on equal operands")


def _culprit(
    a: TapeOp | None, b: TapeOp | None, first: CapturedCall, second: CapturedCall, suspect: Suspect, reason: str
) -> Culprit:
    chosen = b or a
    assert chosen is not None
    own = chosen is second.op
    gap = suspect.gap
    return Culprit(
        path_a=(a or first.op).path,
        path_b=(b or second.op).path,
        operator=chosen.name,
        operator_a=a.name if a else "",
        operator_b=b.name if b else "",
        reason=reason,
        arguments=_argument_rows(first, second) if own else _plain_pairs(a, b),
        line_a=first.lines[0] if first.lines else "",
        line_b=second.lines[0] if second.lines else "",
        element=gap.first,
        values=gap.values,
        largest=gap.largest if gap.largest != float("inf") else None,
        tolerance=suspect.tolerance,
        backward=second.op.backward,
    )


def _operand_at_fault(
    first: CapturedCall,
    second: CapturedCall,
    tapes: tuple[Sequence[TapeOp], Sequence[TapeOp]],
    pairs: StepPairs,
    tolerance: float,
) -> tuple[TapeOp | None, TapeOp | None, str] | None:
    """The operator between the last equal steps and this one that changed an operand, if any did."""
    known_a, known_b = set(pairs), set(pairs.values())
    used: set[int] = set()
    for slot, (x, own) in enumerate(zip(first.tensors, first.op.operands, strict=False)):
        if own.is_constant:
            continue
        if slot >= len(second.tensors):
            break
        y, other = second.tensors[slot], second.op.operands[slot]
        limit = max(SAME_VALUES, tolerance if x.dtype == y.dtype else tolerance * 4)
        if gap_between(x, y).largest <= min(limit, 1e-2) or slot in used:
            continue
        way_a, way_b = between(tapes[0], own.maker, known_a), between(tapes[1], other.maker, known_b)
        found = _first_unlike([tapes[0][n] for n in way_a], [tapes[1][n] for n in way_b])
        if found is not None and _is_constant_of_view(found):
            return first.op, second.op, "differs in constants"
        if found is not None:
            return found
        direct = not way_a and not way_b and own.maker >= 0 and other.maker >= 0
        if direct and pairs.get(own.maker) != other.maker:
            a, b = tapes[0][own.maker], tapes[1][other.maker]
            text = f"operand {slot} comes from {a.path or 'the model'} in A, from {b.path or 'the model'} in B"
            return first.op, second.op, text
    return None


def _is_constant_of_view(found: tuple[TapeOp | None, TapeOp | None, str]) -> bool:
    """Whether a view shows another constant: it is the operator behind the view that computes with it."""
    a, b, _ = found
    return bool(a and b and a.role == b.role == "passing" and (a.name, a.arguments) == (b.name, b.arguments))


def _first_unlike(a: Sequence[TapeOp], b: Sequence[TapeOp]) -> tuple[TapeOp | None, TapeOp | None, str] | None:
    """The first step of two ways that is not the same."""

    def key(op: TapeOp) -> Any:
        return (op.step, op.arguments, op.checks)

    for tag, i1, i2, j1, j2 in SequenceMatcher(
        None, list(map(key, a)), list(map(key, b)), autojunk=False
    ).get_opcodes():
        if tag == "equal":
            continue
        mine, theirs = _telling(a[i1:i2]), _telling(b[j1:j2])
        if mine and theirs and mine.name == theirs.name:
            what = "its arguments differ" if mine.arguments != theirs.arguments else "its constants differ"
            return mine, theirs, what
        if tag == "insert" or (theirs and not mine):
            return None, theirs, "A has no such step here"
        if tag == "delete" or (mine and not theirs):
            return mine, None, "B has no such step here"
        return mine, theirs, "another operator stands here"
    return None


def _telling(ops: Sequence[TapeOp]) -> TapeOp | None:
    """The first that computes or casts, else the first."""
    nodes = [op for op in ops if op.role == "node" or op.name == "aten._to_copy"]
    return next(iter(nodes or ops), None)


def _own_reason(first: CapturedCall, second: CapturedCall) -> str:
    a, b = first.op, second.op
    if a.step != b.step:
        return "another operator stands here"
    names = [row.name for row in _argument_rows(first, second) if row.differs]
    return f"differs in {', '.join(names)}" if names else ""


def _argument_rows(first: CapturedCall, second: CapturedCall) -> tuple[Argument, ...]:
    """The arguments side by side: plain ones as they are, constants with their names."""
    names = _argument_names(second.func)
    rows = _plain_rows(first.op, second.op, names, _defaults(second.func))
    constants = [_constants_of(call) for call in (first, second)]
    places = list(dict.fromkeys(place for side in constants for place, _ in side))
    tables = [dict(side) for side in constants]
    for place in places:
        x, y = tables[0].get(place), tables[1].get(place)
        label = names[place[0]] if place[0] < len(names) else f"operand {place[0]}"
        differs = x is None or y is None or (x.check, x.shape) != (y.check, y.shape)
        rows.append(Argument(label, _told(x), _told(y), differs))
    return tuple(rows)


def _constants_of(call: CapturedCall) -> list[tuple[tuple[int, int], Operand]]:
    """The constants by position among the arguments, and by place in the list that may stand there."""
    found: list[tuple[tuple[int, int], Operand]] = []
    inside: Counter[int] = Counter()
    for number, operand in enumerate(call.op.operands):
        position = _position_of(call, number)
        if operand.is_constant:
            found.append(((position, inside[position]), operand))
        inside[position] += 1
    return found


def _position_of(call: CapturedCall, number: int) -> int:
    """The position among the arguments of the operand with that number."""
    count = 0
    for position, value in enumerate(call.args):
        held = [value] if hasattr(value, "dtype") else value if isinstance(value, (list, tuple)) else []
        count += sum(hasattr(item, "untyped_storage") for item in held)
        if number < count:
            return position
    return len(call.args) + number


def _told(operand: Any) -> str:
    if operand is None:
        return "none"
    shape = "x".join(map(str, operand.shape)) or "scalar"
    return f"{operand.name or 'constant'} ({shape} {operand.dtype})"


def _plain_rows(
    a: TapeOp, b: TapeOp, names: Sequence[str], defaults: Mapping[str, Any] = MappingProxyType({})
) -> list[Argument]:
    """Those that are given on a side at least; the other then has the operator's default."""
    rows: list[Argument] = []
    for position in range(max(len(a.arguments), len(b.arguments))):
        x, y = (side.arguments[position] if position < len(side.arguments) else None for side in (a, b))
        if x is None and y is None:
            continue
        label = names[position] if position < len(names) else f"argument {position}"
        keywords = [value for value in (x, y) if _is_keyword(value)]
        if keywords:
            label = str(keywords[0][0])
            x, y = (value[1] if _is_keyword(value) else value for value in (x, y))
        x, y = (defaults.get(label) if value is None else value for value in (x, y))
        rows.append(Argument(label, repr(x), repr(y), x != y))
    return rows


def _is_keyword(value: Any) -> TypeGuard[tuple[str, Any]]:
    """Whether it is a keyword argument: its name and its value."""
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def _plain_pairs(a: TapeOp | None, b: TapeOp | None) -> tuple[Argument, ...]:
    if a is not None and b is not None and a.name == b.name:
        return tuple(_plain_rows(a, b, ()))
    one = a or b
    assert one is not None
    shown = [(v[0], v[1]) if _is_keyword(v) else ("", v) for v in one.arguments if v is not None]
    side = 0 if b is None else 1
    rows = []
    for number, (name, value) in enumerate(shown):
        pair = ["", ""]
        pair[side] = repr(value)
        rows.append(Argument(name or f"argument {number}", pair[0], pair[1], False))
    return tuple(rows)


def _defaults(func: Any) -> dict[str, Any]:
    """The operator's own values of arguments that are not given."""
    schema = getattr(func, "_schema", None)
    return {} if schema is None else {a.name: plain_argument(a.default_value) for a in schema.arguments}


def _argument_names(func: Any) -> tuple[str, ...]:
    schema = getattr(func, "_schema", None)
    return tuple(argument.name for argument in schema.arguments) if schema is not None else ()


OUTPUTS_DIFFER = "the outputs differ"


def output_culprit(name: str, a: Sequence[TapeOp], b: Sequence[TapeOp], gap: Gap, tolerance: float) -> Culprit:
    """Where every step is the same and the outputs are not: what was done to them behind the last one."""
    found = _first_unlike(list(a), list(b))
    mine, theirs, reason = found or (a[-1] if a else None, b[-1] if b else None, OUTPUTS_DIFFER)
    chosen = theirs or mine
    return Culprit(
        mine.path if mine else "", theirs.path if theirs else "", chosen.name if chosen else "output",
        mine.name if mine else "", theirs.name if theirs else "", f"{name}: {reason}",
        _plain_pairs(mine, theirs) if chosen else (), element=gap.first, values=gap.values,
        largest=gap.largest if gap.largest != float("inf") else None, tolerance=tolerance,
    )  # fmt: skip
