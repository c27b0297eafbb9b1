"""The weights of a base with a LoRA added to them, one tensor at a time: what PEFT's `merge_and_unload` computes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelprobe.checkpoint.adapters.lora import ADAPTER_CONFIG, Lora, LoraFit, LoraLayer, fit_to_base
from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.tensor import TensorToWrite, to_write
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor


OTHER_PARTS = re.compile(r"(?:^|\.)(?:dora_scale|trainable_tokens_\w+|lora_\w+|hada_\w+|lokr_\w+|oft_\w+)(?:\.|$)")
"""Tensors of adapters that are no plain LoRA, in the names of PEFT and of kohya's trainer."""

CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


@dataclass(frozen=True)
class Merged:
    """The tensors of the base, changed where the adapter says so, and what it did with them, by name.

    `added` are tensors of the adapter that the base lacks; `replaced` are whole tensors that it brings along.
    """

    tensors: tuple[TensorToWrite, ...]
    changed: tuple[str, ...]
    replaced: tuple[str, ...]
    added: tuple[str, ...]


def merged_with(lora: Lora, reader: TensorReader, base: Sequence[TensorToWrite], base_path: str) -> Merged:
    """The tensors of a base with the adapter added. `reader` reads the adapter's file.

    Raises BadInput where the scale is not known, where the base lacks a layer, and for what PEFT itself cannot merge.
    """
    _refuse_unmergeable(lora)
    held = {tensor.name: tensor for tensor in base}
    shapes = {name: tensor.shape for name, tensor in held.items()}
    fit = fit_to_base(lora, shapes)
    if fit.lacking:
        many = f"{len(fit.lacking):,} of its {len(lora.layers):,} layers"
        text = f"{base_path} is not the base of {lora.path}: {many} have no weight of their shape there"
        told = f"it was trained on {lora.base}" if lora.base else "name the file that it was trained on"
        raise BadInput(f"{text}, such as {fit.lacking[0]}", told)
    if fit.several:
        text = f"{fit.several[0]} of {lora.path} may be two layers of {base_path}, whose names differ in dots alone"
        raise BadInput(text, "rename the layer in the adapter: with dots, as the base has it")
    made = dict(held)
    for layer in lora.layers:
        scale = lora.scale(layer, _alpha(lora, layer, reader))
        if scale is None or not math.isfinite(scale):
            what = "not known" if scale is None else f"{scale}"
            raise BadInput(
                f"the scale of {lora.path} is {what}", f"put its {ADAPTER_CONFIG} beside it: alpha stands there"
            )
        name = fit.weights[layer.module]
        if made[name].dtype not in FLOATING_DTYPES:
            text = f"{name} of {base_path} is {made[name].dtype}: nothing can be added to it"
            raise BadInput(text, "merge into the weights from before they were quantized")
        made[name] = _with_change(made[name], _weight(layer, scale, fit, reader))
        if layer.bias is not None:
            bias = f"{name.removesuffix('weight')}bias"
            if bias not in made:
                raise BadInput(f"{layer.module} has a bias in {lora.path} and none in {base_path}")
            made[bias] = _with_change(made[bias], _bias(layer, scale, reader))
    replaced, added = _put_whole_tensors(lora, fit, reader, made)
    changed = tuple(name for name in made if name in held and made[name] is not held[name] and name not in replaced)
    return Merged(tuple(made.values()), changed, replaced, added)


def _refuse_unmergeable(lora: Lora) -> None:
    kind = lora.config.get("peft_type", "LORA")
    if kind != "LORA":
        raise BadInput(f"{lora.path} is an adapter of the kind {kind}", "only LoRA is merged: PEFT merges the others")
    if lora.names:
        raise BadInput(f"{lora.path} holds several adapters: {', '.join(lora.names)}", "save one of them with PEFT")
    if lora.incomplete:
        raise BadInput(f"{lora.path} is incomplete: {lora.incomplete[0]} has one matrix of two, or they do not match")
    if lora.contradiction:
        raise BadInput(
            f"{lora.path}: {lora.contradiction}", f"the scale depends on it: put the right {ADAPTER_CONFIG} beside it"
        )
    _refuse_other_kinds(lora)
    for flag in ("use_qalora", "use_bdlora", "layer_replication", "target_parameters"):
        if lora.config.get(flag):
            raise BadInput(f"{lora.path} uses {flag}, which is not merged here", "PEFT's merge_and_unload does it")
    if any(layer.magnitude is not None and (layer.embedding or len(layer.down.shape) != 2) for layer in lora.layers):
        raise BadInput(f"{lora.path} is a DoRA of convolutions or embeddings", "PEFT's merge_and_unload merges it")


