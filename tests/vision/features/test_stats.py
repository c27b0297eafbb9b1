"""The figures of a layer's output against numpy in double precision, and merged over images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modelprobe.vision.features.maps import layer_maps, order_of
from modelprobe.vision.features.outputs import MATRIX, PIECES, VECTOR, Layout, guessed_layout
from modelprobe.vision.features.stats import Stats, stats_of
from modelprobe.vision.positions.coordinates import Coordinates
from modelprobe.vision.positions.grid import grid_of


def check(found: Stats, values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    assert (found.count, found.zeros) == (values.size, int((values == 0).sum()))
    assert (found.nan, found.inf) == (int(np.isnan(values).sum()), int(np.isinf(values).sum()))
    if finite.size:
        assert found.mean == pytest.approx(finite.mean(), rel=1e-5, abs=1e-7)
        assert found.std == pytest.approx(finite.std(), rel=1e-5, abs=1e-7)
        assert (found.min, found.max) == (finite.min(), finite.max())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_against_numpy(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensor = (torch.randn(1, 6, 9, 5) * 3).relu().to(dtype)
    tensor[0, 2] = 0
    found = stats_of(tensor, (1,))
    check(found, tensor.to(torch.float64).numpy())
    assert found.channels == 6
    assert found.dead_channels == (2,)


@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e300])
def test_sizes_that_overflow(scale: float) -> None:
    values = np.random.default_rng(0).normal(size=(1, 3, 50)) * scale
    tensor = torch.from_numpy(values).to(torch.float32 if scale < 1e30 else torch.float64)
    found = stats_of(tensor, (1,))
    assert found.mean == pytest.approx(float(tensor.double().numpy().mean()), rel=1e-4)
    if scale < 1e150:
        assert found.std == pytest.approx(float(tensor.double().numpy().std()), rel=1e-4)


def test_a_large_mean_does_not_eat_the_spread() -> None:
    values = np.random.default_rng(0).normal(size=(1, 4, 100, 100)) + 3e4
    tensor = torch.from_numpy(values).float()
    assert stats_of(tensor, (1,)).std == pytest.approx(tensor.double().std(correction=0).item(), rel=1e-3)


def test_what_is_not_finite() -> None:
    tensor = torch.tensor([[1.0, math.nan, math.inf, -math.inf, 0.0, 2.0]])
    found = stats_of(tensor, (1,))
    check(found, tensor.double().numpy())
    assert found.dead_channels == (4,)
    check(stats_of(torch.full((2, 2), math.nan), (1,)), np.full((2, 2), math.nan))


def test_odd_tensors() -> None:
    assert stats_of(torch.zeros(0, 3), (1,)).count == 0
    assert stats_of(torch.tensor(2.0), ()).max == 2.0
    assert stats_of(torch.tensor([3 + 4j]), ()).mean == 5.0
    assert stats_of(torch.eye(3).to_sparse(), (0,)).zeros == 6


def test_merged_over_pictures_as_if_they_were_one() -> None:
    torch.manual_seed(1)
    pictures = [torch.randn(1, 4, 5, 5).relu(), torch.randn(1, 4, 5, 5) + 3, torch.zeros(1, 4, 5, 5)]
    pictures[0][0, 1] = 0
    pictures[1][0, 1] = 0
    pictures[1][0, 3, 0, 0] = math.nan
    merged = stats_of(pictures[0], (1,))
    for more in pictures[1:]:
        merged = merged.with_more(stats_of(more, (1,)))
    check(merged, torch.cat(pictures).double().numpy())
    assert merged.dead_channels == (1,)


# Arranged as their layouts say


def test_channels_last_and_tokens() -> None:
    first = torch.arange(2 * 3 * 4.0).reshape(1, 2, 3, 4)
    tokens = first.flatten(2).transpose(1, 2)
    for tensor in (first, first.permute(0, 2, 3, 1), tokens):
        found = layer_maps(tensor, guessed_layout(tuple(tensor.shape), [(3, 4)]))
        assert np.array_equal(found.channels, first[0].numpy())
    # No class token and no batch are guessed: 13 tokens of 12 places, and boxes, whose number may be any.
    assert [guessed_layout(shape, [(3, 4)]).how for shape in ((1, 13, 2), (12, 4))] == ["order", "order"]
    assert layer_maps(torch.ones(1, 7), Layout(VECTOR, "channels", (1,))).row.size == 7
    with pytest.raises(ValueError, match="is not laid out as"):
        layer_maps(torch.ones(2, 2, 3, 4), guessed_layout((1, 2, 3, 4), [(3, 4)]))
    with pytest.raises(ValueError, match="is not laid out as"):
        layer_maps(torch.ones(2, 3, 4), Layout(MATRIX, "positions", (2,), (1,)))


def test_several_samples_have_a_map_each() -> None:
    tensor = torch.rand(2, 5, 3, 4)
    numbers = Coordinates.scaled([(2, 3, 3, 4)]).numbered((2, 5, 3, 4))
    grid = grid_of(numbers, Coordinates.scaled([(2, 3, 3, 4)]))
    found = layer_maps(tensor, Layout(PIECES, "NCHW", (1,), (0, 2, 3), grid))
    assert (found.unit, found.covers) == ("piece", False)
    assert np.allclose(found.channels, tensor.mean(1).numpy())


def test_order_of_channels() -> None:
    channels = np.stack([np.full((2, 2), 5.0), np.array([[0.0, 1], [0, 1]]), np.full((2, 2), np.nan), np.eye(2) * 9])
    assert order_of(channels, "index") == [0, 1, 2, 3]
    assert order_of(channels, "variance") == [3, 1, 0, 2]
    assert order_of(channels, "max") == [3, 0, 1, 2]
