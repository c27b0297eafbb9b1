"""The time of a forward pass here, end to end, with no hook attached."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import nn

from modelprobe.console import stdout_kept, working
from modelprobe.cost.tables import plural
from modelprobe.cost.timing.achieved import AchievedRates, achieved_rates
from modelprobe.cost.timing.layers.roofline import Roofline
from modelprobe.cost.timing.layers.times import LayerTimes
from modelprobe.cost.timing.passes import PreparedPass, TimingSetting, prepare_pass
from modelprobe.model.build import LoadedModel, record, record_with
from modelprobe.report.blocks import Fact, Facts, Level, Note, Report
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.records import Trace

PERCENTILES = {90: 64, 99: 662}
"""Percentile -> the least samples that carry it: enough that one of ten such runs at most lies beside it."""

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
    setting: tuple[str, ...] = ()
    interrupted: bool = False


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
    setting: tuple[str, ...]
    interrupted: bool
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    rates: AchievedRates | None = None
    layers: LayerTimes | None = None
    roofline: Roofline | None = None

    def report(self) -> Report:
        """Median with its spread, throughput, the rate of arithmetic."""
        shares = ", ".join(f"p{name} {value * 1e3:.4g} ms" for name, value in self.percentiles.items())
        spread = f"IQR {self.iqr_s * 1e3:.3g} ms, {len(self.samples_s)} samples"
        facts = (
            Fact("Input", ", ".join(self.inputs) or "none"),
            Fact("Device", self.device, detail=", ".join(device_details(self.device, self.threads, self.setting))),
            Fact("Median", self.median_s, Unit.SECONDS, f"{spread}{', ' + shares if shares else ''}"),
            Fact("First call", self.first_s, Unit.SECONDS),
            Fact("Throughput", self.per_second, Unit.NUMBER, "examples per second"),
            *(self.rates.facts() if self.rates else ()),
        )
        title = f"{self.model}: time of one forward pass"
        layers = (*(self.layers.blocks() if self.layers else ()), *(self.roofline.blocks() if self.roofline else ()))
        return self.blocks_report(title, "modelprobe.profile/1", Facts(facts), *layers, *self.notes)


def device_details(device: str, threads: int, setting: Sequence[str]) -> tuple[str, ...]:
    """What is said beside the device: the threads of a CPU, and how a pass was run."""
    return (*((plural(threads, "thread"),) if device == "cpu" else ()), *setting)


@stdout_kept()
def profile_model(loaded: LoadedModel, seconds: float, setting: TimingSetting) -> ProfileResult:
    """Time the forward pass on the device of `loaded` for about `seconds`, weights random where none were given.

    Raises ModelRaised when the model raises, BadInput for no thread.
    """
    with working(f"timing {loaded.target.name}"):
        raw = record_with(loaded, partial(timed, seconds=seconds, setting=setting), "eval")
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
        raw.batch / median, trace.macs, trace.flops / median, raw.samples_s, raw.setting, raw.interrupted, tuple(notes),
        raw.env, achieved_rates(trace, median, device, raw.threads, "autocast" in raw.setting),
    )  # fmt: skip


def timed(
    model: nn.Module, /, *args: Any, kwargs: Mapping[str, Any], device: str, notes: Sequence[Note],
    env: Mapping[str, Any], seconds: float, setting: TimingSetting,
) -> RawTimes:  # fmt: skip
    """Seconds of the first call and of samples of `model(*args, **kwargs)`, in eval mode without gradients."""
    one = prepare_pass(model, *args, kwargs=kwargs, device=device, notes=notes, env=env, setting=setting)
    samples: list[float] = []
    interrupted = False
    with closing(one):
        try:
            samples.extend(_samples_for(one, seconds))
        except KeyboardInterrupt:
            interrupted = True
            if len(samples) < LEAST_SAMPLES:
                raise
    said = list(notes)
    if interrupted:
        said.append(Note(f"Interrupted: {len(samples)} samples were taken, fewer than wanted.", Level.WARNING))
    return RawTimes(
        one.first_s, tuple(samples), one.inputs, one.batch, tuple(said), env, one.threads, setting.texts(), interrupted
    )


def _samples_for(one: PreparedPass, seconds: float) -> Iterator[float]:
    number = one.runs_a_sample()
    with one.active():
        first = one.seconds(number)
        yield first
        for _ in range(min(MAX_SAMPLES, max(LEAST_SAMPLES, round(seconds / (first * number)))) - 1):
            yield one.seconds(number)