def _refuse_other_kinds(lora: Lora) -> None:
    """What changes the base in another way than by a product that is added, and is told by names or configuration."""
    known = "PEFT's merge_and_unload does it"
    odd = next((name for name in lora.replaced if OTHER_PARTS.search(name)), None)
    if odd is not None:
        raise BadInput(
            f"{lora.path} is more than a LoRA: {odd} is not merged here", "merge it with the library it is of"
        )
    start = lora.config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        text = f"{lora.path} was started with init_lora_weights={start}, which changes the base before training"
        raise BadInput(text, known)
    if lora.config.get("trainable_token_indices"):
        raise BadInput(f"{lora.path} has trainable_token_indices, which change rows of an embedding", known)
    if lora.config.get("use_dora") is True and any(layer.magnitude is None for layer in lora.layers):
        raise BadInput(
            f"{lora.path} is a DoRA by its {ADAPTER_CONFIG}, and has no magnitudes", "save it again with PEFT"
        )


def _alpha(lora: Lora, layer: LoraLayer, reader: TensorReader) -> float | None:
    if layer.alpha is not None:
        return float(reader.load(layer.alpha))
    return lora.alpha(layer)


def _with_change(tensor: TensorToWrite, change: Callable[[Tensor], Tensor]) -> TensorToWrite:
    """The same tensor with other values, computed when it is written; it is tied to no other any more."""
    return replace(tensor, load=lambda: change(tensor.load()), pieces=None, shares=None, strides=None)


def _weight(layer: LoraLayer, scale: float, fit: LoraFit, reader: TensorReader) -> Callable[[Tensor], Tensor]:
    transposed = layer.module in fit.transposed

    def change(weight: Tensor) -> Tensor:
        import torch

        down, up = reader.load(layer.down), reader.load(layer.up)
        if down.dtype in (torch.float16, torch.bfloat16):  # as PEFT does on the CPU
            kept = down.dtype
            delta = (_low_rank_product(layer, down.float(), up.float(), weight.shape, transposed) * scale).to(kept)
        else:
            delta = _low_rank_product(layer, down, up, weight.shape, transposed) * scale
        if layer.magnitude is None:
            return (weight + delta).to(weight.dtype)
        total: Tensor = weight + delta
        side = 0 if transposed else 1
        factor = reader.load(layer.magnitude).reshape(-1) / torch.linalg.norm(total, dim=side)
        turned: Tensor = factor.unsqueeze(side) * total
        return turned.to(weight.dtype)

    return change


def _low_rank_product(layer: LoraLayer, down: Tensor, up: Tensor, shape: Sequence[int], transposed: bool) -> Tensor:
    import torch

    if layer.embedding:
        return (up @ down).T
    if len(down.shape) == 2:
        found = up @ down
        if len(shape) == 4:
            return found[..., None, None]
        return found.T if transposed else found
    if tuple(down.shape[2:]) == (1,) * (down.dim() - 2):
        flat = up.flatten(1) @ down.flatten(1)
        return flat.reshape(*flat.shape, *down.shape[2:])
    convolve = {3: torch.nn.functional.conv1d, 4: torch.nn.functional.conv2d, 5: torch.nn.functional.conv3d}
    return convolve[down.dim()](down.transpose(0, 1), up).transpose(0, 1)


def _bias(layer: LoraLayer, scale: float, reader: TensorReader) -> Callable[[Tensor], Tensor]:
    def change(bias: Tensor) -> Tensor:
        assert layer.bias is not None
        return (bias + reader.load(layer.bias) * scale).to(bias.dtype)

    return change


def _put_whole_tensors(
    lora: Lora, fit: LoraFit, reader: TensorReader, made: dict[str, TensorToWrite]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Put whole tensors (biases, a new head) in the place of the base's; the names of those replaced and added."""
    module, weight = next(iter(fit.weights.items()))
    replaced: list[str] = []
    added: list[str] = []
    for name, entry in lora.replaced.items():
        there = name if name in made else _renamed_alike(name, module, weight.removesuffix(".weight"))
        (replaced if there in made else added).append(there)
        made[there] = to_write(reader, entry, there)
    return tuple(replaced), tuple(added)


def _renamed_alike(name: str, module: str, weight: str) -> str:
    """A name with the leading segments changed as those of a layer were."""
    if weight.endswith(f".{module}"):
        return f"{weight[: -len(module)]}{name}"
    before = module[: -len(weight)] if module.endswith(f".{weight}") else ""
    return name.removeprefix(before)
