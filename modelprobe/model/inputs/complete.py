"""Which full shape does a short `--input` mean for a model that declares what it takes? `224` -> 1x3x224x224."""

from __future__ import annotations

from modelprobe.errors import BadInput
from modelprobe.model.inputs.declared import GIVEN, IMAGE, IMAGES, UNDECLARED, VIDEO, DeclaredInput
from modelprobe.model.inputs.spec import InputSpec

CHANNELS = 3


def completed(spec: InputSpec, wanted: DeclaredInput | None) -> tuple[int, ...]:
    """The shape of `spec` with what it leaves out taken from what the model declares; named specs are exact.

    One number is a side, two are height and width; a missing batch is 1. For `images` it is the shape of one image,
    or with a leading number of images. Without a declaration three channels are taken.
    """
    shape = spec.shape
    if spec.name is not None:
        return shape
    if wanted is None or wanted.kind in (GIVEN, UNDECLARED):
        wanted = DeclaredInput(IMAGE, (1, CHANNELS, 0, 0))
        return shape if len(shape) > 2 else wanted.sized(shape[0], shape[-1]).shape
    if wanted.size is None:
        return _with_free(shape, wanted) if len(shape) == 1 else shape
    if len(shape) <= 2:
        return wanted.sized(shape[0], shape[-1]).shape
    if wanted.kind == VIDEO and len(shape) == 3:
        return (1, shape[0], wanted.shape[2], *shape[1:])
    if wanted.kind != IMAGES and len(shape) == len(wanted.shape) - 1:
        return (1, *shape)
    return shape


def is_short(spec: InputSpec) -> bool:
    """Whether the channels are left to the model."""
    return spec.name is None and len(spec.shape) <= 2


def _with_free(shape: tuple[int, ...], wanted: DeclaredInput) -> tuple[int, ...]:
    full = list(wanted.shape)
    full[wanted.free_dim] = shape[0]
    return tuple(full)


def batched(shape: tuple[int, ...], batch: int | None, dim: int = 0) -> tuple[int, ...]:
    """`shape` with its batch of 1 replaced. Raises BadInput when it says another number already."""
    if batch is None or shape[dim] == batch:
        return shape
    if shape[dim] != 1:
        text = "x".join(map(str, shape))
        raise BadInput(f"--batch {batch} contradicts --input {text}", "leave one of the two out")
    return (*shape[:dim], batch, *shape[dim + 1 :])
