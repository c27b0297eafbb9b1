"""Segments that wrappers (DDP, FSDP, torch.compile) put into names, and the names that are buffers by convention.

How to add a wrapper: a row of `CERTAIN_WRAPPERS`, or of `HINTED` when only other keys of the file make it certain; a
case in `tests/checkpoint/answers/test_conclusions.py`. Names are compared as whole segments, never as parts of a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from modelprobe.checkpoint.records import BUFFER, Checkpoint, TensorEntry, Wrapper

CERTAIN_WRAPPERS: dict[str, str] = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FSDP",
    "_checkpoint_wrapped_module": "activation checkpointing",
    "_forward_module": "Lightning Fabric",
}
"""Segments that only a wrapper puts into names, wherever they stand, and which wrapper."""

WRAPPERS = {**CERTAIN_WRAPPERS, "module": "DataParallel or DistributedDataParallel"}
"""The same with the segment that may also be a submodule's own name."""

HINTED = {
    "model": "LightningModule",
    "net": "LightningModule",
    "encoder_q": "MoCo",
    "backbone": "a self-supervised trainer",
}
"""Leading segments that are a wrapper only where something else says so."""

RECOMPUTED_BUFFERS = frozenset(
    (
        *("relative_position_index", "relative_coords_table", "attn_mask", "position_ids", "token_type_ids"),
        *("inv_freq", "anchor_grid", "cell_anchors", "pixel_mean", "pixel_std", "rel_pos_indices", "mask_token_ids"),
    )
)
"""Buffers that a model computes when it is built, by the last segment of their names."""

BUFFER_NAMES = RECOMPUTED_BUFFERS | {
    *("running_mean", "running_var", "num_batches_tracked", "running_std", "n_averaged", "num_updates", "decay"),
    *("weight_u", "weight_v_buffer"),
}
"""Last segments of names that are buffers in practically every model; a guess all the same."""

MIN_PREFIXED_SHARE = 0.5


def find_wrappers(names: Sequence[str], found: Checkpoint) -> tuple[Wrapper, ...]:
    """The wrappers in the names of a branch: how many names carry each, and whether all do in front."""
    wrappers = []
    joined = f".{'.'.join(names)}."  # one search through all of them
    present = {segment for segment in (*WRAPPERS, *HINTED) if f".{segment}." in joined}
    if not present:
        return ()
    split = [name.split(".") for name in names]
    certain = [s for s in WRAPPERS if s in present and (s != "module" or _leads(split, s))]
    for segment in certain:
        hits = [parts for parts in split if segment in parts[:-1]]
        if hits:
            leading = sum(1 for parts in split if segment in _front(parts))
            wrappers.append(_wrapper(segment, WRAPPERS[segment], hits, len(names), leading))
    for segment, source in HINTED.items():
        leading = sum(1 for parts in split if len(parts) > 1 and _core(parts)[0] == segment)
        if leading and leading >= MIN_PREFIXED_SHARE * len(names) and _hinted(segment, found):
            hits = [parts for parts in split if _core(parts)[0] == segment]
            wrappers.append(_wrapper(segment, source, hits, len(names), leading))
    return tuple(wrappers)


def _wrapper(segment: str, source: str, hits: list[list[str]], total: int, leading: int) -> Wrapper:
    return Wrapper(segment, source, len(hits), total, leading == total, ".".join(hits[0]))


def _front(parts: list[str]) -> list[str]:
    """The wrappers a name begins with."""
    front = []
    for part in parts[:-1]:
        if part not in WRAPPERS:
            break
        front.append(part)
    return front


def _core(parts: list[str]) -> list[str]:
    """A name without the wrappers it begins with."""
    return parts[len(_front(parts)) :]


def _leads(split: list[list[str]], segment: str) -> bool:
    """Whether a segment that is an ordinary word stands in front of (nearly) every name.

    Inside a name it may be a real submodule's, so it counts there only when it is also not a number's neighbor.
    """
    leading = sum(1 for parts in split if segment in _front(parts))
    return (
        leading >= MIN_PREFIXED_SHARE * len(split)
        if leading
        else any(_inside_sequential(parts, segment) for parts in split)
    )


def _inside_sequential(parts: list[str], segment: str) -> bool:
    """`features.module.0.weight`: DataParallel around an inner `Sequential`."""
    return any(a == segment and b.isdigit() for a, b in pairwise(parts[1:]))


def _hinted(segment: str, found: Checkpoint) -> bool:
    keys = {child.key for child in found.tree.children}
    if segment in ("model", "net"):
        return "pytorch-lightning_version" in keys
    if segment == "encoder_q":
        return True
    return any(branch.path and branch.path[-1] in ("teacher", "student") for branch in found.branches)


def guess_buffers(tensors: Sequence[TensorEntry]) -> tuple[TensorEntry, ...]:
    """Where the file does not say what a tensor is, call the well-known buffers so, and flag the guess."""
    return tuple(
        replace(entry, role=BUFFER, flags=(*entry.flags, "by-name"))
        if entry.role is None and entry.path and entry.path[-1].rpartition(".")[2] in BUFFER_NAMES
        else entry
        for entry in tensors
    )
