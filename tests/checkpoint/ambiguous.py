"""Files from which nobody can tell what goes where, or from which something is gone: to be refused, not guessed at."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from modelprobe.model.target import resolve
from tests.checkpoint.mangling import State, prefixed

Mangle = Callable[[State], Mapping[str, Tensor] | None]


class Held(nn.Module):
    """A network whose child, and whose grandchildren, are called as wrappers call theirs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.original_module = nn.ModuleDict({"model": inner})
        self.submodule = nn.ModuleDict({"module": nn.Linear(1, 1), "net": nn.Linear(1, 1)})

    def forward(self, *args: Tensor) -> Tensor:
        found = self.original_module["model"](*args)
        found = found if torch.is_tensor(found) else next(iter(found.values()))
        return self.submodule["net"](self.submodule["module"](found.flatten()[:, None]))


def held(spec: str) -> nn.Module:
    """Any network inside `Held`: `ambiguous.py:held --set spec=resnet18`."""
    return Held(resolve(spec).build("cpu").module)


def zeros(state: State) -> dict[str, Tensor]:
    return OrderedDict((name, torch.zeros_like(value)) for name, value in state.items())


def siblings(state: State) -> tuple[str, str, str] | None:
    """What stands before two neighbours with the same names and shapes inside, and what they are called."""
    inside: dict[str, dict[str, list[tuple[str, tuple[int, ...]]]]] = {}
    for name, value in state.items():
        parts = name.split(".")
        for depth in range(len(parts) - 1):
            held = inside.setdefault("".join(f"{part}." for part in parts[:depth]), {})
            held.setdefault(parts[depth], []).append((".".join(parts[depth + 1 :]), tuple(value.shape)))
    for above, children in inside.items():
        names = list(children)
        for one, other in pairwise(names):
            if children[one] == children[other] and any(shape for _, shape in children[one]):
                return above, one, other
    return None


def exchanged(state: State) -> Mapping[str, Tensor] | None:
    """Two blocks that look the same under new names, in the other order."""
    found = siblings(state)
    if found is None:
        return None
    above, one, other = found
    first = {n: v for n, v in state.items() if n.startswith(f"{above}{one}.")}
    second = {n: v for n, v in state.items() if n.startswith(f"{above}{other}.")}
    made: dict[str, Tensor] = OrderedDict()
    for name, value in state.items():
        if name == next(iter(first)):
            made.update({f"{above}left.{n[len(above) + len(other) + 1 :]}": v for n, v in second.items()})
            made.update({f"{above}right.{n[len(above) + len(one) + 1 :]}": v for n, v in first.items()})
        elif name not in first and name not in second:
            made[name] = value
    return made


def from_one(state: State) -> Mapping[str, Tensor] | None:
    """The first numbered blocks counted from one instead of zero: most names agree, and mean the block before."""
    above = next((n.split(".")[0] for n in state if n.split(".")[1:2] == ["0"] and n.count(".") > 1), None)
    if above is None:
        return None
    moved: dict[str, Tensor] = OrderedDict()
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == above and parts[1].isdigit():
            parts[1] = str(int(parts[1]) + 1)
        moved[".".join(parts)] = value
    return moved


def nameless(state: State) -> Mapping[str, Tensor]:
    """No names at all, in any order."""
    order = list(state.values())
    random.Random(len(order)).shuffle(order)
    return OrderedDict((f"p{index}", value) for index, value in enumerate(order))


def two_networks(state: State) -> Mapping[str, Tensor]:
    return {**prefixed(state, "left"), **prefixed(zeros(state), "right")}


def with_and_without(state: State) -> Mapping[str, Tensor]:
    """Other values under the very same names behind `module.`: a collision for everybody who strips it."""
    return {**prefixed(state, "module"), **zeros(state)}


def cut(state: State) -> Mapping[str, Tensor]:
    """The first two thirds of a network."""
    names = list(prefixed(state, "module"))
    return {name: state[name.removeprefix("module.")] for name in names[: max(1, 2 * len(names) // 3)]}


def stripped(state: State) -> Mapping[str, Tensor] | None:
    """`lstrip("module.")` of the wrapped names."""
    names = {name: f"module.{name}".lstrip("module.") for name in state}
    if len(set(names.values())) < len(names) or all(old == new for old, new in names.items()):
        return None
    return OrderedDict((names[name], value) for name, value in state.items())


REFUSED: dict[str, Mangle] = {
    "two networks side by side": two_networks,
    "the same names twice": with_and_without,
    "two like blocks exchanged": exchanged,
    "a third is gone": cut,
}
"""A repair of these could only be a guess, or an invention."""

DOUBTFUL: dict[str, Mangle] = {"counted from one": from_one, "no names": nameless, "letters stripped": stripped}
"""Here a repair can be right; most often it must be refused."""
