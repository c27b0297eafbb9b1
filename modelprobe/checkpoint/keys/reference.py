"""What a model, or another weight file, expects: names, shapes and dtypes in the order of its state_dict."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from modelprobe.checkpoint.keys.rearranged import Convert
from modelprobe.checkpoint.records import BUFFER, PARAMETER, Branch, Checkpoint

if TYPE_CHECKING:
    from torch import nn


MAX_END_SEGMENTS = 16
"""Segments of a name that are looked at when its ends are compared; a forged name could have a million."""


@dataclass(frozen=True, slots=True)
class ExpectedTensor:
    """A tensor that is expected. `same` names an earlier one that is the very same tensor (tied)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str | None = None
    same: str = ""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Everything that a model expects, and what is known about it beyond names.

    `absent` are buffers that the model computes itself and leaves out of its state_dict. `kinds` are the classes of its
    modules by path, `grids` the grid of patches (rows, columns) that belongs to a position embedding by its name.
    `strides` are the strides, dilations and groups of convolutions by path, which stand in no weight file.
    `versions` is the `_metadata` of its state_dict. `values` tells whether buffers can be taken from the model itself.
    `convert` is the library's own conversion of the state_dicts that the authors of the network published.
    """

    label: str
    expected: tuple[ExpectedTensor, ...]
    absent: frozenset[str] = frozenset()
    kinds: Mapping[str, str] = field(default_factory=dict)
    grids: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    strides: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    versions: Mapping[str, Any] | None = None
    values: bool = False
    convert: Convert | None = field(default=None, compare=False, repr=False)

    @property
    def by_name(self) -> dict[str, ExpectedTensor]:
        """The tensors by name."""
        return {want.name: want for want in self.expected}

    def in_order(self, names: Sequence[str]) -> Expectation:
        """The same, its tensors in the order of these names; the others follow."""
        place = {name: index for index, name in enumerate(names)}
        return replace(self, expected=tuple(sorted(self.expected, key=lambda want: place.get(want.name, len(place)))))


def reference_of_model(model: nn.Module, label: str) -> Expectation:
    """What `model.load_state_dict(…, strict=True)` asks for. The model may be on meta; it is not changed."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = model.state_dict()
    seen: dict[int, str] = {}
    expected = []
    originals = _model_tensors(model)
    for name, tensor in state.items():
        if not hasattr(tensor, "shape"):
            continue  # an extra state that is no tensor
        first = seen.setdefault(id(originals.get(name, tensor)), name)
        role = PARAMETER if name in parameters else BUFFER
        dtype = str(tensor.dtype).removeprefix("torch.")
        expected.append(ExpectedTensor(name, tuple(tensor.shape), dtype, role, first if first != name else ""))
    absent = {name for name, _ in model.named_buffers(remove_duplicate=False)} - state.keys()
    kinds = {name: type(module).__name__ for name, module in model.named_modules(remove_duplicate=False)}
    versions = getattr(state, "_metadata", None)
    grids, strides = _position_grids(model, expected), _strides(model)
    return Expectation(
        label, tuple(expected), frozenset(absent), kinds, grids, strides, versions, True, _library_conversion(model)
    )


def _library_conversion(model: nn.Module) -> Convert | None:
    """timm's `checkpoint_filter_fn` of the family that a model is of."""
    module = sys.modules.get(type(model).__module__)
    function = getattr(module, "checkpoint_filter_fn", None) if type(model).__module__.startswith("timm.") else None
    return partial(function, model=model) if function is not None else None


def _strides(model: nn.Module) -> dict[str, tuple[int, ...]]:
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        stride, dilation, groups = (getattr(module, name, None) for name in ("stride", "dilation", "groups"))
        if isinstance(stride, tuple) and isinstance(dilation, tuple) and isinstance(groups, int):
            found[path] = (*stride, *dilation, groups)
    return found


def _model_tensors(model: nn.Module) -> dict[str, Any]:
    """The tensors themselves: `state_dict()` hands out a new object for each name."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _position_grids(model: nn.Module, expected: list[ExpectedTensor]) -> dict[str, tuple[int, int]]:
    """The grid of every position embedding, as the modules of timm and torchvision say it."""
    grid: tuple[int, int] | None = None
    for module in model.modules():
        found = getattr(module, "grid_size", None)
        if isinstance(found, (tuple, list)) and len(found) == 2 and all(isinstance(side, int) for side in found):
            grid = (found[0], found[1])
            break
        side, patch = getattr(module, "image_size", None), getattr(module, "patch_size", None)
        if isinstance(side, int) and isinstance(patch, int) and patch:
            grid = (side // patch, side // patch)
            break
    return {want.name: grid for want in expected if grid and is_position(want.name) and len(want.shape) == 3}


def is_position(name: str) -> bool:
    """Whether the last word of a name is that of a learned position embedding."""
    last = name.rpartition(".")[2]
    return last in ("pos_embed", "pos_embedding", "position_embeddings", "positional_embedding")


def reference_of_checkpoint(found: Checkpoint, branch: Branch | None = None) -> Expectation:
    """What another weight file holds in its branch. It says nothing about what a model would compute itself."""
    branch = branch or found.branch
    if branch is None:
        return Expectation(found.path, ())
    expected, seen = [], dict[tuple[object, ...], str]()
    for entry in state_entries(found, branch):
        name = ".".join(entry.path[len(branch.path) :])
        first = seen.setdefault(entry.identity, name) if entry.numel else name
        expected.append(ExpectedTensor(name, entry.shape, entry.dtype, entry.role, first if first != name else ""))
    return Expectation(found.path, tuple(expected))


def speaks_of(names: Iterable[str], reference: Expectation) -> bool:
    """Whether most names of a reference stand at the ends of these: they are of that network, and of no other's."""
    ends: set[str] = set()
    for name in names:
        parts = name.split(".", MAX_END_SEGMENTS)
        ends.update(".".join(parts[index:]) for index in range(len(parts)))
    return 2 * sum(1 for want in reference.expected if want.name in ends) > len(reference.expected)


def state_entries(found: Checkpoint, branch: Branch) -> tuple[Any, ...]:
    """The tensors of a branch that a state_dict would hold: no attributes, no buffers that are not saved."""
    return tuple(
        entry
        for entry in found.tensors_in(branch)
        if entry.role != "attribute" and "non-persistent" not in entry.flags and len(entry.path) > len(branch.path)
    )
