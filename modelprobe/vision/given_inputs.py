"""Images, and what `forward` takes beside them, from the user's own function (`--inputs-from`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.model.inputs.declared import IMAGE, TENSOR, VIDEO, DeclaredInput
from modelprobe.model.inputs.from_function import load_inputs_function
from modelprobe.report.blocks import Note
from modelprobe.tracing.tensors import leaves, with_leaves
from modelprobe.vision.arrays import bands_picture, slices_of
from modelprobe.vision.images import Photo
from modelprobe.vision.preprocessing.transform import Preprocessing


@dataclass(frozen=True)
class GivenInputs:
    """`images` [N, C, ..] as the model takes them; all arguments of `forward`, and which of them the images are."""

    images: Tensor
    at: int | str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    notes: tuple[Note, ...]

    @property
    def declared(self) -> DeclaredInput:
        """One image, as a model would declare it."""
        kind = {3: TENSOR, 4: IMAGE, 5: VIDEO}[self.images.dim()]
        return DeclaredInput(kind, (1, *self.images.shape[1:]), source="the image of --inputs-from")

    @property
    def files(self) -> list[Path]:
        """A path for each image, which `photo` takes."""
        return [Path("inputs-from") / f"image-{number}" for number in range(len(self.images))]

    def photo(self, file: Path, preprocessing: Preprocessing) -> Photo | None:
        """The image of that path, shown without its mean and deviation; None for another path."""
        if file not in self.files:
            return None
        given = self.images[self.files.index(file)]
        stats = preprocessing.mean, preprocessing.std
        mean, std = (np.array(numbers, np.float32).reshape(-1, *[1] * (given.dim() - 1)) for numbers in stats)
        bands = given.float().cpu().numpy() * std + mean
        picture = bands_picture(bands)
        if bands.ndim == 3 and len(bands) in (1, 3) and bands.min() > -0.01 and bands.max() < 1.01:
            values = np.rint(np.clip(bands, 0, 1) * 255).astype(np.uint8)
            picture = Image.fromarray(np.moveaxis(values, 0, -1) if len(values) == 3 else values[0])
        return Photo(file, picture, (), None, slices_of(bands), given)

    def complete(self, model: nn.Module) -> None:
        """Have `model` given the other arguments whenever it is called with images alone."""
        if (self.at, len(self.args), len(self.kwargs)) != (0, 1, 0):
            model.register_forward_pre_hook(self._completed, with_kwargs=True)

    def _completed(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        (images,) = args

        def fitted(value: Tensor) -> Tensor:
            moved = value.to(images.device, images.dtype if value.is_floating_point() else None)
            return moved.expand(len(images), *moved.shape[1:]) if moved.dim() and len(moved) == 1 else moved

        every: Any = [with_leaves(value, fitted) for value in self.args]
        named: Any = {key: with_leaves(value, fitted) for key, value in self.kwargs.items()}
        (named if isinstance(self.at, str) else every)[self.at] = images
        return tuple(every), {**named, **kwargs}


def given_inputs(text: str) -> GivenInputs:
    """What `file.py:function` gives: the first tensor of floats with 4 dimensions, else 5 or 3, is the images.

    Raises BadInput where there is none, or several images stand beside other tensors.
    """
    args, kwargs, notes = load_inputs_function(text)
    every: dict[int | str, Any] = dict(enumerate(args))
    every.update(kwargs)
    for dims in (4, 5, 3):
        for at, value in every.items():
            if isinstance(value, Tensor) and value.dim() == dims and value.is_floating_point() and len(value):
                others = [one for key, item in every.items() if key != at for _, one in leaves(item)]
                if len(value) > 1 and others:
                    raise BadInput(f"{text} gives {len(value)} images beside other tensors", "give one image at a time")
                return GivenInputs(value.detach(), at, args, kwargs, notes)
    raise BadInput(
        f"{text} gives no image",
        "it must give a tensor of floats, [N, C, H, W] ([N, C, L] of signals) among its inputs",
    )
