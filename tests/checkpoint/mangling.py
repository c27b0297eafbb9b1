"""What happens to the names of a state_dict in the wild, and small networks that it happens to."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

State = Mapping[str, Tensor]


class Block(nn.Module):
    """A residual block whose inner part is called `module`, as in PEFT and timm's own wrappers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.submodule = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.submodule(self.module(x))


class Named(nn.Module):
    """Submodules called `model`, `module`, `net` and `features`, as wrappers are."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3), Block(8), Block(8))
        self.original_module = nn.BatchNorm2d(8)
        self.net = nn.ModuleDict({"module": nn.Linear(8, 8), "model": nn.Linear(8, 5)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.original_module(self.model(x)).mean((2, 3))
        return self.net["model"](self.net["module"](x).relu())


class OnlyModule(nn.Module):
    """A network whose one child is called `module`: a wrapper's name that is no wrapper's."""

    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x).mean((2, 3))


class Alike(nn.Module):
    """Layers of one shape in a row: nothing but their names and their order tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*(nn.Linear(12, 12) for _ in range(4)))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.features:
            x = layer(x).tanh()
        return self.head(x)


def named() -> nn.Module:
    return Named()


def only_module() -> nn.Module:
    return OnlyModule()


def alike() -> nn.Module:
    return Alike()


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Values that differ everywhere, so that any exchange shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.dim() > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * tensor[0].numel() ** -0.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.9)
    return model.eval()


def prefixed(state: State, *segments: str) -> dict[str, Tensor]:
    front = "".join(f"{segment}." for segment in segments)
    return OrderedDict((f"{front}{name}", value) for name, value in state.items())


def _inside(state: State, segment: str, every: bool) -> dict[str, Tensor]:
    """A wrapper around one child that has children of its own, or around every numbered block."""
    first = next((n.split(".")[0] for n in state if n.count(".") > 1), "")
    found = OrderedDict()
    for name, value in state.items():
        parts = name.split(".")
        if every:
            parts = [p for i, part in enumerate(parts) for p in ([part, segment] if _block(parts, i) else [part])]
        elif parts[0] == first:
            parts.insert(1, segment)
        found[".".join(parts)] = value
    return found


def _block(parts: list[str], index: int) -> bool:
    return parts[index].isdigit() and 0 < index < len(parts) - 1


def _renamed(state: State) -> dict[str, Tensor]:
    """One child with children gets another name, which says the same."""
    chosen = next((n.split(".")[0] for n in state if n.count(".") > 1), next(iter(state)).split(".")[0])
    found = OrderedDict()
    for name, value in state.items():
        first, dot, rest = name.partition(".")
        found[f"my_{first}{dot}{rest}" if first == chosen and dot else name] = value
    return found


def _lightning(state: State) -> dict[str, Any]:
    held = {**prefixed(state, "model"), "loss_fn.weight": torch.ones(7), "metric.total": torch.zeros(1)}
    return {"epoch": 3, "pytorch-lightning_version": "2.4.0", "state_dict": held, "optimizer_states": []}


def _ema(state: State) -> dict[str, Any]:
    averaged = {**prefixed({n: torch.zeros_like(v) for n, v in state.items()}, "module"), "n_averaged": torch.tensor(9)}
    return {"state_dict": prefixed(state, "module"), "state_dict_ema": averaged, "epoch": 1}


def _moco(state: State) -> dict[str, Any]:
    key = {name: torch.zeros_like(value) for name, value in state.items()}
    held = {**prefixed(state, "module", "encoder_q"), **prefixed(key, "module", "encoder_k")}
    return {"arch": "?", "state_dict": {**held, "module.queue": torch.ones(8, 4), "module.queue_ptr": torch.zeros(1)}}


def _deep(state: State) -> dict[str, Tensor]:
    words = ["wrap", "inner", "core", "module", "x0", "model", "trunk"]
    rng = random.Random(len(state))
    return prefixed(state, *(rng.choice(words) for _ in range(rng.randint(2, 6))))


MANGLINGS: dict[str, Callable[[State], Mapping[str, Any]]] = {
    "DataParallel": lambda state: prefixed(state, "module"),
    "DataParallel twice": lambda state: prefixed(state, "module", "module"),
    "compile": lambda state: prefixed(state, "_orig_mod"),
    "compile in DDP": lambda state: prefixed(state, "module", "_orig_mod"),
    "DDP in compile": lambda state: prefixed(state, "_orig_mod", "module"),
    "FSDP": lambda state: prefixed(_inside(state, "_fsdp_wrapped_module", every=True), "_fsdp_wrapped_module"),
    "checkpointing": lambda state: _inside(state, "_checkpoint_wrapped_module", every=True),
    "Lightning": _lightning,
    "Lightning, compile, DDP": lambda state: prefixed(state, "model", "_orig_mod", "module"),
    "deep prefix": _deep,
    "EMA beside raw": _ema,
    "MoCo": _moco,
    "inner DataParallel": lambda state: _inside(state, "module", every=False),
    "renamed block": _renamed,
}


def naive(state: Mapping[str, Any]) -> dict[str, Any]:
    """What people write."""
    held = state.get("state_dict", state)
    return {name.replace("module.", ""): value for name, value in held.items()}


class Mine(nn.Module):
    """A network with layers of one shape, attention in one piece, and a version that its loading asks for."""

    _version = 2

    def __init__(self, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.stem = nn.Linear(8, 8)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(8, epsilon), nn.LayerNorm(8, epsilon)])
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.stem(x)], 1)
        y = self.norms[0](x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return self.out(self.norms[1](x)[:, 0])

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") != 2:
            raise ValueError("version should be set")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class Theirs(nn.Module):
    """The same function as `Mine`, written by somebody else: other names, query, key and value apart."""

    def __init__(self, activation: str = "none", swapped: bool = False) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, 8))
        self.embed = nn.Linear(8, 8)
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.classifier = nn.Linear(8, 3)
        self.activation, self.swapped = activation, swapped

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.embed(x)], 1)
        first, second = (self.after, self.before) if self.swapped else (self.before, self.after)
        y = first(x)
        q, k, v = (p(y).unflatten(2, (2, 4)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        z = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = second(x + self.proj(z))[:, 0]
        return self.classifier(x.relu() if self.activation == "relu" else x)


class Sides(nn.Module):
    """Two layers of one shape that no output depends on, as auxiliary heads in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux1, self.aux2 = nn.Linear(8, 3), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class OtherSides(nn.Module):
    """`Sides` by other names."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.left, self.right = nn.Linear(8, 3), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


ready = randomised(Alike(), 5)
"""A model that exists already when its file is imported."""
