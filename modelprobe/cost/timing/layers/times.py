"""Time by module and by operator: profiled passes, less what the profiler costs, scaled to the time of a plain pass."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from modelprobe.cost.rollup import Amounts, Rollup, choose_rows
from modelprobe.cost.tables import hidden_notes, row_table
from modelprobe.cost.timing.layers.align import IN_BACKWARD, IN_FORWARD, ProfiledPiece
from modelprobe.report.blocks import Block, Cell, Column, Fact, Facts, Level, Note
from modelprobe.report.units import Unit, share
from modelprobe.tracing.records import OpCall, Trace

BETWEEN, IDLE = "(between operators)", "(GPU waits)"
"""The rows of time in no operator: the model's Python code and torch's, and a GPU that was given nothing to do."""


@dataclass(frozen=True, slots=True)
class TimedCost(Amounts):
    """Seconds, and the arithmetic and traffic that was recorded for them. `host_s` is the time on the processor."""

    seconds: float = 0.0
    host_s: float = 0.0
    macs: int = 0
    flops: int = 0
    bytes_moved: int = 0
    backward_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TimedPiece:
    """A piece with its reconciled time, as a rollup takes it. `ops` are indices in the ledger."""

    name: str
    kind: str
    module: str
    call: int
    ops: tuple[int, ...]
    cost: TimedCost
    phase: str = IN_FORWARD


@dataclass(frozen=True, slots=True)
class LayerTime:
    """A module: seconds with (`inclusive_s`) and without (`exclusive_s`) the modules inside it, per pass.

    `share` is the inclusive time as a part of the median. Costs are those of everything inside. `backward_s` is the
    part of the inclusive time that a training step's backward pass takes.
    """

    path: str
    name: str
    cls: str
    depth: int
    calls: int
    inclusive_s: float
    exclusive_s: float
    share: float
    macs: int
    flops: int
    bytes_moved: int
    backward_s: float = 0.0


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """An operator by name: how often it ran in a pass, and how long it took in all."""

    name: str
    kind: str
    calls: int
    seconds: float
    share: float
    macs: int
    flops: int
    bytes_moved: int


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Where the median goes. `instrumented_s` is a pass under the profiler with `events`, `plain_s` one without.

    `scale` brought the sum of all times, after the profiler's own, to the median. `mapped` operators of `recorded` (but
    for views that were not seen again, which do nothing) have a time of their own, `grouped` share one with others.
    `alike` is the share of passes that ran the same operators.
    `phases` are the seconds of the forward, the backward and the optimizer of a training step, empty of a forward.
    """

    by: str
    median_s: float
    plain_s: float
    passes: int
    instrumented_s: float
    events: int
    scale: float
    recorded: int
    mapped: int
    grouped: int
    alike: float
    layers: tuple[LayerTime, ...]
    operators: tuple[OperatorTime, ...]
    shown: tuple[int | None, int | None]
    phases: Mapping[str, float] = field(default_factory=dict)

    def blocks(self) -> tuple[Block, ...]:
        """What the profiler costs, the table asked for, and how far times and operators belong together."""
        slower = self.instrumented_s / self.plain_s
        cost = f"make it {slower:.2f}x as long, taken off" if slower > 1 else "cost less than what passes differ by"
        detail = f"{self.passes} passes; the profiler's {self.events:,} events {cost}; scaled by {self.scale:.3f}"
        facts = [Fact(name.capitalize(), took, Unit.SECONDS, share(took / self.median_s))
                 for name, took in self.phases.items()]  # fmt: skip
        facts.append(Fact("Profiled", self.instrumented_s, Unit.SECONDS, detail))
        depth, top = self.shown
        notes = [*self._notes()]
        if self.by == "operator":
            table = row_table(OPERATOR_COLUMNS, self.operators[:top], tree=False, cell=_cell, key="operators")
            hidden = len(self.operators) - len(table.rows)
            return (Facts(tuple(facts)), table, *notes, *hidden_notes(hidden, None, False))
        layers: Sequence[LayerTime] = self.layers
        if top is not None:
            ranked = sorted(layers, key=lambda one: -one.exclusive_s)
            layers = [replace(one, name=one.path or one.name) for one in ranked]
        rows, at, hidden = choose_rows(layers, depth, top, tree=top is None)
        table = row_table(
            STEP_COLUMNS if self.phases else LAYER_COLUMNS, rows, tree=top is None, key="layers", cell=_cell,
            mark=lambda row: f"called x{row.calls}" if row.calls > 1 else "",
        )  # fmt: skip
        return (Facts(tuple(facts)), table, *notes, *hidden_notes(hidden, at, top is None))

    def _notes(self) -> Iterable[Note]:
        if self.grouped:
            yield Note(
                f"{self.mapped:,} of {self.recorded:,} recorded operators have a time of their own; {self.grouped:,} "
                "ran inside kernels that do the work of several, and share theirs.",
                Level.INFO,
            )
        missing = self.recorded - self.mapped - self.grouped
        if missing:
            yield Note(f"{missing:,} of {self.recorded:,} recorded operators were not seen again.", Level.WARNING)
        if self.alike < ALIKE:
            yield Note(
                f"The forward is not the same each time: no more than {self.alike:.0%} of the profiled passes ran the "
                "same operators. Times are means over passes, costs those of the recorded one.",
                Level.WARNING,
            )
        if abs(self.scale - 1) > SCALED_MUCH:
            yield Note(
                f"The profiled passes and the plain ones differ by {abs(1 / self.scale - 1):.0%} beyond what the "
                "profiler costs: another process may have run. Shares hold better than seconds.",
                Level.WARNING,
            )


