"""The pictures of class activation maps: over images, behind signals, frame by frame over videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from modelprobe.vision.cam.judge import Judgement
from modelprobe.vision.cam.methods import LAYERED, ClassMap
from modelprobe.vision.cam.result import CamEntry, map_key, map_subtitle, map_title, share_text
from modelprobe.vision.pictures.canvas import side_by_side
from modelprobe.vision.pictures.colour import ColourLimits
from modelprobe.vision.pictures.curves import Curve, curves, line_picture
from modelprobe.vision.pictures.grids import channel_grid
from modelprobe.vision.pictures.heat import SIDE, heat_map, with_bar
from modelprobe.vision.pictures.overlay import overlay
from modelprobe.vision.pictures.strips import bar_strip
from modelprobe.vision.video import animation, frame_numbers
from modelprobe.vision.walk import ImagePlace

CLIPPED_AT = 0.99
"""Of gradients at single pixels a few are many times as large as all others: colors end at this quantile."""

FRAMES_SHOWN = 8
"""Of a video; the animation has all of them."""


@dataclass(frozen=True)
class ImageMaps:
    """What is drawn for one image: as the model saw it, and its maps with their entries.

    `signal` [C, L] is one that the model was given, `frames` are those of a video.
    """

    seen: Image.Image
    maps: tuple[ClassMap, ...]
    entries: tuple[CamEntry, ...]
    judged: tuple[Judgement, ...] = ()
    """The curves of each map, where they were asked for."""
    frames: Sequence[Image.Image] = ()
    signal: Any = None


@dataclass(frozen=True)
class _Drawn:
    """The map over the image and alone, each with its title; the first of them bare; and an animation or nothing."""

    over: Image.Image
    alone: Image.Image
    bare: Image.Image
    animation: bytes = b""


def draw_class_maps(drawn: ImageMaps, place: ImagePlace, cmap: str) -> tuple[CamEntry, ...]:
    """Write the heat maps, overlays, arrays and, of several maps, the comparison; the entries with their files."""
    entries, cells = [], [(f"{drawn.entries[0].image}, as the model sees it", _large(drawn.seen))]
    arrays: dict[str, Any] = {}
    for found, entry in zip(drawn.maps, drawn.entries, strict=True):
        key, title = map_key(entry), map_title(entry)
        made = _pictures(drawn, found, title, map_subtitle(entry), cmap)
        cells.append((title + share_text(entry), made.bare))
        arrays |= {key: found.map.numpy(), f"{key}.raw": found.raw.numpy()}
        if made.animation:
            place.write(f"{key}.gif", made.animation)
        heat, over = place.draw(f"{key}.heat", made.alone), place.draw(key, made.over)
        entries.append(dataclasses.replace(entry, heat=heat, overlay=over, array=key))
    for entry, curve in zip(entries, drawn.judged, strict=False):
        arrays[f"{entry.array}.deleted"] = np.array(curve.deleted)
        arrays[f"{entry.array}.inserted"] = np.array(curve.inserted)
    judge = place.write("judge.png", judged_figure(drawn)) if drawn.judged else ""
    compare, stored = "", place.arrays("maps", arrays)
    if len(entries) > 1:
        columns = min(4, len(cells)) if len(cells) != 5 else 3
        compare = place.draw("compare", side_by_side(cells, "Where the model looks", columns=columns))
    return tuple(dataclasses.replace(entry, arrays=stored, compare=compare, judge=judge) for entry in entries)


def _pictures(drawn: ImageMaps, found: ClassMap, title: str, told: str, cmap: str) -> _Drawn:
    values = found.map.numpy()
    top = float(values.max())
    if found.method in ("saliency", "integrated-gradients", "guided-gradcam"):
        top = float(np.quantile(values, CLIPPED_AT))
        told += f", colors end at {CLIPPED_AT:.0%} of the values"
    limits = ColourLimits(0.0, top)
    coarse = found.method in LAYERED - {"guided-gradcam"}
    alone = found.raw.clamp(min=0).numpy() if coarse else values
    if values.ndim == 1:
        bare = line_picture(drawn.signal, values, title, cmap, top)
        return _Drawn(bare, bar_strip(alone, title, told, cmap=cmap, limits=limits), bare)
    if values.ndim == 3:
        return _of_frames(drawn, values, alone, title, told, cmap, limits)
    bare = overlay(_large(drawn.seen), values, cmap=cmap, limits=limits)
    heat = heat_map(alone, title, told, cmap=cmap, limits=None if coarse else limits)
    return _Drawn(with_bar(bare, title, told, cmap=cmap, limits=limits), heat, bare)


def _of_frames(
    drawn: ImageMaps, values: Any, alone: Any, title: str, told: str, cmap: str, limits: ColourLimits
) -> _Drawn:
    """Some frames side by side, the coarse map of each of its own, all frames as an animation."""
    frames = [drawn.frames[at * len(drawn.frames) // len(values)] for at in range(len(values))]
    laid = [
        overlay(_large(frame), value, cmap=cmap, limits=limits) for frame, value in zip(frames, values, strict=True)
    ]
    shown = frame_numbers(len(laid), min(len(laid), FRAMES_SHOWN), "segments")
    over = side_by_side([(f"frame {at} of {len(laid)}", laid[at]) for at in shown], f"{title}. {told}", cell=SIDE // 2)
    slices = alone if alone.ndim == 3 else alone[None]
    at = frame_numbers(len(slices), min(len(slices), 2 * FRAMES_SHOWN), "segments")
    captions = [f"{number} of {len(slices)}" for number in at]
    heat = channel_grid([slices[number] for number in at], captions, title, told, cmap=cmap, limits=limits)
    peak = int(values.reshape(len(values), -1).max(1).argmax())
    return _Drawn(over, heat, laid[peak], animation(laid))


def judged_figure(drawn: ImageMaps) -> bytes:
    """The curves of all maps of an image."""
    lines = []
    for entry, judged in zip(drawn.entries, drawn.judged, strict=True):
        for kind, values in (("deletion", judged.deleted), ("insertion", judged.inserted)):
            lines.append(
                Curve(
                    f"{map_title(entry)}, {kind}",
                    (),
                    [(at / (len(values) - 1), value) for at, value in enumerate(values)],
                )
            )
    title = f"{drawn.entries[0].image}: the probability as pixels are removed, and inserted"
    return curves(lines, title, "share of the pixels, the map's highest first", "probability")


def _large(seen: Image.Image) -> Image.Image:
    """A small image enlarged, its pixels kept square, so that a map over it can be smooth."""
    scale = max(1, -(-SIDE // max(seen.size)))
    return seen.resize((seen.width * scale, seen.height * scale), Image.Resampling.NEAREST)
