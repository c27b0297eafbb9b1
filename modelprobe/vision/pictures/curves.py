"""Lines through points, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from PIL import Image

WIDTH, HEIGHT, DPI = 7.2, 4.5, 125
"""In inches and dots per inch: 900 x 562 pixels."""

MOST_LINES = 8
"""Channels of a signal that are drawn."""

BYTE_UNITS = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))


@dataclass(frozen=True)
class Curve:
    """Marked points, and the line through them: `path` where it is known, else straight from point to point."""

    label: str
    points: Sequence[tuple[float, float]]
    path: Sequence[tuple[float, float]] = ()


def _new_axes(title: str, x: str = "", y: str = "") -> Any:
    from matplotlib.figure import Figure

    axes = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained").add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    return axes


def _png(axes: Any) -> bytes:
    buffer = io.BytesIO()
    axes.figure.savefig(buffer, format="png")
    return buffer.getvalue()


def curves(lines: Sequence[Curve], title: str, x: str, y: str) -> bytes:
    """A PNG of `lines` over a common axis from zero, every point marked, amounts in thousands by prefix (G, M)."""
    from matplotlib.ticker import EngFormatter

    axes = _new_axes(title, x, y)
    for line in lines:
        points = sorted(line.points)
        (drawn,) = axes.plot(*zip(*(line.path or points), strict=True), label=line.label)
        if points:
            axes.plot(*zip(*points, strict=True), "o", markersize=5, color=drawn.get_color())
    axes.set_ylim(bottom=0)
    if any(line.points for line in lines):
        axes.set_xticks(sorted({at for line in lines for at, _ in line.points}))
    if any(amount >= 1000 for line in lines for _, amount in (*line.points, *line.path)):
        axes.yaxis.set_major_formatter(EngFormatter())
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend()
    return _png(axes)


def stacked_areas(
    names: Sequence[str], moments: Sequence[Sequence[float]], stretches: Sequence[tuple[str, int]], title: str
) -> bytes:
    """A PNG of bytes over time: for each moment one amount of each of `names`, on top of each other.

    `stretches` are names of spans of time and the moment at which each begins.
    """
    top = max(map(sum, moments), default=1)
    unit, step = next((one for one in BYTE_UNITS if top >= one[1]), BYTE_UNITS[-1])
    rows = [(name, column) for name, column in zip(names, zip(*moments, strict=True), strict=True) if any(column)]
    axes = _new_axes(title, "blocks taken and given back, in order", unit)
    heights = ([amount / step for amount in column] for _, column in rows)
    axes.stackplot(range(len(moments)), *heights, labels=[name for name, _ in rows], step="post")
    top /= step
    for name, start in stretches:
        axes.axvline(start, color="0.4", linewidth=0.8, linestyle=":")
        axes.annotate(name, (start, top), xytext=(3, 3), textcoords="offset points", fontsize=8, color="0.3")
    axes.set_ylim(0, top * 1.08)
    axes.set_xlim(0, max(1, len(moments) - 1))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    return _png(axes)


def scatter_plot(
    points: Sequence[tuple[float, float]], front: Curve, labels: Sequence[str], title: str, x: str, y: str
) -> bytes:
    """A PNG of `points`, and of `front` as a line with a label at each of its points; a logarithmic x axis."""
    from matplotlib.ticker import EngFormatter

    axes = _new_axes(title, x, y)
    if points:
        axes.plot(*zip(*points, strict=True), "o", markersize=4, color="0.65")
    if front.points:
        axes.plot(*zip(*front.points, strict=True), "o-", markersize=5, label=front.label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter())
    axes.grid(alpha=0.3)
    if front.points:
        axes.legend(loc="lower right")
    _label_points(axes, list(zip(labels, front.points, strict=True)), line=True)
    return _png(axes)


def _label_points(axes: Any, labels: Sequence[tuple[str, tuple[float, float]]], line: bool = False) -> None:
    """Write each label near its point, where it covers the least of other labels, of points and of the line by them."""
    import numpy as np
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()
    frame = axes.get_window_extent()
    points = axes.transData.transform([at for _, at in labels]).reshape(-1, 2)
    spots = [*points]
    for one, other in pairwise(points) if line else ():
        spots += [*np.linspace(one, other, 2 + int(np.hypot(*(other - one)) // 6))]
    drawn = [Bbox.from_bounds(x - 3, y - 3, 6, 6) for x, y in spots]
    texts = [legend.get_window_extent()] if (legend := axes.get_legend()) else []
    tries = [(side * far, up * far) for far in (7, 14, 24, 36) for up in (0, -1, 1, -0.5, 0.5) for side in (1, -1)]
    for label, at in labels:
        written = axes.annotate(
            label, at, xytext=(0, 0), textcoords="offset points", fontsize=6, va="center",
            arrowprops={"arrowstyle": "-", "color": "0.5", "linewidth": 0.4, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        least, best = (len(texts) + 1, 0), tries[0]
        for place in tries:
            box = _box_at(written, place)
            inside = frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1
            covered = (box.count_overlaps(texts), box.count_overlaps(drawn))
            if inside and covered < least:
                least, best = covered, place
        texts.append(_box_at(written, best))


def _box_at(label: Any, place: tuple[float, float]) -> Any:
    """The box of a label that is put there, in points from what it is of."""
    from matplotlib.text import Text

    label.set(position=place, ha="left" if place[0] > 0 else "right")
    label.get_window_extent()  # moves it there, and tells the extent with its line
    return Text.get_window_extent(label).padded(1)


def grouped_bars(groups: Sequence[str], series: Sequence[tuple[str, Sequence[float]]], title: str) -> bytes:
    """A PNG of bars from 0 to 1: for each of `groups` one bar of each of `series`."""
    from matplotlib.ticker import PercentFormatter

    axes = _new_axes(title)
    width = 0.8 / len(series)
    for place, (label, shares) in enumerate(series):
        at = [index + (place - (len(series) - 1) / 2) * width for index in range(len(groups))]
        axes.bar(at, shares, width, label=label)
    axes.set_xticks(range(len(groups)), groups)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    return _png(axes)


def line_picture(channels: Any, heat: Any = None, title: str = "", cmap: str = "jet", top: float = 1.0) -> Image.Image:
    """The lines of a signal [C, L]; with `heat` [L] a band of colors behind them, from 0 to `top`."""
    axes = _new_axes(title, "index in the signal")
    if heat is not None:
        low, high = float(channels.min()), float(channels.max())
        pad = 0.05 * (high - low or 1.0)
        band = axes.imshow(heat[None], aspect="auto", cmap=cmap, vmin=0, vmax=top or 1.0, alpha=0.6,
                           extent=(-0.5, len(heat) - 0.5, low - pad, high + pad))  # fmt: skip
        axes.figure.colorbar(band)
    axes.plot(channels[:MOST_LINES].T, linewidth=0.9, color="0.1" if len(channels) == 1 else None)
    return Image.open(io.BytesIO(_png(axes))).convert("RGB")


def roofline_plot(
    points: Sequence[tuple[float, float, float, str]],
    labels: Sequence[str],
    peaks: Sequence[tuple[float, float]],
    title: str,
) -> bytes:
    """A PNG of points (FLOPs per byte, FLOP/s, weight, kind) under roofs of FLOP/s and bytes/s, on logarithmic axes.

    `labels` are of the first points; the area of a point is its weight, each kind has a color. A second roof is that
    of convolutions.
    """
    from matplotlib.ticker import EngFormatter

    axes = _new_axes(title, "FLOPs per byte", "FLOP/s")
    ridges = [flops / bandwidth for flops, bandwidth in peaks]
    xs = [point[0] for point in points] + [min(ridges) / 4, max(ridges) * 4]
    named = ("measured peaks", "measured peaks, convolutions (TF32)")
    for ridge, (flops, bandwidth), style, label in zip(ridges, peaks, ("-", "--"), named, strict=False):
        roof = sorted([min(xs) / 2, ridge, max(xs) * 2])
        axes.plot(roof, [min(flops, x * bandwidth) for x in roof], color="0.3", linestyle=style, label=label)
    heaviest = max((point[2] for point in points), default=1)
    for kind in sorted({point[3] for point in points}):
        x, y, weights = zip(*(point[:3] for point in points if point[3] == kind), strict=True)
        areas = [(3 + 15 * (weight / heaviest) ** 0.5) ** 2 for weight in weights]
        axes.scatter(x, y, areas, label=kind, alpha=0.6, linewidths=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(EngFormatter())
    axes.grid(alpha=0.3)
    for handle in axes.legend(loc="lower right", fontsize=8).legend_handles[len(peaks) :]:
        handle.set_sizes([30])
    _label_points(axes, [(label, point[:2]) for label, point in zip(labels, points, strict=False)])
    return _png(axes)


def depth_plot(layers: Sequence[tuple[str, float, float | None]], gains: Mapping[int, float], title: str) -> bytes:
    """A PNG of layers (name, deviation of the output, RMS of its gradient) in the order in which they ran.

    Below, where `gains` has one, fan-in times the variance of the weight beside the laws of He (2) and Xavier (1).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, 1.3 * HEIGHT), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    for at, label in ((1, "deviation of the output"), (2, "RMS of its gradient")):
        points = [(place, layer[at]) for place, layer in enumerate(layers) if layer[at]]
        if points:
            upper.plot(*zip(*points, strict=True), ".-", label=label)
    upper.set(title=title, yscale="log")
    upper.legend(fontsize=8)
    if gains:
        lower.plot(list(gains), list(gains.values()), "o", markersize=4, color="C2")
        lower.set_yscale("log")
    for law, value, style in (("He", 2, "--"), ("Xavier", 1, ":")):
        lower.axhline(value, color="0.4", linewidth=0.8, linestyle=style, label=f"{law}: {value}")
    lower.set(ylabel="fan-in x variance", xlabel="layers, in the order in which they ran")
    lower.legend(fontsize=8)
    step = max(1, -(-len(layers) // 12))
    names = [name[-18:] for name, _, _ in layers[::step]]
    lower.set_xticks(range(0, len(layers), step), names, rotation=60, ha="right", fontsize=6)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return _png(upper)
