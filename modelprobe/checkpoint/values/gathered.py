"""What a new weight file is made of, from whatever format it was gathered."""

from __future__ import annotations

from dataclasses import dataclass

from modelprobe.checkpoint.branches import branch_named
from modelprobe.checkpoint.records import Branch, Checkpoint
from modelprobe.checkpoint.write.extras import ExtraEntries
from modelprobe.checkpoint.write.tensor import TensorToWrite
from modelprobe.errors import BadInput


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a new file is made of: the model's tensors by their names in it, and (for pt) what stands around them.

    `whole` tells that `others` holds the tensors as well, in their places: the file is rebuilt as it was. `keeps` tells
    that the other entries go along.
    """

    branch: Branch
    tensors: tuple[TensorToWrite, ...]
    others: ExtraEntries
    whole: bool = False
    keeps: bool = False
    metadata: dict[str, str] | None = None


def asked_branch(found: Checkpoint, name: str | None) -> Branch:
    """The branch a person named, else the chosen one. Raises BadInput when there is none."""
    branch = found.branch if name is None else branch_named(found, name)
    if branch is None and name is not None:
        known = ", ".join(other.name or "." for other in found.branches) or "none"
        raise BadInput(f"{found.path} has no tensors under {name}", f"branches of this file: {known}")
    if branch is None:
        raise BadInput(f"{found.path} holds no tensors", "`modelprobe summary` shows what it holds")
    return branch