SCALED_MUCH = 0.1

ALIKE = 0.75
"""Share of passes that run the same operators below which a forward is said to differ from pass to pass."""

MOST_OF_AN_EVENT = 1e-5
"""Seconds that noting an event takes at most; beyond that the machine did something else."""

PieceKey = tuple[int, str, tuple[int, ...], str, int]
"""Call, operator, indices in the ledger, phase, and the how manieth such piece of a pass."""

LAYER_COLUMNS = (
    Column("name", "Module"),
    Column("cls", "Class", priority=2),
    Column("inclusive_s", "Inclusive", Unit.SECONDS),
    Column("exclusive_s", "Exclusive", Unit.SECONDS),
    Column("share", "Share", Unit.SHARE, bar=True),
    Column("calls", "Calls", Unit.COUNT, priority=4),
    Column("macs", "MACs", Unit.MACS, priority=3),
    Column("rate", "FLOP/s", Unit.QUANTITY, priority=1),
)
STEP_COLUMNS = (*LAYER_COLUMNS[:4], Column("backward_s", "Backward", Unit.SECONDS, priority=1), *LAYER_COLUMNS[4:])
OPERATOR_COLUMNS = (
    Column("name", "Operator"),
    Column("calls", "Calls", Unit.COUNT),
    Column("seconds", "Time", Unit.SECONDS),
    Column("share", "Share", Unit.SHARE, bar=True),
    Column("macs", "MACs", Unit.MACS, priority=2),
    Column("rate", "FLOP/s", Unit.QUANTITY, priority=1),
)


def reconciled(
    trace: Trace, passes: Sequence[Sequence[ProfiledPiece]], median_s: float, on_gpu: bool, slower: float = 1.0
) -> Reconciled:
    """The pieces of the faster passes, without the time of the profiler's events, adding up to `median_s`.

    A profiled pass takes `slower` times as long as a plain one.

    On a GPU times are those of the kernels, which no profiler slows down; the rest of the median it waited.
    """
    took = [math.fsum(piece.seconds for piece in pieces) for pieces in passes]
    slowest = _fastest_half(took)[-1]
    typical = [pieces for pieces, seconds in zip(passes, took, strict=True) if seconds <= slowest]
    whole = statistics.fmean(_fastest_half(took))  # means of pieces add up, as their medians do not
    plain_s = whole / max(slower, 1e-9)
    found: dict[PieceKey, list[ProfiledPiece]] = {}
    for pieces in typical:
        seen: Counter[tuple[int, str, tuple[int, ...], str]] = Counter()
        for piece in pieces:
            key = (piece.call, piece.operator, piece.ops, piece.phase)
            seen[key] += 1
            found.setdefault((*key, seen[key]), []).append(piece)
    many = len(typical)
    events = sum(len(pieces) * bool(key[1]) + sum(p.events for p in pieces) for key, pieces in found.items()) // many
    each = min(MOST_OF_AN_EVENT, max(0.0, whole - plain_s) / max(1, events))
    host = {
        key: max(0.0, sum(piece.seconds - each * piece.events for piece in pieces) / many)
        for key, pieces in found.items()
    }
    device = {key: sum(piece.device_s for piece in pieces) / many for key, pieces in found.items()}
    busy, on_host = sum(device.values()), sum(host.values())
    times = device if on_gpu else host
    scale = min(1.0, median_s / busy) if on_gpu and busy else median_s / on_host
    made = [
        TimedPiece(
            key[1] or BETWEEN,
            *_kind_and_module(trace, key),
            key[0],
            key[2],
            _cost(trace, key[2], times[key] * scale, host[key], key[3] == IN_BACKWARD),
            key[3],
        )
        for key in found
    ]
    if on_gpu and median_s > busy:
        made.append(TimedPiece(IDLE, "", "", -1, (), TimedCost(median_s - busy)))
    kinds = Counter(frozenset(Counter((p.call, p.operator, p.ops) for p in pieces).items()) for pieces in passes)
    alike = max(kinds.values()) / len(passes)
    return Reconciled(trace, tuple(made), median_s, plain_s, len(passes), whole, events, scale, alike)


