"""What the tests of writing have in common: a state dict of every kind, and a look at a directory before and after."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.tensor import TensorToWrite, to_write

DTYPES = [
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
    "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "uint16", "uint32", "uint64",
]  # fmt: skip


def state() -> OrderedDict[str, torch.Tensor]:
    """Every dtype, every odd shape, views, and a tied pair."""
    base = torch.arange(60.0)
    values = torch.tensor([[0, 1, 2], [3, 0, 1]])
    made = OrderedDict((dtype, values.to(getattr(torch, dtype))) for dtype in DTYPES)
    made.update(
        scalar=torch.tensor(3.5), empty=torch.empty(0, 3), slice=base[7:19], transposed=base.reshape(6, 10).t(),
        steps=base[::7], wide=base[:1].expand(4, 4),
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        nan=torch.tensor([float("nan"), -0.0]), tied=made["float32"], conjugate=made["complex64"].conj().resolve_conj(),
    )  # fmt: skip
    made[""] = torch.ones(1)
    made["späť/..\x1b[31m"] = torch.ones(2)
    return made


def bits(tensor: torch.Tensor) -> bytes:
    """The elements in order, as bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Bit for bit, of one dtype and shape."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and bits(a) == bits(b)


@contextmanager
def taken_from(path: Path, names: Sequence[str] | None = None) -> Iterator[list[TensorToWrite]]:
    """The tensors of a file, ready to be written."""
    found = open_checkpoint(path)
    with TensorReader(found) as reader:
        yield [to_write(reader, entry) for entry in found.tensors if names is None or entry.name in names]


def held(tensors: dict[str, torch.Tensor]) -> list[TensorToWrite]:
    """Tensors in memory, ready to be written."""
    return [
        TensorToWrite(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), lambda tensor=tensor: tensor)
        for name, tensor in tensors.items()
    ]


def snapshot(folder: Path) -> dict[str, str]:
    """The hash of every file under a directory."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
