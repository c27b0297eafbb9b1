"""The time of a forward pass here, end to end: no hook attached, by `torch.utils.benchmark`."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from modelprobe.console import stdout_kept, working
from modelprobe.cost.tables import plural
from modelprobe.cost.timing.achieved import AchievedRates, achieved_rates
from modelprobe.errors import BadInput
from modelprobe.model.build import LoadedModel, record, record_with
from modelprobe.report.blocks import Fact, Facts, Level, Note, Report
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.failures import explained, model_errors
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.records import Trace
from modelprobe.tracing.restore import mode_set, restored

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

PERCENTILES = {90: 64, 99: 662}
"""Percentile -> the least samples that carry it: enough that one of ten such runs at most lies beside it."""

SHORTEST_SAMPLE = 1e-3
"""Seconds; the clock and the call around a run are then below one in a thousand."""

LEAST_SAMPLES, MAX_SAMPLES = 3, 2000

NOISY = 0.1
"""Interquartile range over median from which a run is called noisy."""


@dataclass(frozen=True, slots=True)
class RawTimes:
    """What was measured: seconds of the first call and of each sample, and what has to be said."""

    first_s: float
    samples_s: tuple[float, ...]
    inputs: tuple[str, ...]
    batch: int
    notes: tuple[Note, ...]
    env: Mapping[str, Any]
    threads: int


@dataclass(frozen=True, slots=True)
class ProfileResult(Result):
    """The latency of one forward pass of the batch. `percentiles` holds those that the samples carry."""

    model: str
    inputs: tuple[str, ...]
    device: str
    threads: int
    batch: int
    median_s: float
    iqr_s: float
    percentiles: Mapping[str, float]
    first_s: float
    per_second: float
    macs: int
    flops_per_s: float
    samples_s: tuple[float, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    rates: AchievedRates | None = None

    def report(self) -> Report:
        """Median with its spread, throughput, the rate of arithmetic."""
        shares = ", ".join(f"p{name} {value * 1e3:.4g} ms" for name, value in self.percentiles.items())
        spread = f"IQR {self.iqr_s * 1e3:.3g} ms, {len(self.samples_s)} samples"
        facts = (
            Fact("Input", ", ".join(self.inputs) or "none"),
            Fact("Device", self.device, detail=plural(self.threads, "thread") if self.device == "cpu" else ""),
            Fact("Median", self.median_s, Unit.SECONDS, f"{spread}{', ' + shares if shares else ''}"),
            Fact("First call", self.first_s, Unit.SECONDS),
            Fact("Throughput", self.per_second, Unit.NUMBER, "examples per second"),
            *(self.rates.facts() if self.rates else ()),
        )
        title = f"{self.model}: time of one forward pass"
        return self.blocks_report(title, "modelprobe.profile/1", Facts(facts), *self.notes)


@stdout_kept()
def profile_model(loaded: LoadedModel, seconds: float, threads: int | None) -> ProfileResult:
    """Time the forward pass on the device of `loaded` for about `seconds`, weights random where none were given.

    Raises ModelRaised when the model raises, BadInput for no thread.
    """
    with working(f"timing {loaded.target.name}"):
        raw = record_with(loaded, partial(timed, seconds=seconds, threads=threads), "eval")
    return result_of(raw, record(loaded), loaded.target.name, str(loaded.env["device"]))


def result_of(raw: RawTimes, trace: Trace, model: str, device: str) -> ProfileResult:
    """The samples summed up, beside the arithmetic of the recorded forward."""
    median = statistics.median(raw.samples_s)
    quarters = statistics.quantiles(raw.samples_s, n=4) if len(raw.samples_s) > 1 else [median] * 3
    percentiles = {
        str(name): statistics.quantiles(raw.samples_s, n=100)[name - 1]
        for name, least in PERCENTILES.items()
        if len(raw.samples_s) >= least
    }
    spread = quarters[2] - quarters[0]
    notes = [*raw.notes]
    if spread > NOISY * median:
        text = f"A noisy run: the middle half of the samples spans {spread / median:.0%} of the median."
        notes.append(Note(text, Level.WARNING))
    return ProfileResult(
        model, raw.inputs, device, raw.threads, raw.batch, median, spread, percentiles, raw.first_s,
        raw.batch / median, trace.macs, trace.flops / median, raw.samples_s, tuple(notes), raw.env,
        achieved_rates(trace, median, device, raw.threads),
    )  # fmt: skip


def timed(
    model: nn.Module, /, *args: Any, kwargs: Mapping[str, Any], device: str, notes: Sequence[Note],
    env: Mapping[str, Any], seconds: float, threads: int | None,
) -> RawTimes:  # fmt: skip
    """Seconds of the first call and of samples of `model(*args, **kwargs)`, in eval mode without gradients."""
    if threads is not None and threads < 1:
        raise BadInput(f"--threads {threads} is no number of threads", "for example --threads 4")
    running = Running(lambda: 0, lambda tensor: True)
    before = torch.get_num_threads()
    with restored(model), mode_set(model, False), torch.inference_mode():
        with model_errors(partial(explained, model, args, kwargs, device, running)):
            started = time.perf_counter()
            model(*args, **kwargs)
            _waited(env)
            first = time.perf_counter() - started
        names = {"model": model, "args": args, "kwargs": kwargs}
        timer = _timer_class()("model(*args, **kwargs)", globals=names, num_threads=threads or before)
        samples = tuple(_single_runs(timer, seconds))
    torch.set_num_threads(before)
    batch = next((value.shape[0] for value in (*args, *kwargs.values()) if _is_batched(value)), 1)
    return RawTimes(first, samples, tuple(env.get("inputs", ())), batch, tuple(notes), env, threads or before)


def _timer_class() -> type[Timer]:
    """torch's timer; its import looks for compilers, and says on stderr what it finds, which is nobody's question."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from torch.utils.benchmark import Timer
    finally:
        logger.setLevel(level)
    return Timer


def _single_runs(timer: Timer, seconds: float) -> Iterator[float]:
    """Seconds of a run, by sample; of several in a row where one is too short for the clock."""
    once = timer.timeit(1).mean
    number = max(1, math.ceil(SHORTEST_SAMPLE / once)) if once < SHORTEST_SAMPLE else 1
    count = min(MAX_SAMPLES, max(LEAST_SAMPLES, round(seconds / max(once * number, 1e-9))))
    for _ in range(count):
        yield timer.timeit(number).mean


def _waited(env: Mapping[str, Any]) -> None:
    if str(env.get("device", "")).startswith("cuda"):
        torch.cuda.synchronize()


def _is_batched(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() > 1
