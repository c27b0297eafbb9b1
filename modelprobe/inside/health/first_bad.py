"""The first operator that puts out NaN or infinity for finite operands, forward or backward, and its line of source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modelprobe.inside.divergence.lines import calling_lines
from modelprobe.inside.divergence.tape import Tape, TapeOp, flat_tensors


@dataclass(frozen=True, slots=True)
class BadOperator:
    """Where values stopped being finite. `line` is empty in a backward pass, which no line of source calls."""

    operator: str
    path: str
    backward: bool
    line: str
    given: str
    what: str


class NonFiniteTape(Tape):
    """Watches a run for the first operator whose operands are finite and whose result is not."""

    def __init__(self) -> None:
        super().__init__()
        self.found: BadOperator | None = None

    def before(self, op: TapeOp, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if self.found is not None or op.role == "source" or op.kind == "view":
            return None
        given = [t for t in flat_tensors(args, kwargs) if t.is_floating_point()]
        largest = max((float(t.detach().abs().max()) for t in given if t.numel() and all_finite(t)), default=0.0)
        finite = all(map(all_finite, given))
        return (finite, largest, "" if op.backward else next(iter(calling_lines()), ""))

    def after(self, op: TapeOp, results: Sequence[Tensor], before: Any) -> None:
        if before is None or self.found is not None or not before[0]:
            return
        what = made_bad(op.name, results)
        if what:
            self.found = BadOperator(op.name, op.path, op.backward, before[2], f"{before[1]:.3g}", what)


def made_bad(name: str, results: Sequence[Tensor]) -> str:
    """`NaN` or `infinity` for what an operator put out, empty where it is finite or meant so, as a mask is."""
    if name.startswith("aten.empty") or "full" in name or "fill" in name:
        return ""
    bad = next((t for t in results if t.is_floating_point() and not all_finite(t)), None)
    return "" if bad is None else "NaN" if bool(bad.isnan().any()) else "infinity"


def all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(torch.isfinite(tensor).all())


Probe = Callable[[Tape], Any]


def first_bad_operator(run: Probe) -> BadOperator | None:
    """What `run(tape)`, which runs forward and backward under a tape, does first that is not finite."""
    tape = NonFiniteTape()
    run(tape)
    return tape.found
