"""Images of a layer's output: a grid, a mean and an overlay of maps; frames, vectors and matrices theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelprobe.vision.pictures.colour import AUTO, DEFAULT_COLOUR_MAP, DIVERGING, ColourLimits, limits_of, scale_of

if TYPE_CHECKING:
    from modelprobe.vision.features.maps import LayerMaps

MOST_FRAMES = 16
ENLARGED_PREVIEW = 24


@dataclass(frozen=True)
class Drawing:
    """How images are to be drawn: how many channels in a grid, in which order, in which colors."""

    channels: int = 64
    sort: str = "index"
    cmap: str = AUTO
    pca: bool = False


@dataclass(frozen=True)
class Picture:
    """One image: the end of its file's name, what it shows, and the image itself (Pillow's)."""

    kind: str
    caption: str
    image: Any


def pictures_of(maps: LayerMaps, seen: Any, name: str, about: str, drawing: Drawing) -> Iterator[Picture]:
    """The images of one output. `seen` is the image as the model sees it, `about` a line below each title."""
    from modelprobe.vision.pictures.heat import heat_map
    from modelprobe.vision.pictures.strips import bar_strip

    if maps.row.size:
        cmap, limits = scale_of(maps.row, drawing.cmap)
        yield Picture("strip", f"{maps.row.size:,} values", bar_strip(maps.row, name, about, cmap=cmap, limits=limits))
        return
    if not maps.channels.size:
        return
    if maps.unit == "matrix":
        thin = f", every {maps.thinned}th shown" if maps.thinned > 1 else ""
        said = f"rows are positions, columns are channels{thin}; {about}"
        cmap, limits = scale_of(maps.channels[0], drawing.cmap)
        yield Picture("matrix", said, heat_map(maps.channels[0], name, said, cmap=cmap, limits=limits))
        return
    if len(maps.channels) > 1:
        yield _channel_grid(maps, name, about, drawing)
    yield from _means(maps, seen, name, about, drawing)
    if maps.frames.size:
        yield _frames(maps, name, about, drawing)


def _channel_grid(maps: LayerMaps, name: str, about: str, drawing: Drawing) -> Picture:
    from modelprobe.vision.features.maps import order_of
    from modelprobe.vision.pictures.grids import channel_grid

    order = order_of(maps.channels, drawing.sort)[: drawing.channels]
    sort = "" if drawing.sort == "index" else f", largest {drawing.sort} first"
    total = len(maps.channels)
    many = f"{total:,} {maps.unit}s" if len(order) == total else f"{len(order)} of {total:,} {maps.unit}s"
    cmap, _ = scale_of(maps.channels, drawing.cmap)
    own = [limits_of(maps.channels[index]) for index in order]
    around = "each in its own range of values"
    if cmap == DIVERGING != drawing.cmap:
        own = [ColourLimits(-max(-one.low, one.high), max(-one.low, one.high)) for one in own]
        around += ", white is 0"
    title, said = f"{name}: {many}{sort}", f"{around}; {about}"
    captions = [f"{index}" for index in order]
    image = channel_grid([maps.channels[i] for i in order], captions, title, said, cmap=cmap, own=own)
    return Picture("grid", f"{many}{sort}", image)


def _means(maps: LayerMaps, seen: Any, name: str, about: str, drawing: Drawing) -> Iterator[Picture]:
    from modelprobe.vision.pictures.heat import heat_map, with_bar
    from modelprobe.vision.pictures.overlay import overlay

    mean = maps.mean
    cmap, limits = scale_of(mean, drawing.cmap)
    many = f"mean over {len(maps.channels):,} {maps.unit}s" if len(maps.channels) > 1 else "its one map"
    title = f"{name}: {many}"
    yield Picture("mean", many, heat_map(mean, title, about, cmap=cmap, limits=limits))
    if maps.covers:
        laid = overlay(seen, mean, cmap=cmap, limits=limits, centered=limits.low == -limits.high)
        framed = with_bar(laid, title, f"on what the model sees; {about}", cmap=cmap, limits=limits)
        yield Picture("overlay", f"{many}, on the image", framed)


def _frames(maps: LayerMaps, name: str, about: str, drawing: Drawing) -> Picture:
    from modelprobe.vision.pictures.grids import channel_grid

    total = len(maps.frames)
    shown = _value_range(total, MOST_FRAMES)
    many = f"{total} frames" if len(shown) == total else f"{len(shown)} of {total} frames"
    cmap, limits = scale_of(maps.frames, drawing.cmap)
    image = channel_grid([maps.frames[i] for i in shown], [f"frame {i}" for i in shown], f"{name}: {many}",
                         f"mean over channels; {about}", cmap=cmap, limits=limits)  # fmt: skip
    return Picture("frames", f"{many}, mean over channels", image)


def _value_range(total: int, most: int) -> Sequence[int]:
    return range(total) if total <= most else [round(i * (total - 1) / (most - 1)) for i in range(most)]


def preview_of(maps: LayerMaps, cmap: str) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """The mean as rows of pixels, small enough for a terminal; nothing for what is no map."""
    import numpy as np

    from modelprobe.vision.pictures.canvas import fitted_text
    from modelprobe.vision.pictures.colour import coloured

    if not maps.channels.size or maps.unit == "matrix":
        return ()
    small = fitted_text(
        coloured(maps.mean, DEFAULT_COLOUR_MAP if cmap == AUTO else cmap), (ENLARGED_PREVIEW, ENLARGED_PREVIEW)
    )
    pixels = np.asarray(small.convert("RGB")).tolist()
    return tuple(tuple((int(red), int(green), int(blue)) for red, green, blue in row) for row in pixels)
