"""Predicted peaks beside the memory events of one real CPU step: `python -m tests.benchmarks.memory [NAME …]`.

A name is torchvision's, or timm's after `timm:`; without names, the classifiers of the training suite. Prints a row for
inference, SGD and Adam, and how many are close; `--peers` also what torch's MemTracker and torchinfo say.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from modelprobe.cost.memory.blocks import record_memory
from modelprobe.cost.memory.steps import StepSetting
from modelprobe.tracing.step_records import MemoryTrace
from tests.cost.memory.test_blocks import above_start, real_peak
from tests.zoo.test_training import TIMM

Maker = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
RUNS: dict[str, Maker | None] = {"inference": None, "sgd": torch.optim.SGD, "adam": torch.optim.Adam}


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network with seeded weights, and two images of the smallest side that it takes."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        kind = name.removeprefix("timm:")
        own = timm.create_model(kind, pretrained=False).default_cfg["input_size"]
        for side in (64, 128, own[-1]):
            for given in ({}, {"img_size": side}):
                try:
                    net = timm.create_model(kind, **given)
                    images = torch.rand(2, own[0], side, side)
                    record_memory(net, images)
                    return net, images
                except Exception:  # noqa: BLE001 - some take no other size than their own
                    continue
        return timm.create_model(kind), torch.rand(2, *own)
    import torchvision

    side = 224 if name.startswith(("vit", "maxvit")) else 299 if name.startswith("inception") else 64
    given = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, **given), torch.rand(2, 3, side, side)


def rows(name: str, peers: bool) -> Iterator[tuple[str, int, int, str]]:
    """(run, predicted, real) bytes above the start, and what other tools say of them."""
    net, images = network(name)
    for run, maker in RUNS.items():
        step = StepSetting(optimizer=maker, steps=1) if maker else None
        found: MemoryTrace = record_memory(net, images, step=step)
        net.zero_grad()
        predicted = above_start(found)
        real = real_peak(net, images, maker(net.parameters()) if maker else None)
        net.zero_grad()
        yield run, predicted, real, others(net, images, maker, real) if peers else ""


def others(net: nn.Module, images: torch.Tensor, maker: Maker | None, real: int) -> str:
    """Ratios of MemTracker's and torchinfo's figures to the real one; torchinfo knows no optimizer."""
    from torch.distributed._tools.mem_tracker import MemTracker

    said = []
    try:
        tracker = MemTracker()
        optimizer = maker(net.parameters()) if maker else None
        tracker.track_external(net, images, *((optimizer,) if optimizer else ()))
        start = sum(t.nbytes for t in (*net.parameters(), *net.buffers(), images))
        with tracker, torch.set_grad_enabled(maker is not None):
            out = net(images)
            if optimizer is not None:
                total(out).backward()
                optimizer.step()
        peak = sum(kinds["Total"] for kinds in tracker.get_tracker_snapshot("peak").values())
        said.append(f"MemTracker {(peak - start) / real:.3f}")
    except Exception as error:  # noqa: BLE001 - that it raises is the answer
        said.append(f"MemTracker {type(error).__name__}")
    net.zero_grad()
    import torchinfo

    try:
        found = torchinfo.summary(net, input_data=images, verbose=0, mode="train" if maker else "eval")
        said.append(f"torchinfo {found.total_output_bytes / real:.3f}")
    except Exception as error:  # noqa: BLE001
        said.append(f"torchinfo {type(error).__name__}")
    return "  ".join(said)


def total(out: Any) -> torch.Tensor:
    """The sum of all outputs that have gradients."""
    from modelprobe.tracing.tensors import leaves

    loss: Any = sum(tensor.sum() for _, tensor in leaves(out) if tensor.requires_grad)
    return loss


def every_name() -> list[str]:
    """The architectures of the training suite: every classifier of torchvision, one of each timm family."""
    import torchvision

    return [*torchvision.models.list_models(module=torchvision.models), *(f"timm:{name}" for name in TIMM)]


def main(names: list[str]) -> None:
    """Print the table."""
    peers = "--peers" in names
    misses, failed = [], []
    for name in [name for name in names if name != "--peers"] or every_name():
        try:
            for run, predicted, real, said in rows(name, peers):
                miss = predicted / real - 1
                misses.append(abs(miss))
                print(f"{name:<40} {run:<10} {predicted:>14,} {real:>14,} {100 * miss:+.3f} %  {said}", flush=True)
        except Exception as error:  # noqa: BLE001 - a network that fails is a row
            failed.append(name)
            print(f"{name:<40} {type(error).__name__}: {str(error)[:120]}", flush=True)
    close = sum(miss <= 0.001 for miss in misses)
    print(f"within 0.1 %: {close} of {len(misses)} ({close / len(misses):.1%})")
    print(f"median {statistics.median(misses):.2%}, worst {max(misses):.2%}; failed: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
