"""What every operator of a recorded run puts out: smallest, largest and mean value; the first that is not finite, the
first of a type or on a device that nothing had before, with the line of source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from modelprobe.inside.divergence.lines import calling_lines
from modelprobe.inside.divergence.tape import flat_tensors, results_of
from modelprobe.inside.health.first_bad import all_finite, made_bad
from modelprobe.tracing.dispatch import describe_operator
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.records import OperatorValues

_WatchMode: Any = TorchDispatchMode  # whose methods have no types in some releases of torch


class ValueWatch(_WatchMode):  # type: ignore[misc]
    """Follows a recording; `values` are by the operator's place in it."""

    supports_higher_order_operators = True

    def __init__(self, inputs: Sequence[Tensor], running: Running) -> None:
        super().__init__()
        self.values: dict[int, OperatorValues] = {}
        self._running = running
        self._dtypes = {tensor.dtype for tensor in inputs if tensor.is_floating_point()}
        self._devices = {tensor.device.type for tensor in inputs}
        self._seen: set[str] = set()
        self._given = _not_finite(inputs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see tracing.dispatch.Observer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = flat_tensors(args, kwargs)
        with _disable_current_modes():
            before = "" if "NaN" in self._seen else _not_finite(given)
        self._note_kinds(given if not self.values else [t for t in given if isinstance(t, torch.nn.Parameter)])
        out = func(*args, **kwargs)
        number = self._running.ops() - 1  # of a composite that was taken apart: its last part
        with _disable_current_modes():
            self.values[number] = self._measured(describe_operator(func).name, results_of(out), before)
        return out

    def _note_kinds(self, tensors: Sequence[Tensor]) -> None:
        self._dtypes |= {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
        self._devices |= {tensor.device.type for tensor in tensors}

    def _measured(self, name: str, results: Sequence[Tensor], before: str) -> OperatorValues:
        said = self._first_bad(name, results, before)
        for tensor in results:
            if tensor.is_floating_point() and tensor.dtype not in self._dtypes:
                said = said or f"first {str(tensor.dtype).removeprefix('torch.')}"
            elif tensor.device.type not in self._devices:
                said = said or f"first on {tensor.device.type}"
        self._note_kinds(results)
        line = next(iter(calling_lines()), "") if said else ""
        device = results[0].device.type if results else ""
        return OperatorValues(*_range(results[0] if results else None), said, line, device)

    def _first_bad(self, name: str, results: Sequence[Tensor], before: str) -> str:
        """What is said of the first infinity and the first NaN. Infinities are meant where a mask is filled with them
        or was given to the constructor; what memory held that is not written yet says nothing."""
        what = "" if name.startswith("aten.empty") or "NaN" in self._seen else _not_finite(results)
        if not what or what in self._seen:
            return ""
        self._seen.add(what)
        if not before:
            return f"first {what}, from finite operands" if made_bad(name, results) else ""
        meant = what == before == "infinity" != self._given
        return "" if meant else f"first {what}, from operands with {before}"


def _not_finite(tensors: Sequence[Tensor]) -> str:
    """`NaN` where any tensor holds one, else `infinity` where any holds that, else nothing."""
    bad = [tensor for tensor in tensors if tensor.is_floating_point() and not all_finite(tensor)]
    return "" if not bad else "NaN" if any(bool(tensor.isnan().any()) for tensor in bad) else "infinity"


def _range(tensor: Tensor | None) -> tuple[float | None, float | None, float | None, int]:
    """Smallest, largest and mean of the finite values, and how many are not finite."""
    if tensor is None or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex():
        return None, None, None, 0
    wide = tensor.detach().to(torch.float64)
    kept = wide[torch.isfinite(wide)]
    bad = wide.numel() - kept.numel()
    if not kept.numel():
        return None, None, None, bad
    return float(kept.min()), float(kept.max()), float(kept.mean()), bad


class WatchedValues:
    """What `record` takes as `follow`. Of forwards that had to be tried again the last one counts."""

    def __init__(self) -> None:
        self._watch: ValueWatch | None = None

    def __call__(self, inputs: Sequence[Tensor], running: Running) -> ValueWatch:
        self._watch = ValueWatch(inputs, running)
        return self._watch

    @property
    def values(self) -> Mapping[int, OperatorValues]:
        """By the operator's place in the run."""
        return self._watch.values if self._watch is not None else {}
