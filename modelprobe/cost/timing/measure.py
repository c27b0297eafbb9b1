"""The time of a forward pass here, end to end, with no hook attached."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from torch import nn

from modelprobe.console import stdout_kept, working
from modelprobe.cost.memory.of_target import MemoryRequest, memory_of_target
from modelprobe.cost.memory.steps import step_setting
from modelprobe.cost.tables import plural
from modelprobe.cost.timing.achieved import AchievedRates, achieved_rates
from modelprobe.cost.timing.layers.roofline import Roofline
from modelprobe.cost.timing.layers.times import LayerTimes
from modelprobe.cost.timing.paired import NOISY
from modelprobe.cost.timing.passes import PreparedPass, TimingSetting, prepare_pass
from modelprobe.cost.training import training_cost
from modelprobe.cost.training_step import frozen_names, record_training_step, trained_with
from modelprobe.errors import ProbeError
from modelprobe.model.build import LoadedModel, Recording, load_model, record, record_with
from modelprobe.report.blocks import Fact, Facts, Level, Note, Report
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, text
from modelprobe.tracing.records import Trace
from modelprobe.tracing.step_records import TrainingTrace

PERCENTILES = {90: 64, 99: 662}
"""Percentile -> the least samples that carry it: enough that one of ten such runs at most lies beside it."""

BOUND_WRONG = 0.01
"""How often the bound of a percentile that the samples do not carry is wrong."""

LEAST_SAMPLES, MAX_SAMPLES = 3, 2000
EVENT_PASSES = 50

ABOVE_PEAK = 1.1
"""Times the measured peak from which a rate is doubted."""

T = TypeVar("T")
INFERENCE = MemoryRequest()


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
    setting: tuple[str, ...] = ()
    interrupted: bool = False
    peak_bytes: int | None = None
    event_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProfileResult(Result):
    """The latency of one forward pass, or of one training step, of the batch.

    `percentiles` holds those that the samples carry, `percentile_bounds` what the others are at least (right in 99 of
    100 runs). `peak_bytes` is the most memory of a pass, as `peak_from` says
    (torch's allocator, or estimated from shapes), None where neither tells. `event_s` is the median between CUDA
    events, None on another device.
    """

    model: str
    what: str
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
    setting: tuple[str, ...]
    interrupted: bool
    peak_bytes: int | None
    peak_from: str
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    rates: AchievedRates | None = None
    event_s: float | None = None
    layers: LayerTimes | None = None
    roofline: Roofline | None = None
    percentile_bounds: Mapping[str, float] = field(default_factory=dict)

    def report(self) -> Report:
        """Median with its spread, throughput, the rate of arithmetic."""
        said = [f"IQR {text(self.iqr_s, Unit.SECONDS)}, {len(self.samples_s)} samples"]
        said += [f"p{name} {text(value, Unit.SECONDS)}" for name, value in self.percentiles.items()]
        said += [f"p{name} at least {text(value, Unit.SECONDS)}" for name, value in self.percentile_bounds.items()]
        facts = (
            Fact("Input", ", ".join(self.inputs) or "none"),
            Fact("Device", self.device, detail=", ".join(device_details(self.device, self.threads, self.setting))),
            Fact("Median", self.median_s, Unit.SECONDS, ", ".join(said)),
            *((Fact("Between CUDA events", self.event_s, Unit.SECONDS),) if self.event_s is not None else ()),
            Fact("First call", self.first_s, Unit.SECONDS),
            Fact("Throughput", self.per_second, Unit.NUMBER, "examples per second"),
            *(self.rates.facts() if self.rates else self._arithmetic()),
            *((Fact("Peak memory", self.peak_bytes, Unit.BYTES, self.peak_from),) if self.peak_bytes else ()),
        )
        title = f"{self.model}: time of one {self.what}"
        layers = (*(self.layers.blocks() if self.layers else ()), *(self.roofline.blocks() if self.roofline else ()))
        return self.blocks_report(title, "modelprobe.profile/1", Facts(facts), *layers, *self.notes)

    def _arithmetic(self) -> tuple[Fact, ...]:
        return (Fact("Arithmetic", f"{self.flops_per_s / 1e9:,.4g} GFLOP/s", detail="counted FLOPs over the median"),)


def device_details(device: str, threads: int, setting: Sequence[str]) -> tuple[str, ...]:
    """What is said beside the device: the threads of a CPU, and how a pass was run."""
    return (*((plural(threads, "thread"),) if device == "cpu" else ()), *setting)


def timed_setting(loaded: LoadedModel, setting: TimingSetting, run: MemoryRequest) -> TimingSetting:
    """The setting, with the training step that `run` asks for. Raises BadInput for patterns that name nothing."""
    if not run.train:
        return setting
    like = "cuda" if str(loaded.env["device"]).startswith("cuda") else "cpu"
    step = step_setting(run.optimizer, frozen_names(loaded.model, run.freeze), like)
    return replace(setting, step=replace(step, loss=run.loss))


def by_shapes(loaded: LoadedModel) -> LoadedModel:
    """The same target without weights, for what is told from shapes."""
    return load_model(replace(loaded.request, device=None))


def what_is_run(run: MemoryRequest) -> str:
    """`forward pass` or `training step`."""
    return "training step" if run.train else "forward pass"


def run_timed(loaded: LoadedModel, recording: Recording[T], setting: TimingSetting) -> T:
    """What `recording` makes of the forward, or of the step of that setting."""
    return trained_with(loaded, recording) if setting.step else record_with(loaded, recording, "eval")


@stdout_kept()
def profile_model(
    loaded: LoadedModel, seconds: float, setting: TimingSetting, run: MemoryRequest = INFERENCE
) -> ProfileResult:
    """Time a forward, or the step of `run`, where `loaded` is, for about `seconds`; weights are random if not given.

    Raises ModelRaised when the model raises, BadInput for a setting that cannot be.
    """
    setting = timed_setting(loaded, setting, run)
    device = str(loaded.env["device"])
    with working(f"timing {loaded.target.name}"):
        raw = run_timed(loaded, partial(timed, seconds=seconds, setting=setting), setting)
    shapes = by_shapes(loaded)
    trace = record_training_step(shapes, run.freeze) if run.train else record(shapes)
    found = result_of(raw, trace, loaded.target.name, device)
    if device != "cpu" or "compiled" in raw.setting:
        return found
    try:
        peak = memory_of_target(shapes, replace(run, amp=setting.amp)).peak_bytes
    except ProbeError:
        return found
    return replace(found, peak_bytes=peak, peak_from="estimated from shapes")


def result_of(raw: RawTimes, trace: Trace | TrainingTrace, model: str, device: str) -> ProfileResult:
    """The samples summed up, beside the arithmetic of the recorded forward or step."""
    median = statistics.median(raw.samples_s)
    quarters = statistics.quantiles(raw.samples_s, n=4) if len(raw.samples_s) > 1 else [median] * 3
    percentiles = {
        str(name): statistics.quantiles(raw.samples_s, n=100)[name - 1]
        for name, least in PERCENTILES.items()
        if len(raw.samples_s) >= least
    }
    bounds = {
        str(name): least_percentile(raw.samples_s, name / 100)
        for name, least in PERCENTILES.items()
        if len(raw.samples_s) < least
    }
    spread = quarters[2] - quarters[0]
    notes = [*raw.notes]
    if spread > NOISY * median:
        noisy = f"A noisy run: the middle half of the samples spans {spread / median:.0%} of the median."
        notes.append(Note(noisy, Level.WARNING))
    if isinstance(trace, Trace):
        what, macs, flops = "forward pass", trace.macs, trace.flops
        rates: AchievedRates | None = achieved_rates(trace, median, device, raw.threads, "autocast" in raw.setting)
    else:
        cost = training_cost(trace)
        what, macs, flops, rates = "training step", cost.macs, cost.flops, None
    if rates is not None and rates.peaks is not None and rates.flops_per_s > ABOVE_PEAK * rates.peaks.flops_per_s:
        text = (
            "Arithmetic above the measured peak: the timed passes may do less than the recorded one, or the peak was "
            "measured while the machine was busy; modelprobe env --peaks measures it again."
        )
        notes.append(Note(text, Level.WARNING))
    return ProfileResult(
        model, what, raw.inputs, device, raw.threads, raw.batch, median, spread, percentiles, raw.first_s,
        raw.batch / median, macs, flops / median, raw.samples_s, raw.setting, raw.interrupted, raw.peak_bytes,
        "by torch's allocator" if raw.peak_bytes else "", tuple(notes), raw.env, rates, raw.event_s,
        percentile_bounds=bounds,
    )  # fmt: skip


def least_percentile(samples: Sequence[float], share: float) -> float:
    """The sample that the percentile of that share is not below, but for one run of a hundred, whatever the times are.

    The k-th smallest is not above it when k samples or more are below it: their number is binomial.
    """
    number, chance = len(samples), 0.0
    for k in range(number, 1, -1):
        chance += math.comb(number, k) * share**k * (1 - share) ** (number - k)
        if chance >= 1 - BOUND_WRONG:
            return sorted(samples)[k - 1]
    return min(samples)


def timed(
    model: nn.Module, /, *args: Any, kwargs: Mapping[str, Any], device: str, notes: Sequence[Note],
    env: Mapping[str, Any], seconds: float, setting: TimingSetting,
) -> RawTimes:  # fmt: skip
    """Seconds of the first call and of samples of `model(*args, **kwargs)`, run as `setting` says."""
    one = prepare_pass(model, *args, kwargs=kwargs, device=device, notes=notes, env=env, setting=setting)
    samples: list[float] = []
    between: list[float] = []
    interrupted = False
    with closing(one):
        try:
            samples.extend(_samples_for(one, seconds, between))
        except KeyboardInterrupt:
            interrupted = True
            if len(samples) < LEAST_SAMPLES:
                raise
        peak = one.peak_bytes()
    said = list(one.notes)
    if interrupted:
        said.append(Note(f"Interrupted: {len(samples)} samples were taken, fewer than wanted.", Level.WARNING))
    return RawTimes(
        one.first_s, tuple(samples), one.inputs, one.batch, tuple(said), env, one.threads, one.setting.texts(),
        interrupted, peak, statistics.median(between) if between else None,
    )  # fmt: skip


def _samples_for(one: PreparedPass, seconds: float, between: list[float]) -> Iterator[float]:
    """Seconds by the clock; in turn with them, those between CUDA events go to `between`."""
    number = one.runs_a_sample()
    with one.active():
        end = time.perf_counter() + seconds
        for at in range(MAX_SAMPLES):
            if at >= LEAST_SAMPLES and time.perf_counter() >= end:
                return
            yield one.seconds(number)
            of_events = one.event_seconds() if at < EVENT_PASSES else None
            between += [of_events] if of_events is not None else []
