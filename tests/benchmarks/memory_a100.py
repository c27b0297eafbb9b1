"""Predicted reserved memory beside published peaks of an A100: `python -m tests.benchmarks.memory_a100 FILE.csv [N]`.

The file lists timm models by name, batch and MiB seen by the driver during training, and an estimate of torch's
FakeTensor. N names are drawn with a seed (60 by default), one row of each. What the driver sees beyond torch's
allocator is one constant, the median on one half of the names; the errors are those of the other half. Left out are
rows in which FakeTensor's tensors alone are more than the driver saw, or more than the device has: such runs stopped
early.
"""

from __future__ import annotations

import csv
import random
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch

import modelprobe

LOW, HIGH = 1.5 * 1024, 38 * 1024
"""MiB: rows beyond may be runs that failed."""


def predicted(name: str, batch: int, optimizer: str) -> float:
    """Reserved MiB of a training step."""
    with torch.device("meta"):
        model = timm.create_model(name)
    size = model.default_cfg["input_size"]
    images = torch.empty(batch, *size, device="meta")
    found = modelprobe.estimate_memory(model.train(), images, train=True, optimizer=optimizer, device="cuda")
    return (found.reserved_bytes or 0) / 2**20


def told(name: str, pairs: Sequence[tuple[float, float]], train: Sequence[int], test: Sequence[int]) -> None:
    """The constant of one half, and the errors of the other."""
    constant = statistics.median(pairs[at][0] - pairs[at][1] for at in train)
    errors = sorted(abs(pairs[at][1] + constant - pairs[at][0]) / pairs[at][0] for at in test)
    within = sum(error <= 0.1 for error in errors) / len(errors)
    ninth = errors[min(len(errors) - 1, int(0.9 * len(errors)))]
    print(
        f"{name}: constant {constant:,.0f} MiB, median {statistics.median(errors):.1%}, p90 {ninth:.1%}, "
        f"within 10 % {within:.0%} of {len(errors)}"
    )


def main() -> None:
    with Path(sys.argv[1]).open() as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if LOW <= float(row["measured_mib"]) <= HIGH
            and float(row["faketensor_estimate_mib"] or 0) <= min(HIGH, float(row["measured_mib"]))
        ]
    drawn = random.Random(0)
    names = sorted({row["model"] for row in rows} & set(timm.list_models()))
    names = drawn.sample(names, min(len(names), int(sys.argv[2]) if len(sys.argv) > 2 else 60))
    found: dict[str, list[tuple[float, float]]] = {"SGD": [], "Adam": [], "FakeTensor": []}
    for name in names:
        row = drawn.choice([row for row in rows if row["model"] == name])
        try:
            sgd, adam = (predicted(name, int(row["batch"]), optimizer) for optimizer in ("sgd", "adam"))
        except Exception as error:  # noqa: BLE001 - a row that failed is a row
            print(f"{name} FAILED {type(error).__name__}: {str(error)[:100]}", flush=True)
            continue
        measured, fake = float(row["measured_mib"]), float(row["faketensor_estimate_mib"] or "nan")
        print(f"{name:36} {row['batch']:>4} {measured:9.0f} {sgd:9.0f} {adam:9.0f} {fake:9.0f}", flush=True)
        for kind, value in zip(found, (sgd, adam, fake), strict=True):
            found[kind].append((measured, value))
    many = range(len(found["SGD"]))
    for kind, pairs in found.items():
        told(kind, pairs, many[::2], many[1::2])


if __name__ == "__main__":
    main()
