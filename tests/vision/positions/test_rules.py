"""Operators of every kind are followed: no rule raises, and what a place tells has the shape of its tensor."""

from __future__ import annotations

import warnings
from itertools import islice
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modelprobe.vision.positions.coordinates import Coordinates
from modelprobe.vision.positions.follow import Positions
from modelprobe.vision.positions.grid import grid_of
from modelprobe.vision.positions.place import tensors_in
from modelprobe.vision.positions.rules import _reshaped


def placed(*inputs: Tensor) -> Positions:
    return Positions(inputs, Coordinates.scaled([tensor.shape for tensor in inputs]), restart=True)


@pytest.mark.parametrize(
    ("samples", "least"),
    [pytest.param(2, 700, marks=pytest.mark.zoo), pytest.param(12, 2000, marks=pytest.mark.slow)],
)
def test_no_operator_of_torch_stands_in_the_way(samples: int, least: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    followed = 0
    for op in op_db:
        if op.supports_dtype(torch.float32, "cpu"):
            followed += sum(follows(op, sample) for sample in islice(samples_of(op), samples))
    assert followed > least


def samples_of(op: Any) -> Any:
    try:
        yield from op.sample_inputs("cpu", torch.float32, requires_grad=False)
    except Exception:  # noqa: BLE001 - some of torch's own generators need packages or a GPU
        return


def follows(op: Any, sample: Any) -> int:
    """Run one operator on one of torch's samples, if it runs at all: how many of its results have a place."""
    given = [t for t in tensors_in((sample.input, *sample.args)) if plain(t)]
    try:
        with torch.inference_mode():
            op(sample.input, *sample.args, **sample.kwargs)
    except Exception:  # noqa: BLE001 - samples that the operator refuses are nothing to follow
        return 0
    positions = placed(*given)
    with torch.inference_mode(), positions:
        out = op(sample.input, *sample.args, **sample.kwargs)
    places = [(tensor, place) for tensor in tensors_in(out) if (place := positions.place(tensor)) is not None]
    for tensor, place in places:
        assert place.numbers.shape == tensor.shape, op.name
        grid = grid_of(place.numbers, positions.coordinates)
        assert grid is None or len(grid.order) + grid.beside <= tensor.numel(), op.name
    return len(places)


def plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.layout is torch.strided and 0 < tensor.dim() <= 5 and tensor.numel() > 0


def test_numbers_are_read_again() -> None:
    coordinates = Coordinates.scaled([(2, 3, 4, 5, 6)])
    numbers = coordinates.numbered((2, 3, 4, 5, 6))
    sample, frame, row, column = coordinates.decode(numbers[:, 0])
    assert torch.equal(sample, torch.arange(2).reshape(2, 1, 1, 1).expand(2, 4, 5, 6))
    assert torch.equal(frame, (torch.arange(4) * (1024 // 4)).reshape(4, 1, 1).expand(2, 4, 5, 6))
    assert torch.equal(row, (torch.arange(5) * (2**14 // 5)).reshape(5, 1).expand(2, 4, 5, 6))
    assert torch.equal(column, (torch.arange(6) * (2**14 // 6)).expand(2, 4, 5, 6))
    assert torch.equal(coordinates.encode(coordinates.decode(numbers)), numbers)


@pytest.mark.parametrize(("size", "expected"), [(2, [0, 4]), (4, [0, 2, 4, 6]), (8, [0, 1, 2, 3, 4, 5, 6, 7])])
def test_a_line_of_places_is_thinned_or_divided(size: int, expected: list[int]) -> None:
    coordinates = Coordinates(1, 1, 8)
    line = coordinates.encode(torch.stack([*[torch.zeros(4)] * 3, torch.tensor([0.0, 2, 4, 6])])).reshape(1, 1, 4)
    assert coordinates.decode(coordinates.spread(line, [size]))[3].flatten().tolist() == expected


class Crops(nn.Module):
    """Parts of a feature map, as detectors cut them out: one to a level, which is no map of the image."""

    def forward(self, x: Tensor) -> Tensor:
        from torchvision.ops import roi_align

        pooled = roi_align(x, torch.tensor([[0.0, 1, 1, 5, 5]]), 4)
        filled = torch.zeros(3, *pooled.shape[1:])
        filled[torch.tensor([1])] = pooled
        return filled


def test_cut_out_parts_are_not_on_the_image() -> None:
    image = torch.rand(1, 2, 8, 8)
    positions = placed(image)
    with torch.inference_mode(), positions:
        out = Crops()(image)
    assert positions.place(out) is None
    assert positions.derived(out)


def test_an_operator_in_place_that_changes_the_shape() -> None:
    image = torch.rand(1, 1, 4, 4)
    positions = placed(image)
    with torch.inference_mode(), positions:
        moved = image * 2
        moved.squeeze_()
    assert positions.place(moved) is None


def test_repetitions_are_reshaped_as_any_numbers() -> None:
    random = Random(0)
    for _ in range(1000):
        sizes = [random.choice([1, 2, 3, 4, 6]) for _ in range(random.randrange(6))]
        base = torch.rand([random.choice([1, size]) for size in sizes])
        base = base.permute(random.sample(range(len(sizes)), len(sizes)))
        numbers = base.expand([size if size > 1 else random.choice(sizes) for size in base.shape])
        left, shape = numbers.numel(), [1] * random.randrange(2)
        while left > 1:
            shape.append(random.choice([size for size in range(1, left + 1) if left % size == 0]))
            left //= shape[-1]
        assert torch.equal(_reshaped(numbers, torch.Size(shape)), numbers.reshape(shape))
