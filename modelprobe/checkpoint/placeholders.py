"""Empty tensors that stand for weights which are elsewhere: DeepSpeed ZeRO-3 saves parameters of shape [0]."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

MAX_LEVELS = 2
"""Folders above a file in which its shards are looked for."""

SHARDS = "zero_pp_rank_*_optim_states.pt"


def mostly_placeholders(shapes: Iterable[tuple[int, ...]]) -> int:
    """How many of these shapes are [0], if most are; 0 otherwise."""
    every = [shape for shape in shapes if shape]
    empty = sum(shape == (0,) for shape in every)
    return empty if empty * 2 > len(every) else 0


def where_weights_are(path: str, empty: int) -> tuple[str, str]:
    """What to say of a file whose parameters are placeholders: the text, and the command where the shards are found."""
    text = f"{empty:,} parameters are empty: DeepSpeed ZeRO-3 keeps their values in its shards, {SHARDS}"
    folder = _folder_of_shards(path)
    if folder is None:
        command = "`modelprobe convert DIRECTORY -o model.safetensors`"
        return text, f"{command} puts them together, where the shards are; none lies beside the file"
    return text, f"`{shlex.join(['modelprobe', 'convert', folder, '-o', 'model.safetensors'])}` puts them together"


def _folder_of_shards(path: str) -> str | None:
    """The checkpoint directory that the file lies in or beside, if its shards can be listed."""
    from modelprobe.checkpoint.open import open_checkpoint
    from modelprobe.errors import ProbeError

    if "://" in path:
        return None
    folder = Path(path).absolute().parent
    for _ in range(MAX_LEVELS):
        if any(True for _ in folder.glob(f"*{SHARDS}")) or (folder / "latest").is_file():
            try:
                if open_checkpoint(folder).format == "DeepSpeed ZeRO":
                    return os.path.relpath(folder)
            except ProbeError:
                return None
        folder = folder.parent
    return None
