"""Which recorded operator is it that the profiler saw? By modules first, then by the order of operators in a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from modelprobe.cost.timing.layers.profiled import Event
from modelprobe.tracing.records import OpCall, Trace

IN_FORWARD, IN_BACKWARD, IN_OPTIMIZER = "forward", "backward", "optimizer"


@dataclass(frozen=True, slots=True)
class ProfiledPiece:
    """Time that belongs to one place: the call of a module, the operator's name, the recorded operators that it did.

    `ops` are indices in the ledger: one where an operator was found, none for what the ledger does not have, several
    where one kernel did what was recorded in parts. `events` is how many events of the profiler lie inside, each of
    which took its time. The empty `operator` stands for what a module does between operators. `phase` is the part of a
    training step.
    """

    call: int
    operator: str
    ops: tuple[int, ...]
    seconds: float
    device_s: float
    events: int
    phase: str = IN_FORWARD


@dataclass(slots=True)
class Aligner:
    """Places the events of a forward beside the first `many` recorded operators (None for all).

    `homes` says in which call of a module autograd's numbers were given away.
    """

    trace: Trace
    many: int | None = None
    homes: dict[int, int] = field(default_factory=dict)
    children: dict[int, list[int]] = field(default_factory=dict)
    own: dict[int, list[int]] = field(default_factory=dict)
    pieces: list[ProfiledPiece] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, call in enumerate(self.trace.calls):
            self.children.setdefault(call.parent, []).append(number)
        for index, op in enumerate(self.trace.ops[: self.many]):
            self.own.setdefault(op.call, []).append(index)

    def call(self, number: int, event: Event) -> None:
        """What ran inside a call of a module, or of the pass as a whole (-1)."""
        self.homes.update({part.sequence: number for part in event.all_inside() if part.sequence >= 0})
        self.between(number, event, self.block(number, self.items(number), event.inside))

    def between(self, call: int, event: Event, inside: Sequence[Event]) -> None:
        """What is left of an event beside those of its parts that have a place of their own."""
        seconds = (event.duration - sum(part.duration for part in inside)) / 1e9
        self.pieces.append(ProfiledPiece(call, "", (), max(0.0, seconds), event.device_ns / 1e9, len(inside)))

    def items(self, number: int) -> list[tuple[int, bool]]:
        """A call's own operators and the calls inside it, in order: (index or number, whether it is a call)."""
        calls = [(self.trace.calls[child].first_op, 0, child) for child in self.children.get(number, ())]
        ops = [(index, 1, index) for index in self.own.get(number, ())]
        return [(at, not is_op) for _, is_op, at in sorted([*calls, *ops])]

    def block(self, number: int, items: list[tuple[int, bool]], events: Sequence[Event]) -> list[Event]:
        """Place `events` beside `items`; calls of modules divide both. Returns the events that got a place."""
        placed: list[Event] = []
        ops: list[int] = []
        between: list[Event] = []
        at = 0
        for event in _with_modules_outside(events):
            child = self._next_call(items, at, event)
            if child is None:
                between.append(event)
                continue
            ops += self._all_ops(items[at:child])
            placed += self.segment(number, ops, between)
            ops, between, at = [], [], child + 1
            self.call(items[child][0], event)
            placed.append(event)
        ops += self._all_ops(items[at:])
        return [*placed, *self.segment(number, ops, between)]

    def _next_call(self, items: Sequence[tuple[int, bool]], start: int, event: Event) -> int | None:
        if event.module is None:
            return None
        first = self.trace.tree.aliases
        for place in range(start, len(items)):
            at, is_call = items[place]
            path = self.trace.calls[at].path if is_call else ""
            if is_call and first.get(path, path) == event.module:
                return place
        return None

    def _all_ops(self, items: Sequence[tuple[int, bool]]) -> Iterator[int]:
        """Operators of these items, and of the calls among them, which ran inside a kernel that skips them."""
        for at, is_call in items:
            if is_call:
                yield from range(self.trace.calls[at].first_op, self.trace.calls[at].end_op)
            else:
                yield at

    def segment(self, number: int, ops: Sequence[int], events: Sequence[Event]) -> list[Event]:
        """Operators beside events between two calls of modules."""
        found = matched([self.trace.ops[index] for index in ops], events)
        placed: list[Event] = []
        left = [index for at, index in enumerate(ops) if at not in {place for place, _ in found if place is not None}]
        unknown = [event for place, event in found if place is None]
        # What did the operators that were not found: the longest of the events that are none of the ledger's.
        did = max(unknown, key=lambda event: event.duration, default=None) if left else None
        for place, event in found:
            own = (ops[place],) if place is not None else tuple(left) if event is did else ()
            below = sum(1 for _ in event.all_inside())
            seconds, device = event.duration / 1e9, event.kernels_ns() / 1e9
            self.pieces.append(ProfiledPiece(number, event.operator, own, seconds, device, below))
            placed.append(event)
        return placed


def _with_modules_outside(events: Sequence[Event]) -> Iterator[Event]:
    """The events, where an operator that calls modules (a custom function) is replaced by what runs inside it."""
    for event in events:
        if event.module is None and any(one.module is not None for one in event.all_inside()):
            yield from _with_modules_outside(event.inside)
        else:
            yield event


def matched(ops: Sequence[OpCall], events: Sequence[Event]) -> list[tuple[int | None, Event]]:
    """(place in `ops`, event) in order; None for an event that is none of them.

    An event that is no operator of the ledger is a composite that was recorded by its parts, where all that runs inside
    was recorded, a product among it, or where its parts take most of its time. Else it is a kernel of its own, which
    may happen to reshape as the recorded operators do.
    """
    found: list[tuple[int | None, Event]] = []
    at = 0

    def take(some: Sequence[Event]) -> int:
        nonlocal at
        nanoseconds = 0
        for event in some:
            ahead = next(
                (n for n in range(at, min(len(ops), at + PASSED_OVER)) if _same_operator(ops[n].name, event.operator)),
                None,
            )
            if ahead is not None:
                at = ahead + 1
                found.append((ahead, event))
                nanoseconds += event.duration
                continue
            before, place = len(found), at
            inside = take(event.inside)
            parts = [place for place, _ in found[before:]]
            whole = None not in parts and any(ops[place].macs for place in parts if place is not None)
            if whole or 2 * inside >= event.duration:
                nanoseconds += inside
            else:
                del found[before:]
                at = place
                found.append((None, event))
        return nanoseconds

    take(events)
    return found


def _same_operator(recorded: str, ran: str) -> bool:
    """Whether two names are of one operator: autograd adds gradients up in place where it may."""
    return recorded == ran or recorded.rstrip("_") == ran.rstrip("_")


PASSED_OVER = 8
"""How many recorded operators may be passed over to find one: what another kernel did, or nothing had to do."""


def aligned_pieces(trace: Trace, whole: Event) -> list[ProfiledPiece]:
    """The pieces of one profiled pass. Together they last as long as the pass."""
    aligner = Aligner(trace)
    aligner.call(-1, whole)
    return aligner.pieces
