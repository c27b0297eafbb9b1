"""Weight files of any size that take no room on disk: real headers, and holes for values, which read as zeros."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import sys
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

import torch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_LOCAL, _ENTRY = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
_END, _END64, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_MOST = 0xFFFFFFFF


@dataclass(frozen=True)
class Storage:
    """Stands for a storage while it is pickled."""

    key: str
    numel: int


@dataclass(frozen=True)
class Tensor:
    """Stands for a float32 tensor while it is pickled."""

    storage: Storage
    shape: tuple[int, ...]

    def __reduce__(self):
        strides = (self.shape[1], 1)
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, self.shape, strides, False, OrderedDict())


class _Pickler(pickle.Pickler):
    extra: tuple[object, ...] = ()

    def persistent_id(self, value: object) -> object:
        if isinstance(value, Storage):
            return ("storage", torch.FloatStorage, value.key, "cpu", value.numel, *self.extra)
        return None


def names(count: int) -> Iterator[str]:
    """The names of a transformer's tensors."""
    parts = ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight", "norm.weight")
    return (f"blocks.{n // len(parts)}.{parts[n % len(parts)]}" for n in range(count))


def state(count: int, total: int) -> OrderedDict[str, Tensor]:
    """So many tensors of so many bytes in all, 256 elements wide."""
    rows = max(1, total // count // 4 // 256)
    return OrderedDict((name, Tensor(Storage(str(n), rows * 256), (rows, 256))) for n, name in enumerate(names(count)))


def pickled(value: object, extra: tuple[object, ...] = ()) -> bytes:
    """As torch.save pickles."""
    out = io.BytesIO()
    pickler = _Pickler(out, protocol=2)
    pickler.extra = extra
    pickler.dump(value)
    return out.getvalue()


def write_safetensors(path: Path, count: int, total: int) -> None:
    """Header, then a hole."""
    header, at = {}, 0
    for name, tensor in state(count, total).items():
        size = tensor.storage.numel * 4
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)


def write_legacy(path: Path, count: int, total: int) -> None:
    """Five pickles, then for each storage a count and a hole."""
    tensors = state(count, total)
    sizes = {"short": 2, "int": 4, "long": 4}
    system = {"protocol_version": PROTOCOL, "little_endian": sys.byteorder == "little", "type_sizes": sizes}
    storages = [tensor.storage for tensor in tensors.values()]
    with path.open("wb") as file:
        for value in (MAGIC, PROTOCOL, system):
            file.write(pickle.dumps(value, protocol=2))
        file.write(pickled(tensors, (None,)) + pickle.dumps([storage.key for storage in storages], protocol=2))
        for storage in storages:
            file.write(struct.pack("<q", storage.numel))
            file.seek(storage.numel * 4, os.SEEK_CUR)
        file.truncate()


def write_zip(path: Path, count: int, total: int) -> None:
    """A stored zip whose storages are holes, with their true checksums; zip64 where it is needed."""
    tensors, entries = state(count, total), list[bytes]()
    with path.open("wb") as file:
        for name, data in (("data.pkl", pickled(tensors)), ("byteorder", b"little")):
            entries.append(_header(file, name, len(data), zlib.crc32(data)))
            file.write(data)
        for tensor in tensors.values():
            size = tensor.storage.numel * 4
            entries.append(_header(file, f"data/{tensor.storage.key}", size, _zeros(size)))
            file.seek(size, os.SEEK_CUR)
        entries.append(_header(file, "version", 2, zlib.crc32(b"3\n")))
        file.write(b"3\n")
        _directory(file, entries)


def _header(file: IO[bytes], name: str, size: int, crc: int) -> bytes:
    """Write a local header, its data aligned to 64 bytes as torch does; returns the entry of the directory."""
    raw, at = f"archive/{name}".encode(), file.tell()
    pad = -(at + _LOCAL.size + len(raw) + 4) % 64
    file.write(_LOCAL.pack(b"PK\3\4", 0, 0x808, 0, 0, 0, crc, size, size, len(raw), pad + 4) + raw)
    file.write(struct.pack("<2sH", b"FB", pad) + b"Z" * pad)
    wide = at >= _MOST
    extra = struct.pack("<2HQ", 1, 8, at) if wide else b""
    entry = _ENTRY.pack(b"PK\1\2", 0, 0, 0x808, 0, 0, 0, crc, size, size, len(raw), len(extra), 0, 0, 0, 0,
                        _MOST if wide else at)  # fmt: skip
    return entry + raw + extra


def _directory(file: IO[bytes], entries: list[bytes]) -> None:
    start, raw = file.tell(), b"".join(entries)
    file.write(raw)
    end = file.tell()
    file.write(_END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, len(entries), len(entries), len(raw), start))
    file.write(_LOCATOR.pack(b"PK\6\7", 0, end, 1))
    few, low = min(len(entries), 0xFFFF), min(start, _MOST)
    file.write(_END.pack(b"PK\5\6", 0, 0, few, few, len(raw), low, 0))


@lru_cache(16)
def _zeros(size: int) -> int:
    """The CRC-32 of so many zeros."""
    found = 0
    for at in range(0, size, 1 << 20):
        found = zlib.crc32(bytes(min(1 << 20, size - at)), found)
    return found


WRITERS = {"zip": write_zip, "legacy": write_legacy, "safetensors": write_safetensors}
SUFFIXES = {"zip": ".pth", "legacy": ".pth.tar", "safetensors": ".safetensors"}


if __name__ == "__main__":  # kind, path, number of tensors, bytes: for those who must not import torch
    WRITERS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
