"""Rows appended to a file as JSON lines: complete after a kill or a power cut, and gone on with from there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from modelprobe.errors import BadInput


class Journal:
    """A file whose first line says what its rows belong to. A row is written whole before the next one starts.

    Raises BadInput when the file is there already and belongs to something else, or cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        try:
            self._take_up(dict(header))
        except OSError as error:
            raise BadInput(f"cannot write {path}: {error.strerror or error}", "choose another file") from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on the disk when this returns."""
        self.rows.append(dict(row))
        self._write(row)

    def _take_up(self, header: dict[str, Any]) -> None:
        lines, whole = read_lines(self.path) if self.path.exists() else ([], 0)
        if lines and lines[0] != header:
            differs = [key for key in header if lines[0].get(key) != header[key]] if isinstance(lines[0], dict) else []
            about = f" ({', '.join(f'{key} {lines[0].get(key)!r}, not {header[key]!r}' for key in differs)})"
            about = about if differs else ""
            raise BadInput(f"{self.path} holds rows of something else{about}", "choose another file, or delete it")
        if not lines and self.path.exists() and self.path.stat().st_size:
            raise BadInput(f"{self.path} is no file of rows", "choose another file")
        self.rows = lines[1:]
        self._file = self.path.open("ab")
        self._file.truncate(whole)  # a row that a kill cut off
        if not lines:
            self._write(header)

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read_lines(path: Path) -> tuple[list[Any], int]:
    """The whole rows of a file, and the bytes that they take; it ends at the first line that is none."""
    found, whole = [], 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        found.append(row)
        whole += len(line)
    return found, whole
