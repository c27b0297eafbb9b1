"""Single faults put into a copy of a network: what was done, where, and which operators it may be called by."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
NORMS = (*BATCH_NORMS, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Fault:
    """What was done at `path`; `operators` are the names that would be right, without `aten.`"""

    kind: str
    path: str
    operators: frozenset[str]
    train: bool = False


_CONV = frozenset({"conv1d", "conv2d", "conv_transpose2d", "convolution"})
_LINEAR = frozenset({"linear", "addmm", "mm", "bmm", "matmul"})
_NORM = frozenset({"batch_norm", "layer_norm", "group_norm", "native_batch_norm", "native_layer_norm"})
_MOVES = frozenset(
    "flip index view reshape transpose permute slice cat select roll index_select contiguous clone".split()
)


class Wrapped(nn.Module):
    """A layer whose input is changed first; its place in the network stays."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.inner(self.change(x), *args, **kwargs)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _layers(model: nn.Module, *kinds: type) -> list[tuple[str, Any]]:
    return [
        (path, m) for path, m in model.named_modules() if isinstance(m, kinds) and path and not _inside_mha(model, path)
    ]


def _inside_mha(model: nn.Module, path: str) -> bool:
    parent = model.get_submodule(path.rpartition(".")[0])
    return isinstance(parent, nn.MultiheadAttention)


def _eps(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, *NORMS), rng):
        layer.eps = layer.eps * rng.choice([10, 0.1, 100])
        yield Fault("eps", path, _NORM)


def _padding(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, nn.Conv1d, nn.Conv2d), rng):
        if type(layer) in (nn.Conv1d, nn.Conv2d) and not isinstance(layer.padding, str) and layer.padding[0]:
            if rng.random() < 0.5:
                layer.padding = tuple(p - 1 for p in layer.padding)
                yield Fault("padding", path, _CONV)
            else:
                width = layer._reversed_padding_repeated_twice
                inner = layer
                inner.padding = tuple(0 for _ in layer.padding)
                _put(model, path, Wrapped(inner, lambda x, w=tuple(width): nn.functional.pad(x, w, mode="replicate")))
                yield Fault("padding", path, _CONV | {"pad", "replication_pad2d", "replication_pad1d"})


def _gelu(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, nn.GELU), rng):
        layer.approximate = "tanh"
        yield Fault("tanh GELU", path, frozenset({"gelu", "gelu_"}))
    for path, _ in _shuffled([(p, m) for p, m in model.named_modules() if type(m).__name__ == "GELU" and p], rng):
        _put(model, path, nn.GELU("tanh"))
        yield Fault("tanh GELU", path, frozenset({"gelu", "gelu_"}))


def _heads(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    found = [
        (path, m) for path, m in model.named_modules()
        if isinstance(getattr(m, "proj", None), nn.Linear) and hasattr(m, "qkv")
    ]  # fmt: skip
    for path, layer in _shuffled(found, rng):
        heads = getattr(layer, "num_heads", getattr(layer, "heads", 0))
        if heads < 2 or type(layer).__module__.startswith("torchvision"):  # which calls no module, but a function
            continue
        if rng.random() < 0.5:
            change = lambda x, h=heads: x.reshape(*x.shape[:-1], h, -1).flip(-2).reshape(x.shape)  # noqa: E731
        else:
            change = lambda x, h=heads: x.reshape(*x.shape[:-1], -1, h).transpose(-1, -2).reshape(x.shape)  # noqa: E731
        _put(model, f"{path}.proj", Wrapped(layer.proj, change))
        yield Fault("swapped heads", f"{path}.proj", _MOVES)


def _transposed(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, nn.Linear), rng):
        if layer.in_features == layer.out_features:
            layer.weight = nn.Parameter(layer.weight.detach().t().contiguous())
            yield Fault("transposed weight", path, _LINEAR)


def _scaled(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, *CONVS, nn.Linear), rng):
        layer.weight = nn.Parameter(layer.weight.detach() * rng.choice([0.5, 1.001, 1.1, 2**0.5]))
        yield Fault("mis-scaled weight", path, _CONV | _LINEAR | {"mul", "batch_norm"})  # of standardised weights


def _mask(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled([(p, m) for p, m in model.named_modules() if hasattr(m, "diagonal")], rng):
        layer.diagonal += rng.choice([1, 2])
        if layer.how == "buffer":
            layer.mask = torch.ones_like(layer.mask).tril(layer.diagonal - 1)
        names = {"triu", "tril", "masked_fill", "bitwise_not", "scaled_dot_product_attention", "add", "slice"}
        yield Fault("mask off by one", path, frozenset(names))


def _cast(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d), rng):
        if "Attention" in type(model.get_submodule(path.rpartition(".")[0])).__name__ and path.endswith("qkv"):
            continue  # torchvision's is called by nobody
        low = rng.choice([torch.bfloat16, torch.float16])
        _put(model, path, Wrapped(layer, lambda x, low=low: x.to(low).to(x.dtype)))
        yield Fault("cast", path, frozenset({"_to_copy", "to"}))


def _momentum(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, *BATCH_NORMS), rng):
        layer.momentum = (layer.momentum or 0.1) * rng.choice([2, 0.1, 1.5])
        yield Fault("momentum", path, _NORM | {"cudnn_batch_norm"}, train=True)


def _stride(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, nn.Conv1d, nn.Conv2d), rng):
        if type(layer) in (nn.Conv1d, nn.Conv2d) and max(*layer.stride, *layer.kernel_size) > 1:
            layer.stride = tuple(1 if s > 1 else 2 for s in layer.stride)
            yield Fault("stride", path, _CONV)


def _bias(model: nn.Module, rng: random.Random) -> Iterator[Fault]:
    for path, layer in _shuffled(_layers(model, *CONVS, nn.Linear), rng):
        if layer.bias is not None:
            layer.bias = None
            yield Fault("missing bias", path, _CONV | _LINEAR)


KINDS: dict[str, Callable[[nn.Module, random.Random], Iterator[Fault]]] = {
    "eps": _eps, "padding": _padding, "tanh GELU": _gelu, "swapped heads": _heads, "transposed weight": _transposed,
    "mis-scaled weight": _scaled, "mask off by one": _mask, "cast": _cast, "momentum": _momentum, "stride": _stride,
    "missing bias": _bias,
}  # fmt: skip


def _shuffled(items: list[Any], rng: random.Random) -> list[Any]:
    return rng.sample(items, len(items))


def faulty(model: nn.Module, kind: str, seed: int) -> tuple[nn.Module, Fault] | None:
    """A copy with one fault of that kind; None where the network has no place for it."""
    twin = copy.deepcopy(model)
    fault = next(KINDS[kind](twin, random.Random(seed)), None)
    return (twin.eval(), fault) if fault is not None else None
