"""What exists in a model: every module, parameter and buffer, under every name it has."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modelprobe.errors import BadInput
from modelprobe.tracing.records import ModuleNode, ModuleTree, StateTensor


def read_tree(model: nn.Module) -> ModuleTree:
    """The module tree of `model` as plain records. Runs nothing, changes nothing."""
    modules: list[ModuleNode] = []
    state: list[StateTensor] = []
    numbers: dict[Hashable, int] = {}
    for path, module in walk(model):
        number = numbers.setdefault(id(module), len(numbers))
        training, home = getattr(module, "training", False), type(module).__module__
        modules.append(ModuleNode(path, class_name(module), number, training, _extra(module), home))
        state.extend(_own_state(path, module, numbers))
    return ModuleTree(tuple(modules), tuple(state))


def walk(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All (path, module) pairs in pre-order, shared modules under every name.

    A module that contains itself is listed once on its own branch, so the walk ends.
    """
    found: list[tuple[str, nn.Module]] = []
    stack: list[tuple[str, nn.Module, frozenset[int]]] = [("", model, frozenset())]
    while stack:
        path, module, above = stack.pop()
        found.append((path, module))
        inside = above | {id(module)}
        children = [
            (f"{path}.{name}" if path else name, child, inside)
            for name, child in module._modules.items()
            if child is not None and id(child) not in inside
        ]
        stack.extend(reversed(children))
    return found


_METHODS = frozenset(
    f"{prefix}{name}" for prefix in ("", "named_") for name in ("modules", "children", "parameters", "buffers")
) | {"train", "eval", "apply", "state_dict", "register_forward_hook"}


def check_module(model: Any, function: str) -> None:
    """Raises BadInput for what is no module, in the words of the Python function that was called."""
    if isinstance(model, nn.Module):
        return
    if isinstance(model, type):
        what, hint = f"the class {model.__name__}", f"make one: {model.__name__}(…)"
    elif callable(model):
        what, hint = f"the function {getattr(model, '__name__', model)!s}", "call it in the forward of a module"
    else:
        what, hint = f"a value of type {type(model).__name__}", "give the model itself first, then its inputs"
    raise BadInput(f"{function} takes a torch.nn.Module, not {what}", hint)


