"""The files of a directory that a checkpoint may refer to: plain names inside it, regular files only."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath

from modelprobe.checkpoint.bytes.source import check_regular
from modelprobe.errors import BadInput

MAX_DIRECTORY_FILES = 100_000


def file_names(folder: Path) -> list[str]:
    """The names in a directory, sorted."""
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry, _ in zip(entries, range(MAX_DIRECTORY_FILES), strict=False)]
    except OSError as error:
        raise BadInput(f"cannot read {folder}: {(error.strerror or 'error').lower()}") from None
    return sorted(names)


def plain_name(name: object) -> bool:
    """Whether a name from a file is one plain file name, on every system."""
    if not isinstance(name, str) or not name or len(name) > 255 or "\0" in name:
        return False
    path = PureWindowsPath(name)  # knows both separators, drives and streams
    return path.name == name and name not in (".", "..") and ":" not in name


def member(folder: Path, name: object, who: str) -> Path:
    """The file called `name` in `folder`. Raises BadInput for a name that points elsewhere or is no regular file."""
    if not plain_name(name):
        raise BadInput(f"{who} refers to a file outside its folder: {name}", "nothing was opened")
    path = folder / str(name)
    check_regular(str(path))
    return path


def strays(folder: Path, path: Path) -> bool:
    """Whether a link leads out of the folder. The Hub's cache does that by design, into `blobs` beside `snapshots`."""
    target, home = path.resolve(), folder.resolve()
    return home not in target.parents and target.parent.name != "blobs"
