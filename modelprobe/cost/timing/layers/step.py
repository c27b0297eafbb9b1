"""Which module is it that a training step works for? The forward by its calls, the backward by autograd's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from modelprobe.cost.timing.layers.align import IN_BACKWARD, IN_OPTIMIZER, Aligner, ProfiledPiece, matched
from modelprobe.cost.timing.layers.profiled import NODE_MARK, Event
from modelprobe.tracing.records import Trace
from modelprobe.tracing.step_records import TrainingTrace

OPTIMIZER_MARKS = ("Optimizer.step#", "Optimizer.zero_grad#")
"""How the names of torch's own marks around an optimizer's work begin."""


def ledger_of_step(step: TrainingTrace) -> Trace:
    """One ledger: the operators of the forward, and behind them those of the backward."""
    return replace(step.forward, ops=(*step.forward.ops, *(gradient.op for gradient in step.gradients)))


def step_pieces(step: TrainingTrace, ledger: Trace, whole: Event) -> list[ProfiledPiece]:
    """The pieces of one profiled step, with the indices of `ledger_of_step`. Together they last as long as the step."""
    nodes = [event for event in whole.inside if event.name.startswith(NODE_MARK)]
    updates = [event for event in whole.inside if event.name.startswith(OPTIMIZER_MARKS)]
    apart = {id(event) for event in (*nodes, *updates)}
    took = sum(event.duration for event in (*nodes, *updates))
    rest = [event for event in whole.inside if id(event) not in apart]
    aligner = Aligner(ledger, len(step.forward.ops))
    aligner.call(-1, Event(whole.name, whole.start, max(whole.start, whole.end - took), whole.device_ns, rest))
    backward = _Backward(aligner, len(step.forward.ops))
    for event in nodes:
        backward.node(event)
    backward.share_the_rest()
    for event in updates:
        aligner.pieces.append(_piece(-1, event.name.partition("#")[0], (), event, IN_OPTIMIZER))
    return aligner.pieces


class _Backward:
    """Places the nodes in the order in which they ran; what adds up a gradient belongs to the node before."""

    def __init__(self, aligner: Aligner, first: int) -> None:
        self._aligner, self._home = aligner, -1
        self._left: dict[str, list[int]] = {}
        self._calls: dict[str, int] = {}
        for index, op in enumerate(aligner.trace.ops[first:], first):
            self._left.setdefault(op.module, []).append(index)
        for number, call in enumerate(aligner.trace.calls):
            self._calls.setdefault(call.path, number)

    def share_the_rest(self) -> None:
        """What was recorded and not found was done by the longest event of its module that is none of the ledger's."""
        unknown: dict[str, int] = {}
        pieces, calls = self._aligner.pieces, self._aligner.trace.calls
        for at, piece in enumerate(pieces):
            if piece.phase == IN_BACKWARD and piece.operator and not piece.ops:
                path = calls[piece.call].path if piece.call >= 0 else ""
                if path not in unknown or piece.seconds > pieces[unknown[path]].seconds:
                    unknown[path] = at
        for module, left in self._left.items():
            above = next((path for path in _own_and_parents(module) if path in unknown), None)
            if above is not None:
                piece = pieces[unknown[above]]
                pieces[unknown[above]] = replace(piece, ops=(*piece.ops, *left))

    def node(self, event: Event) -> None:
        """The operators of a node that runs, what runs again of the forward (checkpointing), and what is between."""
        trace = self._aligner.trace
        self._home = self._aligner.homes.get(event.sequence, self._home)
        again = list(_outermost_modules(event))
        left = self._left.get(trace.calls[self._home].path if self._home >= 0 else "", [])
        found = [] if again else matched([trace.ops[index] for index in left], list(_operators_of_node(event)))
        for place, part in found:
            own = () if place is None else (left[place],)
            self._aligner.pieces.append(_piece(self._home, part.operator, own, part, IN_BACKWARD))
        for part in again:
            home = self._calls.get(trace.tree.aliases.get(part.module or "", part.module or ""), self._home)
            self._aligner.pieces.append(_piece(home, "recomputation", (), part, IN_BACKWARD))
        placed = [part for _, part in found] + again
        seconds = (event.duration - sum(part.duration for part in placed)) / 1e9
        device = (event.kernels_ns() - sum(part.kernels_ns() for part in placed)) / 1e9
        between = ProfiledPiece(self._home, "", (), max(0.0, seconds), max(0.0, device), len(placed) + 1, IN_BACKWARD)
        self._aligner.pieces.append(between)
        taken = {place for place, _ in found}
        left[:] = [index for at, index in enumerate(left) if at not in taken]


def _own_and_parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _operators_of_node(event: Event) -> Iterator[Event]:
    """The operators that a node runs, below the marks of the node itself."""
    for part in event.inside:
        if "::" in part.name and not part.name.startswith("torch::autograd::"):
            yield part
        else:
            yield from _operators_of_node(part)


def _outermost_modules(event: Event) -> Iterator[Event]:
    for part in event.inside:
        if part.module is not None:
            yield part
        else:
            yield from _outermost_modules(part)


def _piece(call: int, operator: str, ops: tuple[int, ...], event: Event, phase: str) -> ProfiledPiece:
    below = sum(1 for _ in event.all_inside())
    return ProfiledPiece(call, operator, ops, event.duration / 1e9, event.kernels_ns() / 1e9, below, phase)
