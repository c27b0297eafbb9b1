"""Networks of the zoos at reduced cost: the smallest of a family, with cheap random weights, on a small picture."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from modelprobe.errors import ProbeError
from modelprobe.model.construct import parameters_on_meta, without_warnings
from modelprobe.model.inputs.sizes import resize
from modelprobe.model.target import Target, resolve
from modelprobe.model.zoo import libraries
from modelprobe.tracing.recorder import Follower, trace
from modelprobe.tracing.records import Trace
from modelprobe.vision.images import Photo
from modelprobe.vision.preprocessing.lookup import Preprocessing, PreprocessingOverrides, preprocessing

SMALL = re.compile(
    r"atto|femto|pico|nano|xxs|xxt|_xs|tiny|mini|_t\b|_s\b|_xt|small|lite|_050|_b0|_0\d\d|18|10t|_p12|_m0|t0"
)
LARGE = re.compile(r"large|huge|giant|gigantic|base|_b\b|_l\b|_xl|_so|384|448|512|enormous|_in21k|152|200|101|_\d{3}d")
SIDES = (64, 112, 128)
"""Sides of pictures that are tried before the architecture's own."""

_PATTERN = torch.randn(2**20, generator=torch.Generator().manual_seed(0))


def smallest(module: str) -> str:
    """The architecture of a timm module that has the fewest parameters, among the three whose names look smallest."""
    names = [name for name in libraries.timm().list_models(module=module) if not name.startswith("test_")]
    names = names or libraries.timm().list_models(module=module)
    names.sort(key=lambda name: (bool(LARGE.search(name)), not SMALL.search(name), len(name), name))
    return min(names[:3], key=_parameters)


def _parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in resolve(f"timm:{name}").build().module.parameters())


def recorded(spec: str, photo: Photo, follow: Follower | None = None) -> tuple[Target, Preprocessing, Trace]:
    """The network, told to expect the smallest picture that it can be recorded with on meta, and that recording.

    Raises what the architecture's own size raises.
    """
    plain = resolve(spec)
    for side in SIDES:
        try:
            target = resize(plain, [str(side)])
            model = target.build().module
            seeing = preprocessing(target, model, None, PreprocessingOverrides(f"{side}x{side}", crop=False))
            return target, seeing, trace(model, *_on_meta(seeing.arguments(photo)), follow=follow)
        except ProbeError:
            continue
    model = plain.build().module
    seeing = preprocessing(plain, model)
    return plain, seeing, trace(model, *_on_meta(seeing.arguments(photo)), follow=follow)


def _on_meta(arguments: Any) -> Any:
    return tuple(tensor.to("meta") for tensor in arguments)


def built(target: Target) -> nn.Module:
    """The network on the CPU with weights that are random, cheap, and keep activations within bounds.

    Parameters are made on meta, which spares their initialisation; a few constructors compute with them, and with their
    device: those are built as they are.
    """
    model = None
    with without_warnings():
        with parameters_on_meta(), suppress(Exception):
            model = target.source.make(target.given).eval()
        if model is None or any(buffer.is_meta for buffer in model.buffers()):
            return target.source.make(target.given).eval()
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                module._parameters[name] = made.setdefault(id(parameter), _filled(parameter, name))
    return model


def _filled(parameter: nn.Parameter, name: str) -> nn.Parameter:
    tensor = torch.empty(parameter.shape, dtype=parameter.dtype)
    if tensor.dim() < 2:
        tensor.fill_(1.0 if name == "weight" else 0.01)
    else:
        flat, scale = tensor.view(-1), (1.0 / max(1, tensor[0].numel())) ** 0.5
        for start in range(0, flat.numel(), len(_PATTERN)):
            part = flat[start : start + len(_PATTERN)]
            torch.mul(_PATTERN[: len(part)], scale, out=part)
    return nn.Parameter(tensor, requires_grad=False)
