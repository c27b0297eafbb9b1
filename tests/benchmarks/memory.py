"""Predicted peaks beside the memory events of one real CPU step: `python -m tests.benchmarks.memory NAME …`.

A name is torchvision's, or timm's after `timm:`. Prints a row for inference, SGD and Adam, and how many are close.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from modelprobe.cost.memory.blocks import MemoryTrace, StepSetting, record_memory
from tests.cost.memory.test_blocks import above_start, real_peak

Maker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
RUNS: dict[str, Maker | None] = {"inference": None, "sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network with seeded weights, and two images of 64 pixels, or of the size it insists on."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        net: Any = timm.create_model(name.removeprefix("timm:"))
        side = net.default_cfg["input_size"][-1] if net.default_cfg.get("fixed_input_size") else 64
    else:
        import torchvision

        net, side = torchvision.models.get_model(name), 224 if name.startswith("vit") else 64
    return net, torch.rand(2, 3, side, side)


def rows(name: str) -> Iterator[tuple[str, int, int]]:
    """(run, predicted, real) bytes above the start."""
    net, images = network(name)
    for run, maker in RUNS.items():
        step = StepSetting(optimizer=maker, steps=1) if maker else None
        found: MemoryTrace = record_memory(net, images, step=step)
        net.zero_grad()
        yield run, above_start(found), real_peak(net, images, maker(net.parameters()) if maker else None)
        net.zero_grad()


def main(names: list[str]) -> None:
    """Print the table."""
    misses = []
    for name in names:
        for run, predicted, real in rows(name):
            misses.append(abs(predicted / real - 1))
            print(
                f"{name:<32} {run:<10} {predicted:>14,} {real:>14,} {100 * (predicted / real - 1):+.3f} %", flush=True
            )
    close = sum(miss <= 0.001 for miss in misses)
    print(f"within 0.1 %: {close} of {len(misses)}; worst {100 * max(misses):.2f} %")


if __name__ == "__main__":
    main(sys.argv[1:])
