"""Changes of the preprocessing by `--resize`, `--crop/--no-crop`, `--mean`, `--std`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from modelprobe.errors import BadInput
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.images import MOST_PIXELS
from modelprobe.vision.preprocessing.transform import SHORTER, SQUASH, Preprocessing

UNKNOWN = "How images were prepared for this model is not known"


@dataclass(frozen=True)
class PreprocessingOverrides:
    """What the command line said: `--resize`, `--crop/--no-crop`, `--mean`, `--std`. None leaves the model's own."""

    resize: str | None = None
    crop: bool | None = None
    mean: str | None = None
    std: str | None = None
    size: str | None = None
    """`--input`: the size that the model is given."""
    values: tuple[float, float] | None = None
    """`--range`: the values that become black and white."""


def changed(found: Preprocessing, overrides: PreprocessingOverrides) -> Preprocessing:
    said = []
    if overrides.values is not None:
        found = replace(found, values=overrides.values)
        said.append("--range")
    if overrides.size is not None:
        found = _sized_to(found, overrides.size)
        said.append("--input")
    if overrides.crop is not None:
        found = _uncropped(found) if not overrides.crop else _cropped(found)
        said.append("--crop" if overrides.crop else "--no-crop")
    if overrides.resize is not None:
        height, width = parse_resize(overrides.resize)
        lone = "x" not in overrides.resize
        notes = found.notes
        if found.crop is not None and found.crop != (height, width):
            shown = f"{found.crop[0]}x{found.crop[1]}"
            asked = overrides.resize
            text = (
                f"--resize {asked} resizes; the model is still given the center, {shown}: --input {asked} changes that."
            )
            notes = (*notes, Note(text, Level.INFO))
        found = replace(found, resize=(height, width), fit=SHORTER if lone else SQUASH, notes=notes)
        said.append("--resize")
    if overrides.mean is not None:
        found = replace(found, mean=parse_numbers(overrides.mean, "mean", found.channels))
        said.append("--mean")
    if overrides.std is not None:
        found = replace(found, std=parse_numbers(overrides.std, "std", found.channels))
        said.append("--std")
    if not said:
        return found
    told = overrides.mean is not None or overrides.std is not None
    notes = tuple(note for note in found.notes if not (told and note.text.startswith(UNKNOWN)))
    return replace(found, source=f"{found.source}, changed by {', '.join(said)}", notes=notes)


def _sized_to(found: Preprocessing, text: str) -> Preprocessing:
    """For another size of what the model is given: resized in the same proportion to it. Raises BadInput."""
    from modelprobe.model.inputs.spec import parse_input

    shape = parse_input(text).shape
    if found.space == 1:
        raise BadInput(f"--input {text}: a signal is taken as long as it is", "leave --input out")
    if len(shape) == 4 and shape[0] != 1:
        raise BadInput(
            f"--input {text} is a batch of {shape[0]}", "--input has one image; --batch says how many at once"
        )
    shape = shape[1:] if len(shape) == 4 else shape
    if len(shape) == 3 and shape[0] != found.channels:
        raise BadInput(
            f"--input {text} has {shape[0]} channels, and the model takes {found.channels}", "leave them out"
        )
    if not 1 <= len(shape) <= 3:
        raise BadInput(f"--input {text} is no size of an image", "for example --input 224 or 256x320")
    size = shape[-1] if len(shape) == 1 else shape[-2], shape[-1]
    if found.crop is None or found.resize is None:
        return replace(
            found,
            fit=SQUASH if found.resize is None else found.fit,
            resize=size,
            crop=None if found.resize is None else size,
        )
    scaled = tuple(round(side * new / old) for side, new, old in zip(found.resize, size, found.crop, strict=True))
    return replace(found, resize=(scaled[0], scaled[1]), crop=size)


def parse_range(text: str | None) -> tuple[float, float] | None:
    """`0,4095`. Raises BadInput."""
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadInput(f"--range {text!r} is no range of values", "for example --range 0,4095")
    return low, high


def _uncropped(found: Preprocessing) -> Preprocessing:
    """The whole image, squeezed into the size that the model was made for."""
    if found.crop is None:
        return found
    return replace(found, fit=SQUASH, resize=found.crop, crop=None)


def _cropped(found: Preprocessing) -> Preprocessing:
    """The center, its aspect kept."""
    if found.crop is None and found.resize is None:
        raise BadInput("this model takes images of any size: there is nothing to crop to", "leave --crop out")
    return replace(found, fit=SHORTER, crop=found.crop or found.resize)


def parse_resize(text: str) -> tuple[int, int]:
    """`256` or `256x320` (height x width). Raises BadInput."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and part.isascii() and int(part[:7]) > 0 for part in parts):
        raise BadInput(f"--resize {text!r} is no size", "for example --resize 256 (the shorter side) or 256x320")
    height, width = int(parts[0]), int(parts[-1])
    if height * width > MOST_PIXELS:
        raise BadInput(f"--resize {text} is more than {MOST_PIXELS // 10**6} million pixels", "choose a smaller size")
    return height, width


def parse_numbers(text: str, name: str, channels: int) -> tuple[float, ...]:
    """`0.5` or `0.5,0.4,0.3`: one for each channel. Raises BadInput."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    wrong = not all(math.isfinite(number) for number in numbers) or (name == "std" and 0.0 in numbers)
    if len(numbers) not in (1, channels) or wrong:
        need = "one number" if channels == 1 else f"one number or {channels}"
        raise BadInput(f"--{name} {text!r}: {need} is wanted, finite{', not 0' if name == 'std' else ''}",
                       f"for example --{name} 0.5")  # fmt: skip
    return tuple(numbers * channels) if len(numbers) == 1 else tuple(numbers)
