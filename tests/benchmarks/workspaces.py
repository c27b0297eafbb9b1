"""What cuDNN takes on this GPU beside the rule for it: `python -m tests.benchmarks.workspaces OUT.csv [NAME …]`.

The distinct convolutions of the networks are run forward and backward, in float32, bfloat16 and channels last. The
file gets a row for each; printed are the rule's errors, as shares of operands and result.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.cost.memory.gpu_workspaces import workspace_of_gpu
from tests.benchmarks.memory_device import NETWORKS, network

Call = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
KINDS = ((torch.float32, False), (torch.bfloat16, False), (torch.float32, True))


def calls(names: list[str]) -> list[Call]:
    """Shape of image and weight, stride, padding, dilation and groups of each distinct convolution."""
    found: dict[Call, None] = {}

    def note(module: Any, args: Any, _: Any) -> None:
        if not isinstance(module.padding, str):
            shapes = tuple(args[0].shape), tuple(module.weight.shape)
            found[(*shapes, module.stride, module.padding, module.dilation, module.groups)] = None

    for name in names:
        net, shape = network(name)
        net = net.to("meta").eval()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        with torch.no_grad():
            net(torch.empty(shape, device="meta"))
    return list(found)


def transient(run: Callable[..., Any], args: tuple[Any, ...]) -> int:
    """Bytes that are taken beyond what is there when the call has returned."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = run(*args)
    torch.cuda.synchronize()
    kept = torch.cuda.memory_allocated() - before
    del out
    return torch.cuda.max_memory_allocated() - before - kept


def rows(found: list[Call]) -> Iterator[tuple[Any, ...]]:
    """Each call, in each kind: type, format, the call, then bytes measured and predicted, forward and backward."""
    aten: Any = torch.ops.aten
    for dtype, last in KINDS:
        form = torch.channels_last if last else torch.contiguous_format
        for image_shape, weight_shape, stride, padding, dilation, groups in found:
            image: Tensor = torch.randn(image_shape, device="cuda", dtype=dtype).contiguous(memory_format=form)
            weight: Tensor = torch.randn(weight_shape, device="cuda", dtype=dtype).contiguous(memory_format=form)
            rest = (None, stride, padding, dilation, False, [0, 0], groups)
            out = aten.convolution(image, weight, *rest)
            back = (torch.randn_like(out), image, weight, *rest, [True, True, False])
            seen = transient(aten.convolution, (image, weight, *rest)), transient(aten.convolution_backward, back)
            told = (
                workspace_of_gpu("aten.convolution", (image, weight, *rest), out),
                workspace_of_gpu("aten.convolution_backward", back, None),
            )
            whole = out.nbytes + image.nbytes + weight.nbytes
            kind = str(dtype).removeprefix("torch."), "channels_last" if last else "contiguous"
            yield (*kind, *image_shape, *weight_shape, stride[0], padding[0], dilation[0], groups, whole, *seen, *told)


HEADER = (
    "dtype format batch channels height width out in_group kernel_h kernel_w stride padding dilation groups whole"
    " forward backward forward_told backward_told"
).split()


def main() -> None:
    torch.backends.cudnn.benchmark = False
    found = calls(sys.argv[2:] or list(NETWORKS))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {len(found)} distinct convolutions")
    off: dict[tuple[str, str, str], list[float]] = {}
    with Path(sys.argv[1]).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for row in rows(found):
            writer.writerow(row)
            whole, forward, backward, forward_told, backward_told = row[-5:]
            off.setdefault((row[0], row[1], "forward"), []).append(abs(forward_told - forward) / whole)
            off.setdefault((row[0], row[1], "backward"), []).append(abs(backward_told - backward) / whole)
    for kind, errors in off.items():
        near = sum(error <= 0.1 for error in errors) / len(errors)
        print(f"{' '.join(kind):34} median {statistics.median(errors):6.1%}, within 10 % of operands {near:.0%}")


if __name__ == "__main__":
    main()
