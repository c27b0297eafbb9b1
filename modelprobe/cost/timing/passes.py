"""A model made ready to be timed: its pass as a function without arguments, in the setting that was asked for."""

from __future__ import annotations

import gc
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.cost.memory.steps import StepSetting, step_loss
from modelprobe.errors import BadInput, one_line
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.failures import explained, model_errors
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.restore import mode_set, own_parameters, restored
from modelprobe.tracing.tensors import with_tensors

SHORTEST_SAMPLE = 1e-3
"""Seconds; the clock and the call around a run are then below one in a thousand."""


MOST_THREADS = 8
"""Threads for each core that torch is asked for at most; far more end the process."""


@dataclass(frozen=True)
class TimingSetting:
    """How a pass is run: a forward, or (`step`) a training step. `threads` are the CPU's, None for all.

    `step` is as for `memory`; its learning rate is zero here, so that every step is the same.
    """

    threads: int | None = None
    amp: bool = False
    channels_last: bool = False
    compiled: bool = False
    cuda_graph: bool = False
    step: StepSetting | None = None

    def texts(self) -> tuple[str, ...]:
        """What differs from a plain pass."""
        words = {
            "autocast": self.amp, "channels last": self.channels_last, "compiled": self.compiled,
            "CUDA graph": self.cuda_graph,
        }  # fmt: skip
        return tuple(word for word, is_so in words.items() if is_so)

    def check(self, device: str) -> None:
        """Raise BadInput for no thread, and for a graph where there is none."""
        cores = os.cpu_count() or 1
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS * cores:
            raise BadInput(
                f"--threads {self.threads:,} is no number of threads for {cores} cores",
                f"for example --threads {cores}",
            )
        if device == "meta":
            raise BadInput("on meta nothing is computed, so nothing takes time", "--device cpu, or --predict rtx4090")
        if self.cuda_graph and (not device.startswith("cuda") or self.step or self.compiled):
            raise BadInput(
                "--cuda-graph is for an eager forward on a CUDA device", "leave it out, or see --device cuda"
            )


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
    spare_bytes: int = 0  # of weights that lie beside those in use

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs as they are described."""
        return tuple(self.env.get("inputs", ()))

    def close(self) -> None:
        """Give the model back as it was."""
        self.stack.close()

    @contextmanager
    def active(self, warm: bool = False) -> Iterator[None]:
        """The state of torch in which passes are timed: threads, gradients; no garbage collector in between.

        With `warm` a pass is run first, in which torch starts its threads.
        """
        before, collects = torch.get_num_threads(), gc.isenabled()
        if before != self.threads:
            torch.set_num_threads(self.threads)
        gc.disable()
        try:
            with torch.enable_grad() if self.setting.step else torch.inference_mode():
                if warm:
                    self.seconds(1)
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

    def peak_bytes(self) -> int | None:
        """The most that torch's allocator gave out during a pass, on a CUDA device; else None."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        with self.active():
            self.seconds(1)
        return torch.cuda.max_memory_allocated(self.device) - self.spare_bytes

    def event_seconds(self) -> float | None:
        """Seconds of one pass between two CUDA events; None on another device.

        They hold no time of the host before the first kernel starts and after the last one ends.
        """
        if self.device.type != "cuda":
            return None
        event: Any = torch.cuda.Event
        with torch.cuda.device(self.device):
            begin, end = event(enable_timing=True), event(enable_timing=True)
            begin.record()
            self.step()
            end.record()
        self.wait()
        return float(begin.elapsed_time(end)) / 1e3

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
    """`model(*args, **kwargs)` in that setting, run once. Raises ModelRaised; BadInput for what cannot be.

    What cannot be compiled, or captured as a graph, runs eagerly, and a note says so.
    """
    place = next((tensor.device for tensor in model.parameters()), torch.device(str(env.get("device", "cpu"))))
    setting.check(str(place))
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.enter_context(restored(model))
        # For a recording it is switched off, since its parts cannot be told apart; what is timed has it.
        torch.backends.mha.set_fastpath_enabled(fast)
        parameters, spare = dict(model.named_parameters()), 0
        if setting.step or setting.channels_last:
            spare = sum(tensor.nbytes for tensor in parameters.values())
            parameters = stack.enter_context(own_parameters(model, False, setting.step.freeze if setting.step else ()))
        if setting.channels_last:
            model.to(memory_format=torch.channels_last)
            args, kwargs = with_tensors((args, dict(kwargs)), _in_channels_last)
        stack.enter_context(mode_set(model, setting.step is not None))
        threads = setting.threads or torch.get_num_threads()
        if threads > (os.cpu_count() or 1):
            text = f"{threads} threads share {os.cpu_count()} cores: they wait for each other."
            notes = (*notes, Note(text, Level.WARNING))
        batch = next((value.shape[0] for value in (*args, *kwargs.values()) if _is_batched(value)), 1)
        run = _step_of(model, args, kwargs, setting, parameters, place)
        made = PreparedPass(run, setting, place, 0, batch, threads, tuple(notes), env, stack, spare)
        running = Running(lambda: 0, lambda tensor: True)
        with made.active(), model_errors(partial(explained, model, args, kwargs, device, running)):
            made.first_s = made.seconds(1)
        if setting.compiled:
            _use_instead(made, "torch.compile", replace(setting, compiled=False), lambda: _step_of(
                torch.compile(model), args, kwargs, setting, parameters, place))  # fmt: skip
        if setting.cuda_graph:
            _use_instead(made, "The CUDA graph", replace(setting, cuda_graph=False), partial(_captured, run, place))
        made.stack = stack.pop_all()
    return made


