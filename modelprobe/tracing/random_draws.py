"""Forwards that draw random numbers: the same ones in each call, and a record that they did."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from modelprobe.errors import BadInput
from modelprobe.tracing.completeness import generator_states
from modelprobe.tracing.module_tree import class_name
from modelprobe.tracing.restore import mode_set, restored, seed_generators


class RandomDraws:
    """Seeds the generators before each call of a model; `libraries` are those whose numbers it drew, in order."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.libraries: dict[str, None] = {}
        self._before: dict[str, Any] = {}

    def watch(self, model: nn.Module) -> None:
        """Look at each call of `model` from now on. A script takes no hooks: of one nothing is known."""
        if isinstance(model, torch.jit.ScriptModule):
            return
        model.register_forward_pre_hook(self._start)
        model.register_forward_hook(self.look, always_call=True)

    @property
    def text(self) -> str:
        """What is to be said; empty where nothing was drawn."""
        if not self.libraries:
            return ""
        return (
            f"The forward draws random numbers ({', '.join(self.libraries)}), which eval mode does not turn off: each "
            f"call was seeded with {self.seed}, and with another --seed the answer is another."
        )

    def _start(self, *_: Any) -> None:
        seed_generators(self.seed)
        self._before = _all_states()

    def look(self, *_: Any) -> None:
        """See what has been drawn since the call began. Of one that is stopped on its way no hook hears."""
        if self._before:
            after, before, self._before = _all_states(), self._before, {}
            self.libraries.update({name: None for name, state in before.items() if after.get(name) != state})


@contextmanager
def seeded_eval(model: nn.Module) -> Iterator[RandomDraws]:
    """Run in eval mode and leave the model as it was; a UserWarning tells of random numbers that a call drew."""
    refuse_without_values(model)
    draws = RandomDraws()
    with restored(model), mode_set(model, False):
        draws.watch(model)
        yield draws
    if draws.libraries:
        drawn = f"draws random numbers in eval mode ({', '.join(draws.libraries)}): each call was seeded with 0"
        warnings.warn(f"{class_name(model)} {drawn}", stacklevel=4)


def refuse_without_values(model: nn.Module) -> None:
    """Raises BadInput for a model of which a parameter or buffer is on meta: what it computes are no values."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise BadInput(
                f"{name} of {class_name(model)} is on meta and has no values",
                "build the model on the CPU, with weights",
            )


def _all_states() -> dict[str, Any]:
    found = {"torch": _bytes_of(torch.default_generator.get_state()), **generator_states()}
    cuda: Any = torch.cuda
    if cuda.is_initialized():
        found["torch.cuda"] = [_bytes_of(state) for state in cuda.get_rng_state_all()]
    return found


def _bytes_of(state: torch.Tensor) -> bytes:
    """Read without an operator, which a recording would take for one of the model's."""
    return ctypes.string_at(state.data_ptr(), state.numel())