def refuse_without_values(model: nn.Module) -> None:
    """Raises BadInput for a model of which a parameter or buffer is on meta: what it computes are no values."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise BadInput(
                f"{name} of {class_name(model)} is on meta and has no values",
                "build the model on the CPU, with weights",
            )


def refuse_what_torch_cannot_walk(model: nn.Module) -> None:
    """Raises BadInput for a module that hides a method which torch itself walks by, or that holds its own parent."""
    for path, module in walk(model):
        hidden = sorted(name for name in _METHODS & module.__dict__.keys() if not callable(module.__dict__[name]))
        if hidden:
            where = f"{class_name(model)}.{path}" if path else class_name(model)
            raise BadInput(
                f"{where} hides nn.Module's own {hidden[0]}() by an attribute of that name",
                f"rename self.{hidden[0]}: torch cannot walk the model with it either",
            )
    path, above = _loop(model)
    if path:
        raise BadInput(
            f"{path} is {above or 'the model itself'}, which holds it: torch's own train() and eval() never end",
            "keep the reference out of the modules, for example in a list: self.parent = [parent]",
        )


def _loop(model: nn.Module) -> tuple[str, str]:
    """The path of a module that holds one above it, and the path of that one; two empty texts without any."""
    stack: list[tuple[str, nn.Module, dict[int, str]]] = [("", model, {id(model): ""})]
    seen: set[int] = set()
    while stack:
        path, module, above = stack.pop()
        for name, child in module._modules.items():
            inner = f"{path}.{name}" if path else name
            if child is not None and id(child) in above:
                return inner, above[id(child)]
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                stack.append((inner, child, {**above, id(child): inner}))
    return "", ""


def class_name(module: nn.Module) -> str:
    """The class as a person knows it; for TorchScript the class that was scripted."""
    if isinstance(module, torch.jit.ScriptModule):
        return str(getattr(module, "original_name", type(module).__name__))
    return type(module).__name__


def _extra(module: nn.Module) -> str:
    # extra_repr is user code: a model whose repr is broken is still a model.
    try:
        return module.extra_repr() if not module._modules else ""
    except Exception:  # noqa: BLE001
        return ""


def _own_state(path: str, module: nn.Module, numbers: dict[Hashable, int]) -> list[StateTensor]:
    transient: set[str] = getattr(module, "_non_persistent_buffers_set", set())
    found: list[StateTensor] = []
    for role, table in state_tables(module):
        for name, tensor in table.items():
            if tensor is not None:
                full = f"{path}.{name}" if path else name
                found.append(_entry(full, class_name(module), role, tensor, name not in transient, numbers))
    for name, tensor in _packed(module):
        entry = _entry(f"{path}.{name}" if path else name, class_name(module), "parameter", tensor, True, numbers)
        number = numbers.setdefault(("packed", id(module), name), len(numbers))  # unpacked anew at every call
        found.append(replace(entry, identity=number, storage=number, requires_grad=False))
    return found


def _packed(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """The weights that a quantized module of torch.ao keeps in packed form, where no table has them."""
    home, kind = type(module).__module__, type(module).__name__
    if not home.startswith("torch.ao.nn.") or "quantized" not in home or "Packed" in kind:
        return []
    some: Any = module
    try:
        if hasattr(some, "get_weight") and hasattr(some, "get_bias"):
            pairs = {**some.get_weight(), **some.get_bias()}
        elif hasattr(some, "_weight_bias"):
            pairs = dict(zip(("weight", "bias"), some._weight_bias(), strict=True))
        else:
            pairs = {"weight": some.weight()} if callable(getattr(some, "weight", None)) else {}
    except (RuntimeError, AttributeError, TypeError, NotImplementedError):
        return []
    return [(name, tensor) for name, tensor in pairs.items() if isinstance(tensor, torch.Tensor)]


def stored_bytes(tensor: torch.Tensor) -> int:
    """The bytes that a tensor takes as it is kept: of a wrapper, those of the tensors inside; of quantized values,
    with a scale and a zero point (8 bytes each) per tensor or channel."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None and type(tensor) not in (torch.Tensor, nn.Parameter):
        inside = [getattr(tensor, name) for name in flatten()[0]]
        return sum(stored_bytes(part) for part in inside if isinstance(part, torch.Tensor))
    plain = tensor.numel() * tensor.element_size()
    if not tensor.is_quantized:
        return plain
    channels = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
    return plain + 16 * (tensor.q_per_channel_scales().numel() if channels else 1)


def logical_shape(tensor: torch.Tensor) -> tuple[int, ...]:
    """The shape that the weight has in computations: packed ones of bitsandbytes keep it beside their bytes."""
    packed = getattr(getattr(tensor, "quant_state", None), "shape", None)
    return tuple(packed) if packed is not None else tuple(tensor.shape)


def state_tables(module: nn.Module) -> tuple[tuple[str, dict[str, Any]], ...]:
    """The module's own tables of parameters and buffers, as (role, name -> tensor or None). Writable."""
    return ("parameter", module._parameters), ("buffer", module._buffers)


def _entry(
    path: str, owner: str, role: str, tensor: torch.Tensor, persistent: bool, numbers: dict[Hashable, int]
) -> StateTensor:
    lazy = is_lazy(tensor)
    return StateTensor(
        path=path,
        owner=owner,
        role="parameter" if role == "parameter" else "buffer",
        shape=(0,) if lazy else logical_shape(tensor),
        dtype=str(tensor.dtype).removeprefix("torch."),
        nbytes=0 if lazy else stored_bytes(tensor),
        requires_grad=tensor.requires_grad,
        persistent=persistent,
        identity=numbers.setdefault(identity(tensor), len(numbers)),
        storage=numbers.setdefault(storage(tensor), len(numbers)),
        lazy=lazy,
    )


def storage(tensor: torch.Tensor) -> Hashable:
    """A key that tensors on the same memory share. Valid while one of them lives."""
    try:
        return ("storage", tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError, ValueError):  # lazy, sparse and other layouts have no storage
        return ("tensor", id(tensor))


def identity(tensor: torch.Tensor) -> Hashable:
    """A key that two names of one tensor share: the same object, or the same memory seen in the same way."""
    if is_lazy(tensor) or tensor.layout is not torch.strided or tensor.numel() == 0:
        return ("tensor", id(tensor))
    return (storage(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def saved_names(model: nn.Module) -> frozenset[str] | None:
    """The names in the model's `state_dict`; None when its own hooks raise."""
    try:
        return frozenset(model.state_dict(keep_vars=True))
    except Exception:  # noqa: BLE001 - a state_dict hook is user code
        return None
