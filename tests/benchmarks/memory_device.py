"""Predicted peaks beside what a GPU allocates and reserves: `python -m tests.benchmarks.memory_device [NAME …]`.

For each network inference and a training step (SGD, its second step) in float32: `estimate_memory(…, device="cuda")`
against `torch.cuda.max_memory_allocated` and `max_memory_reserved`. Prints a row for each, the medians and the worst.
"""

from __future__ import annotations

import gc
import statistics
import sys
from typing import Any

import torch
from torch import nn

import modelprobe

NETWORKS = (
    "resnet18", "resnet50", "vgg11_bn", "densenet121", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny",
    "regnet_y_400mf", "shufflenet_v2_x1_0", "squeezenet1_1", "vit_b_16", "swin_t", "maxvit_t", "inception_v3",
    "timm:vit_small_patch16_224", "timm:deit_tiny_patch16_224", "timm:convnext_atto", "timm:mixer_s16_224",
    "timm:mobilevit_s", "timm:cait_xxs24_224",
)  # fmt: skip
BATCH = 16


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network with seeded weights, in the mode of its first use, and the shape of its input."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        net: Any = timm.create_model(name.removeprefix("timm:"))
        return net, (BATCH, *net.default_cfg["input_size"])
    import torchvision

    given = {"init_weights": False} if name == "inception_v3" else {}
    side = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, **given), (BATCH, 3, side, side)


def tensors(out: Any) -> torch.Tensor:
    """The loss: the sum of the outputs."""
    return sum(one.sum() for one in (out if isinstance(out, tuple) else [out]))  # type: ignore[return-value]


def real(name: str, train: bool) -> tuple[int, int]:
    """Allocated and reserved bytes at the peak, of weights, inputs and one pass, above what stood there before."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()  # the workspaces of cuBLAS
    net, shape = network(name)
    net, images = net.cuda(), torch.rand(shape, device="cuda")
    net.train(train)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        if train:
            tensors(net(images)).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        else:
            with torch.no_grad():
                net(images)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before[0], torch.cuda.max_memory_reserved() - before[1]


def main() -> None:
    torch.backends.cudnn.benchmark = False
    names = sys.argv[1:] or NETWORKS
    errors: dict[str, list[float]] = {}
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {BATCH}")
    torch.zeros(8, 8, device="cuda") @ torch.zeros(8, 8, device="cuda")  # which makes the workspaces of cuBLAS
    for name in names:
        for train in (False, True):
            try:
                allocated, reserved = real(name, train)
                net, shape = network(name)
                net.train(train)
                found = modelprobe.estimate_memory(net, torch.empty(shape, device="meta"), train=train, device="cuda")
            except Exception as error:  # noqa: BLE001 - a row that failed is a row
                print(f"{name:28} {'train' if train else 'infer'} FAILED {type(error).__name__}: {str(error)[:120]}")
                continue
            kind = "train" if train else "infer"
            off = found.peak_bytes / allocated - 1
            errors.setdefault(f"{kind} allocated", []).append(off)
            text = ""
            if found.reserved_bytes:
                errors.setdefault(f"{kind} reserved", []).append(found.reserved_bytes / reserved - 1)
                pair = f"{found.reserved_bytes / 2**20:8.1f} {reserved / 2**20:8.1f}"
                text = f"reserved {pair} {errors[f'{kind} reserved'][-1]:+.2%}"
            mib = f"{found.peak_bytes / 2**20:8.1f} {allocated / 2**20:8.1f}"
            print(f"{name:28} {kind} {mib} {off:+.2%} {text}", flush=True)
    for kind, found_errors in errors.items():
        sizes = sorted(map(abs, found_errors))
        print(f"{kind}: median {statistics.median(sizes):.2%}, worst {sizes[-1]:.2%} of {len(sizes)}")


if __name__ == "__main__":
    main()
