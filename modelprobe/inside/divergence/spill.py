"""Values of a run kept outside memory: small ones held, all others in a temporary file, read back one at a time."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from modelprobe.errors import BadInput
from modelprobe.report.units import size as bytes_text

HELD_BYTES = 4 << 20
"""Bytes of values that stay in memory; what comes after goes to the file."""

ValueKey = tuple[int, int]
"""Number of an operator in its run, and of the tensor among what it put out or wrote."""


class StoredValue:
    """A tensor in the file of a store, of which a piece at a time is read."""

    def __init__(self, file: Any, start: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self._file, self._start = file, start
        self.dtype, self.shape = dtype, shape

    def piece(self, start: int, count: int) -> Tensor:
        """`count` elements from element `start` on, fewer at the end, in the order of the indices."""
        count = min(count, math.prod(self.shape) - start)
        if count <= 0:
            return torch.empty(0, dtype=self.dtype)
        data = bytearray(count * self.dtype.itemsize)
        self._file.seek(self._start + start * self.dtype.itemsize)
        self._file.readinto(data)
        return torch.frombuffer(data, dtype=self.dtype)

    def whole(self) -> Tensor:
        """All of it."""
        return self.piece(0, math.prod(self.shape)).reshape(self.shape)


class ValueStore:
    """The tensors of one run by operator; a context manager, at whose end its file is closed, and gone.

    With `path` all of them go to that file, which stays, for another process to read.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._held: dict[ValueKey, Tensor] = {}
        self._places: dict[ValueKey, tuple[int, torch.dtype, tuple[int, ...]]] = {}
        self._file: Any = path.open("w+b") if path is not None else None
        self._room = HELD_BYTES if path is None else -1
        self.written = 0

    @classmethod
    def opened(cls, path: Path, places: Mapping[ValueKey, Any], written: int) -> ValueStore:
        """What another process put into a store of that path, and told by `places`."""
        found = cls()
        found._file = path.open("rb")
        found._places.update(places)
        found.written = written
        return found

    def places(self) -> dict[ValueKey, tuple[int, torch.dtype, tuple[int, ...]]]:
        """Where in the file each value is, all of it written."""
        if self._file is not None:
            self._file.flush()
        return dict(self._places)

    def put(self, key: ValueKey, value: Tensor) -> None:
        """Keep a copy. Raises BadInput when the disk has no room for it."""
        count = value.numel() * value.element_size()
        if count <= self._room:
            self._room -= count
            self._held[key] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="modelprobe-")  # noqa: SIM115 - closed with the store
        if shutil.disk_usage(tempfile.gettempdir()).free < count + (64 << 20):
            raise BadInput(
                f"no room in {tempfile.gettempdir()} for the values of a run: {bytes_text(self.written)} are there",
                "a smaller --input or --batch needs less; TMPDIR=/another/directory puts them elsewhere",
            )
        self._places[key] = (self.written, value.dtype, tuple(value.shape))
        self._file.seek(self.written)
        flat: Any = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        self._file.write(flat.data)
        self.written += count

    def get(self, key: ValueKey) -> Tensor | None:
        """The value, or None when none was kept under that key."""
        found = self.stored(key)
        return found.whole() if isinstance(found, StoredValue) else found

    def stored(self, key: ValueKey) -> Tensor | StoredValue | None:
        """The value where it is: in memory, or in the file. None when none was kept under that key."""
        if key in self._held:
            return self._held[key]
        if key not in self._places or self._file is None:
            return None
        return StoredValue(self._file, *self._places[key])

    def __enter__(self) -> ValueStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._held.clear()
        if self._file is not None:
            self._file.close()
