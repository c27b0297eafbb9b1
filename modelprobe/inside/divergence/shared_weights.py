"""The same weights in two networks: by name, by the rules that repair keys, or by shape and order."""

from __future__ import annotations

import tempfile
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modelprobe.errors import ProbeError
from modelprobe.report.blocks import Level, Note

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modelprobe.model.target import Target

MOSTLY = 0.5
"""Share of the names from which on two networks are of one naming."""


def share_weights(
    source: nn.Module,
    taker: nn.Module,
    targets: tuple[Target, Target] | None = None,
    names: tuple[str, str] = ("A", "B"),
) -> tuple[Note, ...]:
    """Give the values of `source` to `taker`, in place, and say how. What has no counterpart keeps its own values."""
    given = {key: value.detach() for key, value in source.state_dict().items() if isinstance(value, torch.Tensor)}
    wanted = {key: value for key, value in taker.state_dict().items() if isinstance(value, torch.Tensor)}
    named = {key for key, value in wanted.items() if key in given and given[key].shape == value.shape}
    way = f"from {names[0]} to {names[1]}"
    if len(named) < MOSTLY * len(wanted) and targets is not None:
        repaired = _by_repair(given, taker, targets)
        if repaired is not None:
            _copy(taker, repaired)
            return (Note(f"Weights were copied {way}, names converted by the rules of `repair`.", Level.INFO),)
    values = {key: given[key] for key in named}
    values.update(_by_shape_and_order(given, wanted, named))
    _copy(taker, values)
    left = [key for key in wanted if key not in values]
    how = "by name" if len(values) == len(named) else f"by name ({len(named)}), the others by shape and order"
    notes = [Note(f"Weights were copied {way} {how}.", Level.INFO if len(values) == len(named) else Level.ASSUMED)]
    if left:
        shown = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
        notes.append(Note(f"{len(left)} tensors of {names[1]} have no counterpart: {shown}.", Level.WARNING))
    return tuple(notes)


def _by_repair(given: dict[str, Tensor], taker: nn.Module, targets: tuple[Target, Target]) -> dict[str, Tensor] | None:
    from modelprobe.model.weights.load import load_state_dict_for

    with tempfile.TemporaryDirectory(prefix="modelprobe-") as directory:
        path = Path(directory) / "weights.pth"
        torch.save({key: value.contiguous() for key, value in given.items()}, path)
        try:
            state, _ = load_state_dict_for(taker, path, target=targets[1], origin=targets[0])
        except ProbeError:
            return None
    return dict(state)


def _by_shape_and_order(given: dict[str, Tensor], wanted: dict[str, Tensor], named: set[str]) -> dict[str, Tensor]:
    """The n-th unnamed tensor of a shape gets the n-th of that shape."""
    left: dict[Any, deque[Tensor]] = defaultdict(deque)
    for key, value in given.items():
        if key not in named:
            left[_class_of(key, value)].append(value)
    found = {}
    for key, value in wanted.items():
        if key not in named and left[_class_of(key, value)]:
            found[key] = left[_class_of(key, value)].popleft()
    return found


def _class_of(key: str, value: Tensor) -> tuple[Any, ...]:
    """What two tensors have in common that may stand for each other: the shape, and the last word of the name."""
    last = key.rpartition(".")[2]
    kind = last if last.startswith(("running_", "num_batches")) else "bias" if last.endswith("bias") else ""
    return (tuple(value.shape), kind)


def _copy(model: nn.Module, values: dict[str, Tensor]) -> None:
    own = model.state_dict()
    with torch.no_grad():
        for key, value in values.items():
            if key in own and own[key].shape == value.shape:
                own[key].copy_(value)
