"""What cuDNN takes for recurrent layers on this GPU: `python -m tests.benchmarks.recurrent OUT.csv [SECONDS]`.

`… OUT.csv judge` compares such a file, on any machine, with what `memory --device cuda` estimates for training.

A row for each of seeded layers: bytes above the weights and inputs, at the peak and after the forward in inference and
training, and at the peak of the backward pass, whose loss is the sum of the outputs.
`cost/memory/recurrent.py` has the rule.
"""

from __future__ import annotations

import csv
import gc
import itertools
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import modelprobe

KINDS: dict[str, Any] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
WIDTHS = (16, 64, 100, 256, 512)
GRID = itertools.product(
    KINDS, (1, 2, 3), (False, True), WIDTHS, WIDTHS, (1, 7, 32, 128), (1, 4, 32), (False, True),
    (torch.float32, torch.float16),
)  # fmt: skip
COLUMNS = "kind layers both I H T B first dtype weights infer_peak infer_after train_peak train_after back_peak".split()


def allocated() -> int:
    """Bytes that torch's allocator has given out."""
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated()


def measured(net: nn.Module, given: torch.Tensor) -> tuple[int, ...]:
    """The last five columns."""
    net(given)[0].sum().backward()
    net.zero_grad(set_to_none=True)
    gc.collect()
    base = allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        out = net(given)
    inference = torch.cuda.max_memory_allocated() - base, allocated() - base
    del out
    torch.cuda.reset_peak_memory_stats()
    out = net(given)
    forward = torch.cuda.max_memory_allocated() - base, allocated() - base
    loss = out[0].sum()
    del out
    torch.cuda.reset_peak_memory_stats()
    loss.backward()
    return *inference, *forward, torch.cuda.max_memory_allocated() - base


class Outputs(nn.Module):
    """A recurrent layer, of which the outputs alone are kept."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)[0]
        return out


def judge(path: Path) -> None:
    """Print how far estimates of training peaks are from the measured ones."""
    errors: dict[tuple[str, str], list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            narrow, width, layers, steps, batch = (int(row[key]) for key in ("I", "H", "layers", "T", "B"))
            dtype, first = getattr(torch, row["dtype"]), row["first"] == "1"
            net = KINDS[row["kind"]](narrow, width, layers, bidirectional=row["both"] == "1", batch_first=first)
            shape = (batch, steps, narrow) if first else (steps, batch, narrow)
            given = torch.empty(shape, device="meta", dtype=dtype)
            found = modelprobe.estimate_memory(Outputs(net.to(dtype)), given, train=True, device="cuda")
            off = found.above_start_bytes / int(row["back_peak"]) - 1
            errors.setdefault((row["kind"], row["dtype"]), []).append(abs(off))
    for (kind, name), found_errors in {**errors, ("all", "types"): [*itertools.chain(*errors.values())]}.items():
        cuts = statistics.quantiles(found_errors, n=10)
        print(
            f"{kind:<5} {name:<8} {len(found_errors):>4} layers: median {statistics.median(found_errors):.1%}, "
            f"p90 {cuts[-1]:.1%}, worst {max(found_errors):.1%}"
        )


def main() -> None:
    """Write rows until the time is over; or judge a file of them."""
    if sys.argv[2:] == ["judge"]:
        judge(Path(sys.argv[1]))
        return
    end = time.monotonic() + (float(sys.argv[2]) if len(sys.argv) > 2 else 60.0)
    grid = list(GRID)
    random.Random(0).shuffle(grid)
    with Path(sys.argv[1]).open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for kind, layers, both, narrow, width, steps, batch, first, dtype in grid:
            if time.monotonic() > end:
                return
            net = KINDS[kind](narrow, width, layers, bidirectional=both, batch_first=first).cuda().to(dtype)
            shape = (batch, steps, narrow) if first else (steps, batch, narrow)
            given = torch.rand(shape, device="cuda", dtype=dtype)
            held = sum(parameter.nbytes for parameter in net.parameters())
            name = str(dtype).removeprefix("torch.")
            key = (kind, layers, int(both), narrow, width, steps, batch, int(first), name, held)
            rows.writerow((*key, *measured(net, given)))


if __name__ == "__main__":
    main()
