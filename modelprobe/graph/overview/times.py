"""Measured times on the page of everything: what `profile --by layer` found, and its roofline as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Any

from modelprobe.cost.timing.layers.roofline import LayerRoof, Roofline
from modelprobe.environment import MeasuredPeaks
from modelprobe.errors import BadInput
from modelprobe.graph.overlays import json_report
from modelprobe.report.blocks import Fact, Facts, Report, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, scaled, seconds

WIDTH, TALL, EDGE = 1000, 320, 56


@dataclass(frozen=True, slots=True)
class MeasuredTimes(Result):
    """A measured pass, and each layer that took time under the peaks of the device, the hottest first."""

    model: str
    inputs: tuple[str, ...]
    device: str
    median_s: float
    peaks: MeasuredPeaks
    layers: tuple[LayerRoof, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The median, where it was taken, and what binds the hot layers."""
        peaks = self.peaks
        facts = Facts(
            (
                Fact("Time", self.median_s, Unit.SECONDS, f"median, {', '.join(self.inputs)}", Tone.KEY),
                Fact("Device", self.device, detail=peaks.name),
                Fact("Peak arithmetic", peaks.flops_per_s, Unit.FLOPS, f"per second, {peaks.dtype}, measured"),
                Fact("Peak traffic", peaks.bytes_per_s, Unit.BYTES, "per second, measured"),
            )
        )
        blocks = Roofline(peaks, self.layers).blocks()
        return self.blocks_report(f"{self.model}: measured times", "modelprobe.report/1", facts, *blocks)


def times_from(path: Path) -> MeasuredTimes:
    """The times in what `profile --by layer -f json` printed. Raises BadInput for a file without them."""
    data = json_report(path)
    profiled = str(data.get("schema", "")).startswith("modelprobe.profile/")
    if profiled and (data.get("layers") or {}).get("phases"):
        raise BadInput(f"{path} holds the times of a training step, which have no roofline", "profile without --train")
    if not profiled or not data.get("roofline"):
        raise BadInput(
            f"{path} holds no times of layers", "make it with `modelprobe profile TARGET --by layer -o t.json`"
        )
    try:
        found = data["roofline"]
        layers = tuple(_made(LayerRoof, {**row, "left": math.inf if row["left"] is None else row["left"]})
                       for row in found["layers"])  # fmt: skip
        peaks = _made(MeasuredPeaks, found["peaks"])
        return MeasuredTimes(
            str(data["model"]), tuple(map(str, data["inputs"])), str(data["device"]), float(data["median_s"]), peaks,
            layers, data.get("env", {}),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is damaged: {type(error).__name__}: {error}", "make it again with -f json") from error


def _made(cls: type[Any], values: Mapping[str, Any]) -> Any:
    return cls(**{each.name: values[each.name] for each in fields(cls)})


def _round_rate(power: int) -> str:
    """`100 G` of 11."""
    number, _, letter = scaled(float(10**power)).partition(" ")
    return f"{float(number.replace(',', '')):g} {letter}".strip()


def roofline_picture(times: MeasuredTimes) -> str:
    """Each layer by its FLOPs per byte and what it achieves, below the roof of the device; an SVG with logarithmic
    axes, a point as large as its share of the time. Empty where no layer computes."""
    points = [layer for layer in times.layers if layer.intensity > 0 and layer.flops_per_s > 0]
    if not points:
        return ""
    peak, traffic = times.peaks.flops_per_s, times.peaks.bytes_per_s
    ridge = peak / traffic
    low, high = (edge(layer.intensity for layer in points) for edge in (min, max))
    low, high = min(low, ridge) / 2, max(high, ridge) * 2
    least, most = min(layer.flops_per_s for layer in points) / 2, max(peak, *(p.flops_per_s for p in points)) * 1.6

    def across(intensity: float) -> float:
        return EDGE + (WIDTH - EDGE - 10) * math.log(intensity / low) / math.log(high / low)

    def up(rate: float) -> float:
        return TALL - EDGE / 2 - (TALL - EDGE) * math.log(rate / least) / math.log(most / least)

    start = max(low, least / traffic)
    corners = ((start, start * traffic), (ridge, peak), (high, peak))
    roof = " ".join(f"{across(intensity):.1f},{up(rate):.1f}" for intensity, rate in corners)
    circles = "".join(
        f'<circle cx="{across(p.intensity):.1f}" cy="{up(p.flops_per_s):.1f}" r="{3 + 22 * math.sqrt(p.share):.1f}">'
        f"<title>{escape(p.path or p.cls)}: {seconds(p.seconds)}, {p.share:.1%} of the pass\n"
        f"{p.intensity:.3g} FLOPs per byte, {scaled(p.flops_per_s)}FLOP/s\n{escape(p.sentence)}</title></circle>"
        for p in points
    )
    ticks = "".join(
        f'<text x="{across(10**at):.1f}" y="{TALL - 4}">{10**at:g}</text>'
        for at in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    )
    rates = "".join(
        f'<text x="{EDGE - 6}" y="{up(10**at) + 4:.1f}" class="rate">{_round_rate(at)}</text>'
        for at in range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
    )
    return (
        f'<figure class="roofline"><svg viewBox="0 0 {WIDTH} {TALL}" role="img" aria-label="roofline of '
        f'{escape(times.device)}"><polyline points="{roof}"/>{circles}{ticks}{rates}</svg><figcaption>FLOPs per byte '
        f"(across) against FLOP/s (up), both logarithmic; the line is what {escape(times.peaks.name)} reaches at most, "
        "a point is a layer, as large as its share of the time.</figcaption></figure>"
    )
