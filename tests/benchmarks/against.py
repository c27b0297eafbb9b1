"""How often `profile --against` is right: `python -m tests.benchmarks.against [--same N] [--slower N] [--share 0.05]`.

A small network against itself, built anew each time, must not be called faster or slower; one with a product more that
takes `--share` of its time must be called slower. Beside each answer stands how long it took.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter

import torch
from torch import Tensor, nn

from modelprobe.cost.timing.against import AgainstResult, profile_against
from modelprobe.cost.timing.passes import TimingSetting
from modelprobe.model.build import TargetRequest, load_model


class SmallNet(nn.Module):
    """Some 0.4 ms on one core; `depth` is that of a product whose result nobody uses."""

    def __init__(self, depth: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip
        self.left, self.right = nn.Parameter(torch.rand(64, depth)), nn.Parameter(torch.rand(depth, 64))

    def forward(self, x: Tensor) -> Tensor:
        if len(self.right):
            self.left @ self.right
        return self.layers(x)


def compared(depth: int, seconds: float) -> AgainstResult:
    """The network with a product of that depth against the network without."""
    loaded = [
        load_model(TargetRequest(f"{__file__}:SmallNet", (f"depth={n}",), ("4x3x40x40",), device="cpu"))
        for n in (depth, 0)
    ]
    return profile_against(loaded[0], loaded[1], (TimingSetting(), TimingSetting()), seconds=seconds)


def depth_for(share: float) -> tuple[int, float]:
    """The depth of a product that takes `share` of the network's time, and the ratio that a long comparison finds."""
    depth = 2000
    ratio = compared(depth, 4).ratio
    for _ in range(4):
        depth = max(1, round(depth * share / max(ratio - 1, share / 10)))
        ratio = compared(depth, 4).ratio
    return depth, ratio


def judged(name: str, depth: int, count: int, seconds: float) -> None:
    """Print how often each answer was given."""
    found = []
    for at in range(1, count + 1):
        found.append(compared(depth, seconds))
        if at % 25 == 0 or at == count:
            answers = ", ".join(f"{text} {n}" for text, n in sorted(Counter(one.answer for one in found).items()))
            took = [one.seconds for one in found]
            print(
                f"{name}: {at} comparisons: {answers}; ratio {statistics.median(one.ratio for one in found):.4f}, "
                f"{statistics.median(took):.1f} s each, at most {max(took):.1f} s",
                flush=True,
            )


def main() -> None:
    """Print both counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.against", description=__doc__)
    parser.add_argument("--same", type=int, default=200)
    parser.add_argument("--slower", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seconds", type=float, default=2.0)
    asked = parser.parse_args()
    if asked.same:
        judged("itself", 0, asked.same, asked.seconds)
    if asked.slower:
        depth, ratio = depth_for(asked.share)
        print(f"a product of 64 x {depth} x 64 makes the ratio {ratio:.4f} (a comparison of up to 40 s)", flush=True)
        judged("slower", depth, asked.slower, asked.seconds)


if __name__ == "__main__":
    main()