def _fastest_half(values: Sequence[float]) -> list[float]:
    """The lower half: what else runs on a machine makes passes slower, never faster."""
    return sorted(values)[: (len(values) + 1) // 2]


def _kind_and_module(trace: Trace, key: PieceKey) -> tuple[str, str]:
    """The kind of the operator, and the path of the module."""
    kind = trace.ops[key[2][0]].kind if len(key[2]) == 1 else ""
    return kind, trace.calls[key[0]].path if key[0] >= 0 else ""


def _cost(trace: Trace, ops: Sequence[int], seconds: float, host: float, backward: bool) -> TimedCost:
    some: list[OpCall] = [trace.ops[index] for index in ops]
    return TimedCost(
        seconds, host, sum(op.macs for op in some), sum(2 * op.macs + op.flops for op in some),
        sum(op.bytes_read + op.bytes_written for op in some), seconds if backward else 0.0,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reconciled:
    """Pieces that add up to the median."""

    trace: Trace
    pieces: tuple[TimedPiece, ...]
    median_s: float
    plain_s: float
    passes: int
    instrumented_s: float
    events: int
    scale: float
    alike: float = 1.0

    def rollup(self) -> Rollup[TimedCost]:
        """The pieces added up in every way."""
        items = [(piece, piece.cost) for piece in self.pieces]
        return Rollup(self.trace, items, TimedCost(), lambda cost: (-cost.seconds,))  # type: ignore[arg-type]

    def times(self, by: str, depth: int | None, top: int | None) -> LayerTimes:
        """By module and by operator; `by` says which of the two a report shows."""
        rollup, trace = self.rollup(), self.trace
        forward = [piece for piece in self.pieces if piece.phase == IN_FORWARD]
        calls = Counter(piece.module for piece in forward if piece.name == BETWEEN and piece.call >= 0)
        phases: Counter[str] = Counter()
        for piece in self.pieces:
            phases[piece.phase] += piece.cost.seconds  # type: ignore[assignment]
        zero = TimedCost()
        layers = tuple(
            LayerTime(
                place.path or "", place.name, place.detail, place.depth, calls[place.path or ""], place.cost.seconds,
                rollup.own.get(place.path or "", zero).seconds, place.cost.seconds / self.median_s, place.cost.macs,
                place.cost.flops, place.cost.bytes_moved, place.cost.backward_s,
            )
            for place in rollup.rows("module")
            if place.cost.seconds
        )  # fmt: skip
        operators = tuple(
            OperatorTime(
                place.name, place.detail, place.calls, place.cost.seconds, place.cost.seconds / self.median_s,
                place.cost.macs, place.cost.flops, place.cost.bytes_moved,
            )
            for place in rollup.rows("operator")
        )  # fmt: skip
        own = {piece.ops[0] for piece in self.pieces if len(piece.ops) == 1}
        mapped = len(own)
        grouped = len({index for piece in self.pieces if len(piece.ops) > 1 for index in piece.ops} - own)
        seen = own.union(*(piece.ops for piece in self.pieces))
        views = [op for index, op in enumerate(trace.ops) if index not in seen and not (op.bytes_read or op.macs)]
        return LayerTimes(
            by, self.median_s, self.plain_s, self.passes, self.instrumented_s, self.events, self.scale,
            len(trace.ops) - len(views), mapped, grouped, self.alike, layers, operators, (depth, top),
            dict(phases) if len(phases) > 1 else {},
        )  # fmt: skip


def _cell(row: LayerTime | OperatorTime, key: str) -> Cell:
    if key != "rate":
        found: Cell = getattr(row, key)
        return found
    time = row.inclusive_s if isinstance(row, LayerTime) else row.seconds
    return row.flops / time if row.flops and time else None
