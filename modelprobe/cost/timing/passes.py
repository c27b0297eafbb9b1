"""A model made ready to be timed: its pass as a function without arguments, in the setting that was asked for."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.report.blocks import Note
from modelprobe.tracing.failures import explained, model_errors
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.restore import mode_set, own_parameters, restored
from modelprobe.tracing.tensors import with_tensors

SHORTEST_SAMPLE = 1e-3
"""Seconds; the clock and the call around a run are then below one in a thousand."""


@dataclass(frozen=True)
class TimingSetting:
    """How a pass is run. `threads` are those of the CPU, None for as many as there are."""

    threads: int | None = None
    amp: bool = False
    channels_last: bool = False

    def texts(self) -> tuple[str, ...]:
        """What differs from a plain pass."""
        words = {"autocast": self.amp, "channels last": self.channels_last}
        return tuple(word for word, is_so in words.items() if is_so)

    def check(self) -> None:
        """Raise BadInput for no thread."""
        if self.threads is not None and self.threads < 1:
            raise BadInput(f"--threads {self.threads} is no number of threads", "for example --threads 4")


@dataclass
class PreparedPass:
    """A pass that ran once already (`first_s`). `close` gives the model back as it was."""

    step: Callable[[], Any]
    setting: TimingSetting
    device: torch.device
    first_s: float
    batch: int
    threads: int
    notes: tuple[Note, ...]
    env: Mapping[str, Any]
    stack: ExitStack = field(repr=False)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs as they are described."""
        return tuple(self.env.get("inputs", ()))

    def close(self) -> None:
        """Give the model back as it was."""
        self.stack.close()

    @contextmanager
    def active(self) -> Iterator[None]:
        """The state of torch in which passes are timed: threads, no gradients; no collector of garbage in between."""
        before, collects = torch.get_num_threads(), gc.isenabled()
        if before != self.threads:
            torch.set_num_threads(self.threads)
        gc.disable()
        try:
            with torch.inference_mode():
                yield
        finally:
            if collects:
                gc.enable()
            if before != self.threads:
                torch.set_num_threads(before)

    def seconds(self, number: int) -> float:
        """Seconds of one pass, the mean of `number` in a row; as `torch.utils.benchmark` takes them."""
        self.wait()
        started = time.perf_counter()
        for _ in range(number):
            self.step()
        self.wait()
        return (time.perf_counter() - started) / number

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def runs_a_sample(self, shortest: float = SHORTEST_SAMPLE) -> int:
        """How many passes in a row make a sample of `shortest` seconds at least. It warms up."""
        with self.active():
            number, once = 1, self.seconds(1)
            while number * once < shortest / 2:
                number = max(2 * number, math.ceil(shortest / 2 / max(once, 1e-9)))
                once = self.seconds(number)
        return max(1, math.ceil(shortest / once))


def prepare_pass(
    model: nn.Module, /, *args: Any, kwargs: Mapping[str, Any], device: str, notes: Sequence[Note],
    env: Mapping[str, Any], setting: TimingSetting,
) -> PreparedPass:  # fmt: skip
    """`model(*args, **kwargs)` in that setting, run once. Raises ModelRaised; BadInput for no thread."""
    setting.check()
    place = next((tensor.device for tensor in model.parameters()), torch.device(str(env.get("device", "cpu"))))
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        # For a recording it is switched off, since its parts cannot be told apart; what is timed has it.
        torch.backends.mha.set_fastpath_enabled(fast)
        if setting.channels_last:
            stack.enter_context(own_parameters(model, False, ()))
            model.to(memory_format=torch.channels_last)
            args, kwargs = with_tensors((args, dict(kwargs)), _in_channels_last)
        stack.enter_context(mode_set(model, False))
        autocast = partial(torch.autocast, place.type) if setting.amp else nullcontext

        def step() -> Any:
            with autocast():
                return model(*args, **kwargs)

        threads = setting.threads or torch.get_num_threads()
        batch = next((value.shape[0] for value in (*args, *kwargs.values()) if _is_batched(value)), 1)
        made = PreparedPass(step, setting, place, 0, batch, threads, tuple(notes), env, stack)
        running = Running(lambda: 0, lambda tensor: True)
        with made.active(), model_errors(partial(explained, model, args, kwargs, device, running)):
            made.first_s = made.seconds(1)
        made.stack = stack.pop_all()
    return made


def _in_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _is_batched(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1