def _step_of(
    model: Callable[..., Any], args: Any, kwargs: Mapping[str, Any], setting: TimingSetting,
    parameters: dict[str, nn.Parameter], place: torch.device,
) -> Callable[[], Any]:  # fmt: skip
    # Casts of weights are not kept from one pass to the next, as they are not where each has its own autocast.
    autocast = partial(torch.autocast, place.type, cache_enabled=not setting.cuda_graph)
    step, optimizer = setting.step, None

    def forward() -> Any:
        if not setting.amp:
            return model(*args, **kwargs)
        with autocast():
            return model(*args, **kwargs)

    if step is None:
        return forward
    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    if step.optimizer and trained:
        optimizer = step.optimizer(trained)
        for group in optimizer.param_groups:
            group["lr"] = 0.0

    def training_step() -> None:
        with autocast(enabled=setting.amp):
            loss = step_loss(step, model(*args, **kwargs), parameters)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return training_step


def _use_instead(made: PreparedPass, what: str, without: TimingSetting, make: Callable[[], Callable[[], Any]]) -> None:
    """Let the pass be run by what `make` gives, or leave it with a note where that raises."""
    eager = made.step
    # Compilers look for CUDA, and say on stderr what they do not find.
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with made.active():
            started = time.perf_counter()
            made.step = make()
            made.seconds(1)
            made.first_s = time.perf_counter() - started
    except Exception as error:  # noqa: BLE001 - compilers raise whatever they meet
        made.step, made.setting = eager, without
        text = f"{what} failed ({type(error).__name__}: {one_line(error, 160)}); the times are those of eager mode."
        made.notes = (*made.notes, Note(text, Level.WARNING))
    finally:
        logger.setLevel(level)


def _captured(step: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """The pass as one graph of kernels, launched at once. It is run a few times on a stream of its own before."""
    cuda: Any = torch.cuda
    stream, graph = cuda.Stream(device), cuda.CUDAGraph()
    stream.wait_stream(cuda.current_stream(device))
    with cuda.stream(stream):
        for _ in range(3):
            step()
    cuda.current_stream(device).wait_stream(stream)
    with cuda.graph(graph):
        step()
    replay: Callable[[], Any] = graph.replay
    return replay


def _in_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _is_batched(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 1
