"""A guess at the input of a user's model, from its attributes or its first layer; always reported as assumed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from modelprobe.model.inputs.declared import GIVEN, IMAGE, NAMED, TENSOR, UNDECLARED, VIDEO, DeclaredInput
from modelprobe.report.blocks import Level, Note

_SEQUENCE = 16
_SIDE = 224


def of_module(model: nn.Module) -> DeclaredInput | None:
    """What `model` offers (`modelprobe_inputs`, Lightning's `example_input_array`), or a guess, or None.

    A guess carries an ASSUMED note that names the layer it was read from.
    """
    inner = without_wrappers(model)
    for name in ("modelprobe_inputs", "example_input_array"):
        offered = getattr(inner, name, None)
        if offered is not None:
            values = offered() if callable(offered) else offered
            return DeclaredInput(GIVEN, source=f"{type(inner).__name__}.{name}", values=values)
    named = _from_library(inner)
    if named is not None:
        return named
    shape = _configured_shape(inner)
    if shape:
        return DeclaredInput(IMAGE, (1, *shape), source=f"{type(inner).__name__}.default_cfg")
    needed = required_inputs(model)
    if needed == ():
        optional = tuple(p.name for p in parameters_of_forward(model) or () if p.kind is p.POSITIONAL_OR_KEYWORD)
        return DeclaredInput(UNDECLARED, source="forward takes no arguments", optional=optional)
    if needed is not None and len(needed) > 1:
        return None
    return from_first_layer(inner)


def _from_library(model: nn.Module) -> DeclaredInput | None:
    """What the model's library says of it. A length that the config leaves open is ours, and said to be assumed."""
    from modelprobe.model.other_libraries import declared_by_library  # no zoo's network needs it

    sets = tuple(declared_by_library(model))
    if not sets:
        return None
    source = f"the configuration of {type(model).__name__}"
    return DeclaredInput(NAMED, source=source, values=sets)


def _configured_shape(model: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of `default_cfg["input_size"]`, as timm writes it, on a module of one's own."""
    config = getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if not isinstance(size, (list, tuple)) or len(size) != 3 or not all(type(one) is int and one > 0 for one in size):
        return ()
    return tuple(size)


def without_wrappers(model: nn.Module) -> nn.Module:
    """The module inside `nn.DataParallel` and `torch.compile` wrappers, whose own forward tells nothing."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def parameters_of_forward(model: nn.Module) -> list[inspect.Parameter] | None:
    """The parameters of `forward` without `self`, or None where they cannot be known."""
    forward = without_wrappers(model).forward
    schema = getattr(forward, "schema", None)  # TorchScript
    if schema is not None:
        return [_scripted(argument) for argument in schema.arguments if argument.name != "self"]
    try:
        return list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):
        return None


def required_inputs(model: nn.Module) -> tuple[str, ...] | None:
    """The names of the arguments that `forward` cannot do without; None where its signature does not say."""
    parameters = parameters_of_forward(model)
    if parameters is None:
        return None
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = tuple(p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in variable)
    if not needed and any(p.kind in variable for p in parameters):
        return None
    return needed


def _scripted(argument: Any) -> inspect.Parameter:
    default = argument.default_value if argument.has_default_value() else inspect.Parameter.empty
    return inspect.Parameter(argument.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)


def from_first_layer(model: nn.Module) -> DeclaredInput | None:
    """The input that the first layer we know would take, with an ASSUMED note, or None."""
    for path, layer in without_wrappers(model).named_modules():
        kind = getattr(layer, "original_name", type(layer).__name__)
        rule = _rule_of(layer, kind)
        if rule is None:
            continue
        try:
            found = rule(layer)
        except (AttributeError, TypeError):
            continue
        if found is None or 0 in found.shape:
            return None
        return _assumed_note(found, f"{path} ({kind})" if path else kind)
    return None


def _rule_of(layer: nn.Module, kind: str) -> Callable[[Any], DeclaredInput | None] | None:
    """The rule of the layer's class, or of the class of torch's that it is made from: a padded convolution, a scaled
    embedding, one with a parametrized weight, a quantized one."""
    if kind in _RULES:
        return _RULES[kind]
    bases = (base.__name__ for base in type(layer).__mro__ if base.__module__.startswith("torch."))
    return next((_RULES[name] for name in bases if name in _RULES), None)


def _assumed_note(found: DeclaredInput, layer: str) -> DeclaredInput:
    shape = "x".join(map(str, found.shape))
    dtype = f":{found.dtype}" if found.dtype else ""
    text = f"the input {shape}{dtype} was assumed from the first layer, {layer}: override it by --input {shape}{dtype}"
    return replace(found, source=f"the first layer, {layer}", notes=(Note(text, Level.ASSUMED),))


def _sequence(features: int, layer: Any) -> DeclaredInput:
    if getattr(layer, "batch_first", False):
        return DeclaredInput(TENSOR, (1, _SEQUENCE, features), free_dim=1)
    return DeclaredInput(TENSOR, (_SEQUENCE, 1, features), batch_dim=1, free_dim=0)


def _token_input(layer: Any) -> DeclaredInput:
    return DeclaredInput(TENSOR, (1, _SEQUENCE), dtype="int64")


def _features(features: int) -> DeclaredInput:
    return DeclaredInput(TENSOR, (1, features))


def _image(channels: int, side: int = _SIDE) -> DeclaredInput:
    return DeclaredInput(IMAGE, (1, channels, side, side))


def _transformer(layer: Any) -> DeclaredInput:
    attention = layer.self_attn
    return _sequence(attention.embed_dim, attention)


# One rule for each class of layer that can open a network; its class name, since a TorchScript layer has no other.
_RULES: dict[str, Callable[[Any], DeclaredInput | None]] = {
    "Conv1d": lambda layer: DeclaredInput(TENSOR, (1, layer.in_channels, 1024)),
    "Conv2d": lambda layer: _image(layer.in_channels),
    "Conv3d": lambda layer: DeclaredInput(VIDEO, (1, layer.in_channels, 16, 112, 112)),
    "ConvTranspose1d": lambda layer: DeclaredInput(TENSOR, (1, layer.in_channels, 64)),
    "ConvTranspose2d": lambda layer: _image(layer.in_channels, 16),
    "LazyConv2d": lambda layer: _image(3),
    "LazyLinear": lambda layer: None,
    "Linear": lambda layer: _features(layer.in_features),
    "Embedding": _token_input,
    "EmbeddingBag": _token_input,
    "BatchNorm1d": lambda layer: _features(layer.num_features),
    "BatchNorm2d": lambda layer: _image(layer.num_features),
    "LayerNorm": lambda layer: DeclaredInput(TENSOR, (1, _SEQUENCE, *layer.normalized_shape), free_dim=1),
    "LSTM": lambda layer: _sequence(layer.input_size, layer),
    "GRU": lambda layer: _sequence(layer.input_size, layer),
    "RNN": lambda layer: _sequence(layer.input_size, layer),
    "LSTMCell": lambda layer: _features(layer.input_size),
    "GRUCell": lambda layer: _features(layer.input_size),
    "RNNCell": lambda layer: _features(layer.input_size),
    "MultiheadAttention": lambda layer: _sequence(layer.embed_dim, layer),
    "TransformerEncoderLayer": _transformer,
}
