"""Where a recorded run is known to differ from a real one, in words: each reason is a note of the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from torch import nn

from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.step_records import MemoryEvent

OWN_LIBRARIES = ("aten.", "prim.", "prims.", "torchvision.", "higher_order.", "quantized.", "profiler.")
"""Operators of torch and torchvision, whose kernels are known or measured."""


class FollowedRun(Protocol):
    """What is left of a run: its events, and the parameters that operators read and no module registers."""

    events: Sequence[MemoryEvent]
    unregistered: Mapping[int, nn.Parameter]


def not_recorded(model: nn.Module, run: FollowedRun, like: str, train: bool) -> Iterator[Note]:
    """Recurrent layers, fused attention in eval mode, operators of other libraries, unregistered parameters."""
    recurrent = [name or type(model).__name__ for name, one in model.named_modules() if isinstance(one, nn.RNNBase)]
    if recurrent and like == "cuda":
        text = f"{_some(recurrent)}: cuDNN's workspace for recurrent layers follows a rule measured on an H100."
        yield Note(text, Level.INFO)
    elif recurrent and "aten._pack_padded_sequence" in {event.operator for event in run.events}:
        yield Note(
            f"{_some(recurrent)}: of packed sequences each step is followed as on meta; a CPU multiplies the inputs of "
            "all steps at once, which takes more.",
            Level.WARNING,
        )
    if not train and any(isinstance(one, nn.MultiheadAttention) for one in model.modules()):
        yield Note(
            "nn.MultiheadAttention may take a fused path in inference; recorded is the plain one, that of "
            "torch.backends.mha.set_fastpath_enabled(False).",
            Level.INFO,
        )
    operators = {event.operator for event in run.events}
    foreign = sorted(name for name in operators if name and not name.startswith(OWN_LIBRARIES))
    if foreign:
        yield Note(
            f"{_some(foreign)}: of an operator that is not torch's the results are counted, not what it takes inside.",
            Level.WARNING,
        )
    if run.unregistered:
        many = sum(parameter.numel() for parameter in run.unregistered.values())
        yield Note(
            f"{many:,} parameters in {len(run.unregistered)} tensors are used, and no module registers them (layers in "
            "a plain list?). They count as weights; no optimizer gets them, and nothing frees their gradients.",
            Level.WARNING,
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
