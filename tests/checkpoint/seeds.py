"""Weight files of every format, made by code: the seeds of listing tests and of the fuzz."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from safetensors.torch import save_file
from torch import nn


class Block(nn.Module):
    """Everything a state can hold: parameters, both kinds of buffers, a plain tensor, a sub-module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.again = self.bn
        self.register_buffer("table", torch.arange(6).reshape(2, 3))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.scale = nn.Parameter(torch.ones(2, dtype=torch.float64), requires_grad=False)
        self.anchors = torch.ones(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.conv(x)) * self.scale[0]


class Script(nn.Module):
    """The part of `Block` that TorchScript and torch.export take."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.register_buffer("table", torch.arange(4.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x)) + self.table[0]


def state() -> OrderedDict[str, torch.Tensor]:
    return Block().state_dict()


def training() -> dict[str, object]:
    """What a training script saves."""
    model = Block()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    wrapped = OrderedDict((f"module.{key}", value) for key, value in model.state_dict().items())
    return {
        "epoch": 7,
        "state_dict": wrapped,
        "state_dict_ema": state(),
        "optimizer": optimizer.state_dict(),
        "args": None,
    }


def save_zip(path: Path) -> None:
    torch.save(training(), path)


def save_state(path: Path) -> None:
    torch.save(state(), path)


def save_legacy(path: Path) -> None:
    torch.save(training(), path, _use_new_zipfile_serialization=False)


def save_whole(path: Path) -> None:
    torch.save(Block(), path)


def save_whole_legacy(path: Path) -> None:
    torch.save(Block(), path, _use_new_zipfile_serialization=False, pickle_protocol=4)


def save_pickle(path: Path) -> None:
    arrays = {
        "model": {"w": numpy.arange(6, dtype=numpy.float32).reshape(2, 3), "b": numpy.zeros(2000)},
        "n": numpy.int64(3),
    }
    path.write_bytes(pickle.dumps({**arrays, "__author__": "nobody", "t": torch.ones(3)}, protocol=4))


def save_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Script().eval()).save(str(path))


def save_export(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Script().eval(), (torch.ones(1, 3, 8, 8),)), path)


def save_safetensors(path: Path) -> None:
    save_file({key: value.clone() for key, value in state().items()}, path, {"format": "pt"})


def save_npz(path: Path) -> None:
    numpy.savez(path.open("wb"), a=numpy.ones((2, 3), numpy.float32), **{"block/kernel": numpy.zeros(5)})


def save_npy(path: Path) -> None:
    path.write_bytes(npy(numpy.ones((2, 3), dtype=">f4", order="F")))


def npy(array: numpy.ndarray) -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, array)
    return buffer.getvalue()


def save_gguf(path: Path) -> None:
    path.write_bytes(gguf())


def gguf(
    version: int = 3,
    tensors: int | None = None,
    keys: int | None = None,
    alignment: int = 32,
    dims: tuple[int, ...] = (32, 2),
) -> bytes:
    """One float32 and one Q8_0 tensor, three keys; the counts can lie."""
    text = lambda value: struct.pack("<Q", len(value)) + value.encode()  # noqa: E731
    head = b"GGUF" + struct.pack("<IQQ", version, 2 if tensors is None else tensors, 3 if keys is None else keys)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("general.alignment") + struct.pack("<II", 4, alignment)
    head += text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("a") + text("b") + text("c")
    head += text("output.weight") + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, 0)
    head += text("blk.0.weight") + struct.pack("<I1QIQ", 1, 64, 8, 256)
    pad = -len(head) % max(alignment, 1)
    return head + b"\0" * pad + b"\0" * (256 + 68)


def save_onnx(path: Path) -> None:
    path.write_bytes(onnx())


def field(number: int, payload: bytes | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(payload, int):
        return varint(number << 3) + varint(payload)
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def onnx(location: str = "") -> bytes:
    """Two initializers: one with raw data, one as typed data or, with a location, in another file."""
    raw = field(1, 2) + field(1, 3) + field(2, 1) + field(8, b"conv.weight") + field(9, b"\0" * 24)
    other = field(1, varint(4)) + field(2, 7) + field(8, b"axes")
    if location:
        other += field(13, field(1, b"location") + field(2, location.encode())) + field(14, 1)
    else:
        other += field(7, varint(1) + varint(2) + varint(3) + varint(4))
    graph = field(1, field(4, b"Conv")) + field(2, b"main") + field(5, raw) + field(5, other)
    return field(1, 8) + field(2, b"pytorch") + field(7, graph) + field(8, field(2, 17))


def save_index(path: Path) -> None:
    """A checkpoint of two shards beside its index."""
    tensors = {key: value.clone() for key, value in state().items()}
    names = list(tensors)
    shards = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for shard, held in shards.items():
        save_file({name: tensors[name] for name in held}, path.parent / shard)
    weight_map = {name: shard for shard, held in shards.items() for name in held}
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


SEEDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "torch zip": ("train.pth", save_zip),
    "state dict": ("state.pt", save_state),
    "torch legacy": ("old.pth.tar", save_legacy),
    "whole": ("whole.pt", save_whole),
    "whole legacy": ("whole_old.pt", save_whole_legacy),
    "pickle": ("model_final.pkl", save_pickle),
    "TorchScript": ("script.pt", save_script),
    "torch.export": ("exported.pt2", save_export),
    "safetensors": ("model.safetensors", save_safetensors),
    "npz": ("model.npz", save_npz),
    "npy": ("one.npy", save_npy),
    "GGUF": ("model.gguf", save_gguf),
    "ONNX": ("model.onnx", save_onnx),
    "shards": ("model.safetensors.index.json", save_index),
}


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def torch_zip(pickled: bytes, extra: dict[str, bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """A torch zip around a pickle of one's own."""
    return zipped({"a/data.pkl": pickled, "a/version": b"3\n", "a/byteorder": b"little", **(extra or {})}, method)


def unzip(data: bytes) -> dict[str, bytes]:
    """The members of an archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
