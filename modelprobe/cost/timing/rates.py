"""The time of kernels from their arithmetic and bytes: eight constants of a device, and a form that devices share.

A kernel takes its launch, and the larger of arithmetic and memory traffic (a power mean, since the two overlap only
in part). Products on tensor cores lose efficiency where channels are few.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from modelprobe.cost.timing import kernels as k
from modelprobe.cost.timing.kernels import GpuKernel

CONSTANTS_FILE = Path(__file__).with_name("devices.json")


@dataclass(frozen=True)
class DeviceRates:
    """What is fitted for a device: seconds of a launch, bytes and multiply-accumulates per second."""

    launch_s: float
    bytes_per_s: float
    reduction_bytes_per_s: float
    convolution_macs_per_s: float
    grouped_macs_per_s: float
    matmul_macs_per_s: float
    attention_macs_per_s: float
    core_macs_per_s: float


@dataclass(frozen=True)
class KernelForm:
    """What all devices share. Ratios have no unit; `*_channels` and `*_keys` are sizes of half efficiency.

    `overlap` is the exponent of the power mean less 1. `turned*` is how much of the conversions between layouts around
    a convolution is seen (1x1, other, grouped). `generic_window` is what windows without a kernel of their own cost
    more. `unaligned` is of batched products with sizes that 8 does not divide, `unfused` of attention that no fused
    kernel takes. `plane_s` is what bilinear upsampling takes for each image and channel.
    """

    overlap: float = 2.0
    conv_channels: float = 8.0
    conv_depth: float = 128.0
    pointwise: float = 1.0
    turned_pointwise: float = 0.2
    turned: float = 0.8
    turned_grouped: float = 1.5
    grouped_channels: float = 16.0
    matmul_channels: float = 16.0
    matmul_depth: float = 16.0
    batched: float = 2.0
    unaligned: float = 4.0
    generic_window: float = 3.0
    depthwise_bytes: float = 2.0
    channels_last: float = 0.5
    channels_last_bytes: float = 2.0
    attention_keys: float = 256.0
    masked: float = 1.0
    unfused: float = 4.0
    recurrent: float = 3.0
    copied: float = 2.0
    pooled: float = 1.0
    plane_s: float = 3e-7


@dataclass(frozen=True)
class KernelTable:
    """The kernels of one forward as columns; each row stands for `count` equal launches."""

    kind: Any
    count: Any
    macs: Any
    nbytes: Any
    rows: Any
    columns: Any
    depth: Any
    groups: Any
    window: Any
    transposed: Any

    def grown(self, factor: float) -> KernelTable:
        """The same for a batch that is larger by `factor`; exact but for the bytes of the weights."""
        changed = {name: getattr(self, name) * factor for name in ("macs", "nbytes", "transposed")}
        rows = np.where(self.kind == k.UPSAMPLE, self.rows * factor, self.rows)
        return KernelTable(**{**{f.name: getattr(self, f.name) for f in fields(self)}, **changed, "rows": rows})


def kernel_table(found: Sequence[GpuKernel]) -> KernelTable:
    """Equal kernels in one row."""
    counts: dict[tuple[float, ...], int] = {}
    for kernel in found:
        row = (kernel.kind, *kernel[2:])
        counts[row] = counts.get(row, 0) + 1
    columns = np.array(list(counts), dtype=float).reshape(len(counts), 9).T
    return KernelTable(columns[0].astype(int), np.array(list(counts.values()), dtype=float), *columns[1:])


def seconds_by_kernel(table: KernelTable, rates: DeviceRates, form: KernelForm) -> Any:
    """Seconds of one launch of each row, the launch itself included."""
    n, depth = np.maximum(table.columns, 1), np.maximum(table.depth, 1)
    memory = table.nbytes / rates.bytes_per_s
    pointwise, batched = table.window == 1, table.groups > 1
    odd = batched & ((table.rows % 8 > 0) | (n % 8 > 0) | (depth % 8 > 0))
    generic = ~np.isin(table.window, (1, 9, 25))
    turned = table.transposed / rates.bytes_per_s
    power = 1 + form.overlap

    def mean(arithmetic: Any, traffic: Any) -> Any:
        return ((arithmetic + 1e-15) ** power + traffic**power) ** (1 / power)

    def cost(rate: float) -> Any:
        return table.macs / rate

    conv = cost(rates.convolution_macs_per_s) * (1 + form.conv_channels / n) * (1 + form.conv_depth / depth)
    conv = mean(conv * np.where(pointwise, form.pointwise, 1), memory)
    conv += turned * np.where(pointwise, form.turned_pointwise, form.turned)
    product = cost(rates.matmul_macs_per_s) * (1 + form.matmul_channels / n) * (1 + form.matmul_depth / depth)
    product = product * np.where(batched, form.batched, 1) * np.where(odd, form.unaligned, 1)
    # Fused kernels pad heads to 32; a mask is bit 0 of `window` less 1, a shape that no fused kernel takes bit 1.
    heads = cost(rates.attention_macs_per_s) * np.ceil(depth / 32) * 32 / depth * (1 + form.attention_keys / n)
    heads = heads * np.where(table.window % 2 == 0, form.masked, 1) * np.where(table.window > 2, form.unfused, 1)
    grouped = mean(cost(rates.grouped_macs_per_s) * (1 + form.grouped_channels / n), memory)
    depthwise = cost(rates.core_macs_per_s)
    by_kind = {
        k.ELEMENTWISE: memory,
        k.REDUCTION: mean(cost(rates.core_macs_per_s) * form.pooled, table.nbytes / rates.reduction_bytes_per_s),
        k.COPY: memory * form.copied,
        k.CONV: conv,
        k.MATMUL: mean(product, memory),
        k.DEPTHWISE: mean(depthwise * np.where(generic, form.generic_window, 1), memory * form.depthwise_bytes),
        k.DEPTHWISE_LAST: mean(depthwise * form.channels_last, memory * form.channels_last_bytes),
        k.GROUPED: grouped + turned * form.turned_grouped,
        k.ATTENTION: mean(heads, memory),
        k.RECURRENT: mean(cost(rates.matmul_macs_per_s) * form.recurrent, memory),
        k.UPSAMPLE: mean(table.rows * form.plane_s, memory),
    }
    return np.choose(table.kind, [by_kind[kind] for kind in sorted(by_kind)]) + rates.launch_s


@cache
def shipped() -> Mapping[str, Any]:
    """The file of constants: `form`, and `devices` by name."""
    found: Mapping[str, Any] = json.loads(CONSTANTS_FILE.read_text(encoding="utf-8"))
    return found


def shared_form() -> KernelForm:
    """The form as it was fitted on all devices of the file."""
    return KernelForm(**shipped()["form"])
