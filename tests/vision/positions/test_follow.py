"""Where every element comes from: a network whose layers only move pixels tells it to the digit."""

import pytest
import torch
from torch import nn

from modelprobe.vision.cam.layout import lay_out
from tests.vision.networks import ClassTokenViT


class Moves(nn.Module):
    """A function of the image as a layer of its own."""

    def __init__(self, move):
        super().__init__()
        self.move = move

    def forward(self, x):
        return self.move(x)


def grids(*moves):
    """The grid behind each move of an image [1, 1, 4, 6] whose values are 1, 2, ..., and the image."""
    model = nn.Sequential(*map(Moves, moves))
    image = torch.arange(1.0, 25.0).reshape(1, 1, 4, 6)
    found = {layer.path: layer.grid for layer in lay_out(model, image).layers}
    return [found.get(str(index)) for index in range(len(moves))], image, model


def windows(x):
    """[1, C, 4, 6] as 2x2 windows [6, 4, C], shifted by one."""
    x = torch.roll(x.permute(0, 2, 3, 1), (-1, -1), (1, 2))
    return x.reshape(1, 2, 2, 3, 2, -1).permute(0, 1, 3, 2, 4, 5).reshape(6, 4, -1)


def with_class_token(x):
    tokens = x.flatten(2).transpose(1, 2)
    return torch.cat([torch.zeros(1, 2, tokens.shape[-1]), tokens], 1)


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.flatten(2).transpose(1, 2),
        with_class_token,
        windows,
        lambda x: x.flip(3)[:, :, torch.tensor([2, 0, 1, 3])],
        lambda x: nn.functional.pad(x, (0, 2, 0, 2)),
        lambda x: torch.stack([x, x])[1],
    ],
)
def test_gathering_undoes_every_move(move):
    (grid,), image, model = grids(move)
    assert (grid.height, grid.width) == (4, 6)
    out = model(image)
    assert torch.equal(grid.gather(out), image[0])
    new = torch.rand(1, 4, 6)
    assert torch.equal(grid.gather(grid.scatter(out, new)), new)


@pytest.mark.parametrize(
    "lost",
    [
        lambda x: x.mean((2, 3)),
        lambda x: nn.functional.linear(x.flatten(2), torch.ones(24, 24)),  # every position from all of them
        lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
        lambda x: torch.fft.fft2(x).real.flatten(1),
    ],
)
def test_what_mixes_all_places_has_none(lost):
    (grid,), _, _ = grids(lost)
    assert grid is None


def test_a_coarser_grid():
    (pooled, strided, line), _, _ = grids(
        lambda x: nn.functional.max_pool2d(x, 2),
        lambda x: x.unflatten(2, (2, 1)).mean(3)[..., ::2],
        lambda x: x.amax(3),
    )
    assert (pooled.height, pooled.width) == (2, 3)
    assert (strided.height, strided.width) == (2, 2)
    assert line is None


def test_attention_is_seen_fused_and_not():
    image = torch.rand(1, 1, 64, 64)
    (first, *_) = found = lay_out(ClassTokenViT().eval(), image).attended
    assert [item.path for item in found] == ["blocks.0", "blocks.1", "blocks.2"]
    assert first.shape == (1, 4, 65, 65)
    assert first.weights is None  # fused
    assert first.keys[0, 0, 0] == 0  # the class token
    assert (first.keys[0, 0, 1:] > 0).all()
    explicit = Moves(lambda x: (x.flatten(2).mT @ x.flatten(2)).softmax(-1) @ x.flatten(2).mT)
    (only,) = lay_out(explicit, image[..., :4, :6]).attended
    assert torch.equal(only.keys[0], torch.arange(1, 25))
