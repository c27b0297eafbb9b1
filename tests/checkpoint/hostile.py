"""Pieces of malformed and hostile files that several tests share."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import torch

from modelprobe.checkpoint.records import Checkpoint
from tests.checkpoint.seeds import unzip, zipped


def said(found: Checkpoint) -> str:
    return " ".join(finding.text for finding in found.findings)


def state_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2, 3), "b": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def legacy_bytes() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(2, 3), "b": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def rezipped(change: Callable[[dict[str, bytes]], object], **options: int) -> bytes:
    members = unzip(state_bytes())
    change(members)
    return zipped(members, **options)


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(shape: object = (2,), dtype: object = "F32", ends: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": ends}


class Evil:
    """Unpickling it would leave a file behind."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.sentinel}",)
