"""`profile` beside `torch.utils.benchmark.Timer`, in turn: `python -m tests.benchmarks.end_to_end [--seconds S]`.

Each round takes a sample with the one and a sample with the other, and the other way round in the next. What is printed
is the ratio of the two medians, and that of the pairs with its 99 % interval.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch.utils.benchmark import Timer

from modelprobe.cost.timing import passes
from modelprobe.cost.timing.paired import paired_ratio
from modelprobe.cost.timing.passes import PreparedPass, TimingSetting, prepare_pass
from modelprobe.model.build import LoadedModel, TargetRequest, load_model, record_with
from modelprobe.model.inputs.example import make_inputs

MODELS = ("resnet50", "timm:vit_small_patch16_224", "mobilenet_v3_large")
BATCHES = (1, 8)


def timer_of(loaded: LoadedModel, batch: int, threads: int, clock: Callable[[], float]) -> Timer:
    """Torch's timer of the same model on the same input, as people write it."""
    args, kwargs = make_inputs(loaded.target, batch=batch, model=loaded.model).build("cpu", 0)
    names: dict[str, Any] = {"model": loaded.model.eval(), "args": args, "kwargs": kwargs}
    return Timer("model(*args, **kwargs)", timer=clock, globals=names, num_threads=threads)


def sampled(one: PreparedPass, timer: Timer, number: int, seconds: float) -> tuple[list[float], list[float]]:
    """Samples of both, in turn."""
    ours: list[float] = []
    theirs: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(ours) < 20:
        for who in ("ours", "theirs") if len(ours) % 2 else ("theirs", "ours"):
            if who == "theirs":
                with torch.inference_mode():
                    theirs.append(timer.timeit(number).median)
                continue
            with one.active():
                one.seconds(max(2, number // 100))  # the timer warms up before each of its samples
                ours.append(one.seconds(number))
    return ours, theirs


def main() -> None:
    """Print the ratio for each model and batch."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.end_to_end", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each model and batch, at least")
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: on a machine in use")
    asked = parser.parse_args()
    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    for name in asked.models:
        for batch in BATCHES:
            loaded = load_model(TargetRequest(name, batch=batch, device="cpu"))
            setting = TimingSetting(asked.threads)
            with (
                mock.patch.object(passes.time, "perf_counter", clock),
                closing(record_with(loaded, partial(prepare_pass, setting=setting), "eval")) as one,
            ):
                number = one.runs_a_sample()
                ours, theirs = sampled(one, timer_of(loaded, batch, asked.threads, clock), number, asked.seconds)
            ratio = statistics.median(ours) / statistics.median(theirs)
            paired = paired_ratio(ours, theirs)
            print(
                f"{asked.clock} {name:<28} batch {batch}: profile {statistics.median(ours) * 1e3:8.2f} ms, Timer "
                f"{statistics.median(theirs) * 1e3:8.2f} ms, ratio {ratio:.3f}; in pairs {paired.ratio:.3f} "
                f"({paired.low:.3f} to {paired.high:.3f}), {len(ours)} samples each",
                flush=True,
            )


if __name__ == "__main__":
    main()
