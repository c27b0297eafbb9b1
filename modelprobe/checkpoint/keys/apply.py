"""What a plan does to values: each step of a part as a small function of tensors. Torch is imported when one runs.

How to add one: write a function from (tensors, numbers) to tensors and enter its name in `OPS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.checkpoint.keys.draft import Part
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

FetchTensor = Callable[[str], "Tensor"]
Tensors = list["Tensor"]


def value_of(part: Part, fetch: FetchTensor, model: FetchTensor | None = None) -> Tensor:
    """The tensor that a part stands for. `fetch` gives those of the file, `model` those that the model computes."""
    tensors = [fetch(source) for source in part.sources]
    for step in part.steps:
        if step.op == "model":
            if model is None:
                raise BadInput(f"{part.name} is computed by the model", "name one with --arch")
            tensors = [model(part.name)]
        elif step.op == "zeros":
            tensors = [_zeros(part)]
        else:
            tensors = OPS[step.op](tensors, step.numbers)
    (found,) = tensors
    if tuple(found.shape) != part.shape:
        raise BadInput(f"{part.name} came out as {tuple(found.shape)} instead of {part.shape}")
    return found


def _zeros(part: Part) -> Tensor:
    import torch

    return torch.zeros(part.shape, dtype=getattr(torch, part.dtype))


def _join(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    import torch

    return [torch.cat(tensors, dim=numbers[0] if numbers else 0)]


def _third(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    return [tensors[0].chunk(3)[numbers[0]].clone()]


def _thirds(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    """The thirds of a tensor in another order."""
    import torch

    thirds = tensors[0].chunk(3)
    return [torch.cat([thirds[index] for index in numbers])]


def _rows(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    """So many rows from a first one on."""
    start, count = numbers
    return [tensors[0].narrow(0, start, count).clone()]


def _permute(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    return [tensors[0].permute(tuple(numbers)).contiguous()]


def _reshape(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    return [tensors[0].reshape(tuple(numbers))]


def _masked(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    return [tensors[0] * tensors[1].to(tensors[0].dtype)]


def _positions(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    """timm's `resample_abs_pos_embed`: the tokens in front kept, the grid resized in float32, bicubic, antialiased."""
    import torch

    prefix, *grids = numbers
    whole = tensors[0]
    front, cells = whole[:, :prefix], whole[:, prefix:]
    picture = cells.float().reshape(1, grids[0], grids[1], -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        picture, size=(grids[2], grids[3]), mode="bicubic", antialias=True, align_corners=False
    )
    flat = resized.permute(0, 2, 3, 1).reshape(1, grids[2] * grids[3], -1).to(whole.dtype)
    return [torch.cat([front, flat], dim=1)]


def _channels(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    """timm's `adapt_input_conv` for three channels: their sum for one; else repeated, cut, and scaled by 3/n."""
    import torch

    weight, wanted = tensors[0], numbers[0]
    full = weight.float()
    if wanted == 1:
        found = full.sum(dim=1, keepdim=True)
    else:
        times = -(-wanted // 3)
        found = torch.cat([full] * times, dim=1)[:, :wanted] * (3 / float(wanted))
    return [found.to(weight.dtype)]


def _cast_tensor(tensors: Tensors, numbers: Sequence[int]) -> Tensors:
    import torch

    return [tensors[0].to(getattr(torch, FLOATING_DTYPES[numbers[0]]))]


OPS: dict[str, Callable[[Tensors, Sequence[int]], Tensors]] = {
    "join": _join,
    "third": _third,
    "thirds": _thirds,
    "rows": _rows,
    "permute": _permute,
    "reshape": _reshape,
    "product": _masked,
    "positions": _positions,
    "channels": _channels,
    "cast": _cast_tensor,
}
