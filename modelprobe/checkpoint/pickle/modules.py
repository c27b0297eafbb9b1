"""Parameters and buffers of a pickled `nn.Module`, read from its state without the author's class.

The names are those `state_dict()` would give: a module that hangs in two places is listed in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from modelprobe.checkpoint.pickle.nodes import (
    Dict,
    PendingCall,
    PickleNode,
    attributes,
    is_mapping,
    members,
    object_class,
    pairs,
    value_at,
)
from modelprobe.checkpoint.records import ATTRIBUTE, BUFFER, PARAMETER

MAX_MODULES = 30_000
MAX_ATTRIBUTES = 512  # a forged file could share one huge state among all its modules
MAX_MODULE_DEPTH = 200

HOOKS = frozenset(
    (
        *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_backward_hooks", "_forward_hooks"),
        *("_backward_pre_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
        *("_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks", "_is_full_backward_hook"),
        *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "training", "_compiled_call_impl", "_backend"),
    )
)
"""What every module has; not worth a line."""


@dataclass(frozen=True, slots=True)
class ModulePart:
    """A module met on the walk, or a tensor of one, or an attribute that may hold some. `node` is the tensor's node,
    None for the module itself.
    """

    path: tuple[str, ...]
    type: str
    node: PickleNode = None
    role: str = ""
    persistent: bool = True


def is_module(node: PickleNode) -> bool:
    """Whether an object has the state of an `nn.Module`."""
    if type(node) is not PendingCall or node.state is None:
        return False
    state = attributes(node)
    if state is None or len(state.pairs or ()) > 2 * MAX_ATTRIBUTES:
        return False
    return is_mapping(value_at(state, "_modules")) and is_mapping(value_at(state, "_parameters"))


def own_attributes(node: PickleNode) -> Iterator[tuple[PickleNode, PickleNode]]:
    """The attributes of a module that its author gave it."""
    for key, value in pairs(attributes(node)):
        if type(key) is not str or key not in HOOKS:
            yield key, value


def tensors_of(root: PickleNode, path: tuple[str, ...]) -> Iterator[ModulePart]:
    """The modules under `root` in the order of `named_modules()`, each followed by its own tensors."""
    stack: list[tuple[PickleNode, tuple[str, ...], tuple[int, ...]]] = [(root, path, ())]
    for _ in range(MAX_MODULES):
        if not stack:
            return
        node, here, above = stack.pop()
        state = attributes(node)
        yield ModulePart(here, object_class(node))
        yield from _own_tensors(node, state, here)
        if id(node) in above or len(above) >= MAX_MODULE_DEPTH:
            continue  # a module that contains itself has no state_dict
        room = MAX_MODULES - len(stack)
        below = islice(pairs(value_at(state, "_modules")), max(room, 0))
        line = (*above, id(node))
        children = [(child, (*here, name), line) for name, child in below if type(name) is str and is_module(child)]
        stack.extend(reversed(children))


def _own_tensors(node: PickleNode, state: PickleNode, here: tuple[str, ...]) -> Iterator[ModulePart]:
    left_out = value_at(state, "_non_persistent_buffers_set")
    names = {name for name in members(left_out) if type(name) is str}
    for slot, role in (("_parameters", PARAMETER), ("_buffers", BUFFER)):
        for name, value in pairs(value_at(state, slot)):
            if type(name) is str and value is not None:
                yield ModulePart((*here, name), "", value, role, name not in names)
    for name, value in own_attributes(node):
        if type(name) is str and type(value) in (PendingCall, Dict, list, tuple):
            yield ModulePart((*here, name), "", value, ATTRIBUTE)
