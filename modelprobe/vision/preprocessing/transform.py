"""From an image to what `forward` takes: one record of sizes and numbers that can be read, changed and applied.

Geometry and interpolation are those of torchvision's presets and timm's evaluation transforms, to the bit: both resize
a PIL image with Pillow's own resampling, cut the center out (or pad), divide by 255 and normalise. (torchvision's
video preset resizes tensors without antialiasing; an image repeated as frames is resized here as images are.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from modelprobe.errors import BadInput
from modelprobe.model.inputs.declared import IMAGE, IMAGE_PAIR, IMAGES, TENSOR, VIDEO
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.images import MOST_PIXELS, Photo

if TYPE_CHECKING:
    from torch import Tensor

    from modelprobe.vision.arrays import Bands

SHORTER, SQUASH, LONGER, NEVER = "shorter side", "squash", "longer side", "never"
"""How an image is resized: its shorter side to a length; both sides, whatever the aspect; its longer side, the rest
padded; not at all."""

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
ENLARGED = 8
"""An image enlarged by more than this shows little but its resampling: a warning."""

LITTLE = 0.4
"""A center crop that shows less than this share of an image is told."""


@dataclass(frozen=True)
class Preprocessing:
    """From an image to a tensor. Sizes are (height, width) in pixels; `mean` and `std` are of values in 0..1.

    `kind` is what `forward` takes (`image`, `images`, `video`, `pair`, see `declared`); `crop` None cuts nothing off.
    """

    channels: int
    fit: str
    resize: tuple[int, int] | None
    crop: tuple[int, int] | None
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    kind: str = IMAGE
    frames: int = 1
    notes: tuple[Note, ...] = ()
    values: tuple[float, float] | None = None
    """What becomes black and white, of images with more than 8 bits; None for the values in the image."""

    def describe(self) -> str:
        """All of it in one line."""
        parts = [_resizing(self.fit, self.resize, self.interpolation)] if self.space != 1 else ["as it is"]
        if self.crop is not None:
            parts.append(f"{'padded to' if self.fit == LONGER else 'center'} {self.crop[0]}x{self.crop[1]}")
        parts.append({1: "gray", 3: "RGB"}.get(self.channels, f"{self.channels} channels"))
        if self.plain_values:
            parts.append("values 0..1")
        else:
            parts.append(f"mean {_numbers(self.mean)}, std {_numbers(self.std)}")
        return f"{', '.join(parts)}; {self.source}"

    @property
    def plain_values(self) -> bool:
        """Whether values stay in 0..1."""
        return not any(self.mean) and set(self.std) == {1.0}

    def seen(self, photo: Photo) -> Image.Image:
        """What the model sees: resized and cropped, in its channels, not normalised.

        Of an image in bands this only shows them.
        """
        if photo.as_it_is:
            return photo.picture
        if photo.bands is not None:
            return self._geometry(photo.picture)
        wanted = "L" if self.channels == 1 else "RGB"
        return self._geometry(photo.picture if photo.picture.mode == wanted else photo.picture.convert(wanted))

    def tensor(self, photo: Photo, seen: Image.Image | None = None) -> Tensor:
        """1xCxHxW float32, as the model takes it. `seen` spares the work of making it again."""
        if photo.given is not None:
            return photo.given.float()[None]  # type: ignore[no-any-return]
        if photo.bands is not None:
            return self._tensor_of_bands(photo.bands)
        return self.tensor_of(seen if seen is not None else self.seen(photo))

    def _tensor_of_bands(self, bands: Bands) -> Tensor:
        import numpy as np
        import torch

        shaped = bands if bands.ndim != 3 else [np.array(self._geometry(Image.fromarray(band))) for band in bands]
        values = torch.from_numpy(np.stack(list(shaped)))
        mean, std = (torch.tensor(numbers).view(-1, *[1] * (values.dim() - 1)) for numbers in (self.mean, self.std))
        return values.sub_(mean).div_(std).unsqueeze(0)

    def tensor_of(self, picture: Image.Image) -> Tensor:
        """The tensor of an image that was resized and cropped already."""
        import torch

        flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        values = flat.view(picture.height, picture.width, self.channels).permute(2, 0, 1).contiguous()
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return values.to(torch.float32).div(255).sub_(mean).div_(std).unsqueeze(0)

    def arguments(self, photo: Photo, seen: Image.Image | None = None) -> tuple[Any, ...]:
        """What `forward` is called with: the tensor, a list of it, as many equal frames, or the same image twice."""
        if photo.as_it_is:
            return (self.tensor(photo),)
        if self.kind == VIDEO and photo.frames:
            import torch

            frames = [self.tensor(Photo(photo.path, frame)) for frame in photo.frames]
            return (torch.stack(frames, 2),)
        tensor = self.tensor(photo, seen)
        if self.kind == IMAGES:
            return ([tensor[0]],)
        if self.kind == VIDEO:
            return (tensor.unsqueeze(2).expand(-1, -1, self.frames, -1, -1).contiguous(),)
        return (tensor, tensor.clone()) if self.kind == IMAGE_PAIR else (tensor,)

    @property
    def space(self) -> int:
        """Dimensions beside batch and channels: 1 for signals, 2 for images, 3 for videos and volumes."""
        return {TENSOR: 1, VIDEO: 3}.get(self.kind, 2)

    def seen_frames(self, photo: Photo) -> tuple[Image.Image, ...]:
        """Each frame as the model sees it; the same image for all where there is one for all of them."""
        if photo.as_it_is:
            return photo.frames
        if photo.frames:
            return tuple(self.seen(Photo(photo.path, frame)) for frame in photo.frames)
        return (self.seen(photo),) * self.frames

    def notes_on(self, photo: Photo) -> tuple[Note, ...]:
        """What was converted of this image: in the file, and for this model."""
        notes = list(photo.notes)
        if photo.as_it_is:
            whole = Note("a volume, given to the model as it is: not resized, nothing cut off", Level.INFO)
            return (*notes, whole) if photo.bands is not None and self.space == 3 else tuple(notes)
        if self.channels == 3 and photo.picture.mode == "L" and photo.bands is None:
            notes.append(Note("gray, given to the model as three equal channels", Level.INFO))
        if self.channels == 1 and photo.picture.mode == "RGB" and photo.bands is None:
            notes.append(Note("color, made gray for a model of one channel", Level.INFO))
        height, width = self._resized(photo.size)
        factor = max(height / photo.size[0], width / photo.size[1])
        if factor > ENLARGED:
            text = f"only {photo.size[1]} x {photo.size[0]} pixels, enlarged {factor:,.0f} times"
            notes.append(Note(text, Level.WARNING))
        if self.crop is not None and self.fit != LONGER:
            shown = min(1.0, self.crop[0] / height) * min(1.0, self.crop[1] / width)
            if shown < LITTLE:
                text = f"the center that the model is given shows {shown:.0%} of it (--no-crop squeezes all of it in)"
                notes.append(Note(text, Level.ASSUMED))
        return tuple(notes)

    # Geometry

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width after resizing, before anything is cut off."""
        height, width = size
        if self.fit == NEVER or self.resize is None:
            return height, width
        if self.fit == SQUASH:
            return self.resize
        if self.fit == LONGER or self.resize[0] != self.resize[1]:
            ratios = height / self.resize[0], width / self.resize[1]
            ratio = max(ratios) if self.fit == LONGER else min(ratios)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        short = self.resize[0]
        if height <= width:
            return short, int(short * width / height)
        return int(short * height / width), short

    def _geometry(self, picture: Image.Image) -> Image.Image:
        height, width = self._resized((picture.height, picture.width))
        method = RESAMPLING[self.interpolation]
        if height * width > MOST_PIXELS:
            return self._sliver(picture, height, width, method)
        if (height, width) != (picture.height, picture.width):
            picture = picture.resize((width, height), method)
        return picture if self.crop is None else self._cut(picture, self.crop)

    def _sliver(self, picture: Image.Image, height: int, width: int, method: Image.Resampling) -> Image.Image:
        """Of an image so long and thin that all of it would not fit in memory, resize what the crop keeps alone."""
        if self.crop is None:
            raise BadInput(
                f"{picture.width:,} x {picture.height:,} pixels would be resized to {width:,} x {height:,}",
                "give --resize HEIGHTxWIDTH, or leave --no-crop out",
            )
        kept = min(self.crop[0], height), min(self.crop[1], width)
        top, left = _offset(height, kept[0]), _offset(width, kept[1])
        down, right = picture.height / height, picture.width / width
        box = (left * right, top * down, (left + kept[1]) * right, (top + kept[0]) * down)
        return self._cut(picture.resize((kept[1], kept[0]), method, box=box), self.crop)

    def _cut(self, picture: Image.Image, crop: tuple[int, int]) -> Image.Image:
        """The center; where the image is smaller it is padded, with the mean where that is timm's way, else black."""
        height, width = crop
        if width > picture.width or height > picture.height:
            bands = len(picture.getbands())
            numbers = self.mean[:bands] if self.fit == LONGER else (0.0,) * bands
            colour: Any = tuple(number if picture.mode == "F" else round(255 * number) for number in numbers)
            size = max(width, picture.width), max(height, picture.height)
            page = Image.new(picture.mode, size, colour if bands > 1 else colour[0])
            page.paste(picture, (max(0, width - picture.width) // 2, max(0, height - picture.height) // 2))
            picture = page
        top, left = _offset(picture.height, height), _offset(picture.width, width)
        return picture.crop((left, top, left + width, top + height))


def _offset(size: int, crop: int) -> int:
    return round((size - crop) / 2)


def _resizing(fit: str, resize: tuple[int, int] | None, interpolation: str) -> str:
    if fit == NEVER or resize is None:
        return "not resized"
    height, width = resize
    if fit == SQUASH:
        return f"resized to {height}x{width}, its aspect not kept ({interpolation})"
    to = f"{height}" if height == width else f"fill {height}x{width}" if fit == SHORTER else f"fit {height}x{width}"
    return f"{fit} resized to {to} ({interpolation})" if height == width else f"resized to {to} ({interpolation})"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
