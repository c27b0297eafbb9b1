"""The records of a training step and of memory over time: plain values, beside those of a forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from modelprobe.report.blocks import Note
from modelprobe.tracing.records import OpCall, Trace, Uncounted, uncounted


class GradientOp(NamedTuple):
    """One operator of a backward pass. `op.module` is the module whose forward asked for it.

    `weight_macs` and `weight_flops` are the part that computes gradients of parameters alone; the rest computes those
    of activations. `recomputation` is a forward that runs again (activation checkpointing). `node` is autograd's name
    of what was running, empty for none.
    """

    op: OpCall
    phase: Literal["backward", "recomputation"]
    node: str
    weight_macs: int
    weight_flops: int


@dataclass(frozen=True)
class TrainingTrace:
    """One recorded forward, in training mode, and the backward pass from its outputs.

    `summed` names the outputs whose sum stands for the loss, `trained` the parameters that received a gradient (by
    their first names), `frozen` those that wanted none, `unreached` those that wanted one and got none.
    `forward_macs` is the forward as autograd saw it, operator by operator.
    """

    forward: Trace
    gradients: tuple[GradientOp, ...]
    summed: tuple[str, ...]
    trained: frozenset[str]
    frozen: frozenset[str]
    unreached: tuple[str, ...]
    forward_macs: int
    notes: tuple[Note, ...]

    @property
    def uncounted(self) -> tuple[Uncounted, ...]:
        """The operators without a rule, of both passes."""
        return uncounted((*self.forward.ops, *(step.op for step in self.gradients)))


@dataclass(slots=True)
class MemoryBlock:
    """One storage. `made` and `freed` are places in `MemoryTrace.events`, -1 for never; `made_by` is an operator.

    `role` is weight, buffer, input, gradient, optimizer or activation. `kept` says that it outlived the forward in
    which it was made. `last_used_by` is the last operator that read it.
    """

    number: int
    nbytes: int
    role: str
    made_by: str
    module: str
    phase: str
    device: str
    freed: int = -1
    made: int = -1
    kept: bool = False
    last_used_by: str = ""
    last_used_in: str = ""
    last_used_phase: str = ""


@dataclass(frozen=True, slots=True)
class MemoryEvent:
    """A block is taken (`taken`) or given back, while `operator` of `module` runs in that phase."""

    block: int
    taken: bool
    operator: str
    module: str
    phase: str
    step: int


@dataclass(frozen=True)
class MemoryTrace:
    """Every block of memory of a run, and the order in which they were taken and given back.

    The first `start` events are weights, buffers and inputs. `steps` counts the training steps, 0 for inference.
    """

    blocks: tuple[MemoryBlock, ...]
    events: tuple[MemoryEvent, ...]
    start: int
    steps: int
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
