"""Predicted peaks beside what a GPU allocates and reserves: `python -m tests.benchmarks.memory_device [NAME …]`.

For each network inference and a training step (SGD, its second step) in float32, and one under autocast to float16:
`estimate_memory(…, device="cuda")` against `torch.cuda.max_memory_allocated` and `max_memory_reserved`. Prints a row
for each, the medians and the worst. `--others` takes 20 networks that nobody looked at while the rule was made,
`--seen` (the default) the 20 whose convolutions are behind it.
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
OTHERS = (
    "alexnet", "vgg16", "resnet34", "wide_resnet50_2", "resnext50_32x4d", "densenet169", "mnasnet0_5", "mobilenet_v2",
    "efficientnet_v2_s", "regnet_x_800mf", "convnext_small", "vit_b_32", "swin_v2_t", "googlenet",
    "timm:beit_base_patch16_224", "timm:edgenext_small", "timm:levit_128", "timm:pvt_v2_b0", "timm:res2net50_26w_4s",
    "timm:xcit_tiny_12_p16_224",
)  # fmt: skip
BATCH = 16
KINDS = {(False, False): "infer", (True, False): "train", (True, True): "amp  "}


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network with seeded weights, in the mode of its first use, and the shape of its input."""
    torch.manual_seed(0)
    if name.startswith("timm:"):
        import timm

        net: Any = timm.create_model(name.removeprefix("timm:"))
        return net, (BATCH, *net.default_cfg["input_size"])
    import torchvision

    given = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    side = 299 if name == "inception_v3" else 224
    return torchvision.models.get_model(name, **given), (BATCH, 3, side, side)


def tensors(out: Any) -> torch.Tensor:
    """The loss: the sum of the outputs."""
    return sum(one.sum() for one in (out if isinstance(out, tuple) else [out]))  # type: ignore[return-value]


def real(name: str, train: bool, amp: bool) -> tuple[int, int]:
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
            with torch.autocast("cuda", enabled=amp):
                loss = tensors(net(images))
            loss.backward()
            del loss
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        else:
            with torch.no_grad(), torch.autocast("cuda", enabled=amp):
                net(images)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before[0], torch.cuda.max_memory_reserved() - before[1]


def main() -> None:
    torch.backends.cudnn.benchmark = False
    asked = sys.argv[1:]
    names = [name for name in asked if not name.startswith("--")]
    names += [*(OTHERS if "--others" in asked else ()), *(NETWORKS if "--seen" in asked or not asked else ())]
    errors: dict[str, list[float]] = {}
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {BATCH}")
    ones = torch.ones(8, 8, device="cuda", requires_grad=True)
    (ones @ ones).sum().backward()  # which makes the workspaces of cuBLAS, in both directions
    for name in names:
        for train, amp in ((False, False), (True, False), (True, True)):
            try:
                allocated, reserved = real(name, train, amp)
                net, shape = network(name)
                net.train(train)
                found = modelprobe.estimate_memory(
                    net, torch.empty(shape, device="meta"), train=train, amp=amp, device="cuda"
                )
            except Exception as error:  # noqa: BLE001 - a row that failed is a row
                print(f"{name:28} {KINDS[train, amp]} FAILED {type(error).__name__}: {str(error)[:120]}")
                continue
            kind = KINDS[train, amp]
            off = (found.allocated_bytes or 0) / allocated - 1
            errors.setdefault(f"{kind} allocated", []).append(off)
            text = ""
            if found.reserved_bytes:
                errors.setdefault(f"{kind} reserved", []).append(found.reserved_bytes / reserved - 1)
                pair = f"{found.reserved_bytes / 2**20:8.1f} {reserved / 2**20:8.1f}"
                text = f"reserved {pair} {errors[f'{kind} reserved'][-1]:+.2%}"
            mib = f"{(found.allocated_bytes or 0) / 2**20:8.1f} {allocated / 2**20:8.1f}"
            print(f"{name:28} {kind} {mib} {off:+.2%} {text}", flush=True)
    for kind, found_errors in errors.items():
        sizes = sorted(map(abs, found_errors))
        print(f"{kind}: median {statistics.median(sizes):.2%}, worst {sizes[-1]:.2%} of {len(sizes)}")


if __name__ == "__main__":
    main()
