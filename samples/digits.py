"""Trains the small classifiers of this directory on scikit-learn's handwritten digits: `python samples/digits.py`.

A canvas holds one digit in a random place of a random quadrant, and scraps in the other three: digits whose quarters
were turned and put together in another order, so that every quadrant has the same ink and strokes, and only the digit's
shape tells it apart. The networks are told which digit it is, never where. A few minutes on one core;
`python samples/digits.py pictures` makes the sample pictures alone, from digits that no network was trained on.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
CANVAS, QUADRANT, DIGIT = 64, 32, 24
"""Pixels on a side."""

TRAINED_ON = 1437
"""Of the 1,797 digits the first 1,437 are for training, as in scikit-learn's own example; the last 360 for tests."""


class Canvases(NamedTuple):
    """Pictures [B, 1, 64, 64] from 0 to 1, the digits [B], their quadrants [B]: 2 x (lower half) + (right half)."""

    pictures: Tensor
    digits: Tensor
    quadrants: Tensor


def handwriting(held_out: bool) -> tuple[Tensor, Tensor]:
    """The digits [n, 8, 8] from 0 to 1 and what they are [n]: those for training, or those held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    part = slice(TRAINED_ON, None) if held_out else slice(TRAINED_ON)
    return torch.from_numpy(data.images[part] / 16).float(), torch.from_numpy(data.target[part])


def canvases(count: int, generator: torch.Generator, held_out: bool = False) -> Canvases:
    """`count` random canvases."""
    images, labels = handwriting(held_out)
    chosen = torch.randint(len(images), (count, 4), generator=generator)
    quadrants = torch.randint(4, (count,), generator=generator)
    tiles = images[chosen]  # [B, 4 quadrants, 8, 8]
    scraps = _scraps(tiles, generator)
    own = torch.arange(4) == quadrants[:, None]
    pieces = torch.where(own[:, :, None, None], tiles, scraps)
    pieces = F.interpolate(pieces, size=(DIGIT, DIGIT), mode="bilinear", align_corners=False)
    shift = torch.randint(QUADRANT - DIGIT + 1, (count, 4, 2), generator=generator)
    pictures = torch.zeros(count, CANVAS, CANVAS)
    for index in range(count):
        for place in range(4):
            top = QUADRANT * (place // 2) + int(shift[index, place, 0])
            left = QUADRANT * (place % 2) + int(shift[index, place, 1])
            pictures[index, top : top + DIGIT, left : left + DIGIT] = pieces[index, place]
    pictures += 0.05 * torch.randn(pictures.shape, generator=generator)
    digits = labels[chosen[torch.arange(count), quadrants]]
    return Canvases(pictures.clamp(0, 1)[:, None], digits, quadrants)


def _scraps(digits: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 4, 8, 8], each cut into four quarters that are turned and put together anew: strokes, no digit."""
    quarters = digits.reshape(-1, 2, 4, 2, 4).transpose(2, 3).reshape(-1, 4, 4)
    turned = torch.stack([quarters.rot90(turns, (1, 2)) for turns in (1, 2, 3)])
    turns = torch.randint(3, (len(quarters),), generator=generator)
    quarters = turned[turns, torch.arange(len(quarters))].reshape(-1, 4, 4, 4)
    order = torch.rand(len(quarters), 4, generator=generator).argsort(1)
    quarters = quarters[torch.arange(len(quarters))[:, None], order]
    return quarters.reshape(-1, 2, 2, 4, 4).transpose(2, 3).reshape(digits.shape)


def train(model: nn.Module, steps: int, seed: int, rate: float, batch: int = 128) -> torch.optim.Optimizer:
    """Adam with a warm-up and a cosine; a fresh batch of canvases each step. Returns the optimiser."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps, pct_start=0.15)
    begun, total = time.monotonic(), 0.0
    model.train()
    for step in range(steps):
        batched = canvases(batch, generator)
        loss = F.cross_entropy(model(batched.pictures), batched.digits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        total += float(loss.detach())
        if step % 100 == 99:
            print(f"step {step + 1:5}  loss {total / 100:.3f}  {time.monotonic() - begun:.0f} s", flush=True)
            total = 0.0
    return optimiser


@torch.no_grad()
def accuracy(model: nn.Module, count: int = 1000) -> float:
    """The share of held-out canvases whose digit `model` names."""
    test = canvases(count, torch.Generator().manual_seed(99), held_out=True)
    return float((model.eval()(test.pictures).argmax(1) == test.digits).float().mean())


def picture(index: int) -> Image.Image:
    """One held-out canvas, as an 8-bit grey picture."""
    found = canvases(index + 1, torch.Generator().manual_seed(7), held_out=True).pictures[index, 0]
    return Image.fromarray((found * 255).round().numpy().astype(np.uint8))


def train_cnn() -> None:
    """`DigitCNN`, saved as training scripts do: within DataParallel, beside its optimiser and the epoch."""
    from models import DigitCNN

    torch.manual_seed(0)
    model = DigitCNN()
    optimiser = train(model, steps=700, seed=1, rate=4e-3)
    print(f"DigitCNN names {accuracy(model):.1%} of held-out canvases")
    state = nn.DataParallel(model).state_dict()
    torch.save({"epoch": 7, "state_dict": state, "optimizer": optimiser.state_dict()}, HERE / "digit_cnn.pth")


def train_vit() -> None:
    """`DigitViT`, its state_dict alone."""
    from models import DigitViT

    torch.manual_seed(0)
    model = DigitViT()
    train(model, steps=800, seed=2, rate=3e-3, batch=64)
    print(f"DigitViT names {accuracy(model):.1%} of held-out canvases")
    torch.save(model.state_dict(), HERE / "digit_vit.pth")


def train_resnet() -> None:
    """`DigitResNet`, its state_dict alone, in half precision to be small."""
    from models import DigitResNet

    torch.manual_seed(0)
    model = DigitResNet()
    train(model, steps=700, seed=3, rate=4e-3)
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    print(f"DigitResNet names {accuracy(model):.1%} of held-out canvases")
    torch.save(state, HERE / "digit_resnet.pth")


def main(wanted: list[str]) -> None:
    """Make what was asked for: of `pictures`, `cnn`, `vit`, `resnet`; everything when nothing was."""
    torch.set_num_threads(1)  # sums in one order: the same weights on the same machine
    if "pictures" in wanted or not wanted:
        for index, name in enumerate(("digit_a.png", "digit_b.png")):
            picture(index).save(HERE / name, optimize=True)
    if "cnn" in wanted or not wanted:
        train_cnn()
    if "vit" in wanted or not wanted:
        train_vit()
    if "resnet" in wanted or not wanted:
        train_resnet()


if __name__ == "__main__":
    main(sys.argv[1:])
