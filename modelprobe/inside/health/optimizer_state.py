"""What an optimizer's state in a file says of each parameter: whether gradients came, how large a step is."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from modelprobe.checkpoint.records import Checkpoint, Item, TensorEntry

SECOND = ("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "exp_inf")
FIRST = ("exp_avg", "momentum_buffer", "grad_avg")


@dataclass(slots=True)
class ParameterState:
    """The tensors that an optimizer keeps of one parameter, and the settings of its group."""

    index: int
    first: TensorEntry | None = None
    second: TensorEntry | None = None
    lr: float | None = None
    eps: float = 1e-8
    inertia: float = 0.0
    """Weight decay / (1 - momentum): what the momentum buffer of SGD is of a weight that gets no gradient."""
    name: str = ""


@dataclass(slots=True)
class OptimizerState:
    """One optimizer of a file. `missing` are the parameters in its groups of which it keeps nothing."""

    path: tuple[str, ...]
    states: list[ParameterState] = field(default_factory=list)
    missing: list[ParameterState] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    named: bool = False


def optimizers_of(found: Checkpoint) -> list[OptimizerState]:
    """The optimizers of a checkpoint, as `optimizer.state_dict()` writes them."""
    tensors: dict[tuple[str, ...], dict[int, dict[str, TensorEntry]]] = defaultdict(lambda: defaultdict(dict))
    for entry in found.tensors:
        if len(entry.path) > 2 and entry.path[-3] == "state" and re.fullmatch(r"\d+", entry.path[-2]):
            tensors[entry.path[:-3]][int(entry.path[-2])][entry.path[-1]] = entry
    places = {*tensors, *_with_groups(found.tree, ())}
    return [_optimizer(found, path, tensors.get(path, {})) for path in sorted(places)]


def _with_groups(item: Item, path: tuple[str, ...], depth: int = 0) -> Iterator[tuple[str, ...]]:
    if any(child.key == "param_groups" for child in item.children):
        yield path
    for child in item.children if depth < 4 else ():
        yield from _with_groups(child, (*path, child.key), depth + 1)


def _optimizer(
    found: Checkpoint, path: tuple[str, ...], tensors: Mapping[int, dict[str, TensorEntry]]
) -> OptimizerState:
    groups = _groups(found.tree, path)
    made = OptimizerState(path, rates=[group.lr for group in groups if group.lr is not None])
    known: set[int] = set()
    for group in groups:
        for index in group.members:
            known.add(index)
            state = ParameterState(index, lr=group.lr, eps=group.eps, inertia=group.inertia)
            _fill_state(made, state, tensors.get(index))
    for index in sorted(set(tensors) - known):
        _fill_state(made, ParameterState(index, lr=made.rates[0] if made.rates else None), tensors[index])
    made.states.sort(key=lambda state: state.index)
    return made


def _fill_state(made: OptimizerState, state: ParameterState, tensors: Mapping[str, TensorEntry] | None) -> None:
    if not tensors:
        made.missing.append(state)
        return
    state.first = next((tensors[name] for name in FIRST if name in tensors), None)
    state.second = next((tensors[name] for name in SECOND if name in tensors), None)
    made.states.append(state)


@dataclass(frozen=True, slots=True)
class _ParameterGroup:
    """The settings of a group, and the numbers of its parameters."""

    lr: float | None
    eps: float
    inertia: float
    members: tuple[int, ...]


def _groups(tree: Item, path: tuple[str, ...]) -> list[_ParameterGroup]:
    item: Item | None = tree
    for key in (*path, "param_groups"):
        item = item.child(key) if item is not None else None
    found: list[_ParameterGroup] = []
    start = 0
    for group in item.children if item is not None else ():
        values = {child.key: child for child in group.children}

        def number(key: str, values: Mapping[str, Item] = values) -> float | None:
            value = values[key].value if key in values else None
            return float(value) if isinstance(value, (int, float)) else None

        params = values.get("params")
        members = [child.value for child in params.children if isinstance(child.value, int)] if params else []
        if params is not None and len(members) < params.length:
            members = list(range(start, start + params.length))
        start += len(members)
        inertia = (number("weight_decay") or 0.0) / max(1e-6, 1 - (number("momentum") or 0.0))
        found.append(_ParameterGroup(number("lr"), number("eps") or 1e-8, inertia, tuple(members)))
    return found


def name_states(optimizer: OptimizerState, parameters: Sequence[tuple[str, TensorEntry]]) -> None:
    """Give each state the name of its parameter, where an order of the parameters fits all shapes in one way only."""
    every = sorted([*optimizer.states, *optimizer.missing], key=lambda state: state.index)
    shapes = [_state_shape(state) for state in every]
    for order in _orders(parameters):
        places = _only_subsequence(shapes, [entry.shape for _, entry in order])
        if places is not None:
            for state, place in zip(every, places, strict=True):
                state.name = order[place][0]
            optimizer.named = True
            return


def _only_subsequence(
    shapes: Sequence[tuple[int, ...] | None], every: Sequence[tuple[int, ...]]
) -> tuple[int, ...] | None:
    """The places of `shapes` (None fits any) within `every`, in order; None where there are none, or several ways."""
    if len(shapes) > len(every):
        return None
    earliest, at = [], 0
    for shape in shapes:
        while at < len(every) and shape not in (None, every[at]):
            at += 1
        earliest.append(at)
        at += 1
    latest, at = [], len(every) - 1
    for shape in reversed(shapes):
        while at >= 0 and shape not in (None, every[at]):
            at -= 1
        latest.append(at)
        at -= 1
    return tuple(earliest) if at >= -1 and earliest == latest[::-1] else None


def _orders(parameters: Sequence[tuple[str, TensorEntry]]) -> Iterator[list[tuple[str, TensorEntry]]]:
    """The orders in which parameters are given to optimizers: as they come, and vectors (no decay) apart."""
    yield list(parameters)
    matrices = [pair for pair in parameters if len(pair[1].shape) > 1]
    vectors = [pair for pair in parameters if len(pair[1].shape) <= 1]
    yield matrices + vectors
    yield vectors + matrices


def _state_shape(state: ParameterState) -> tuple[int, ...] | None:
    entry = state.second or state.first
    return entry.shape if entry is not None else None
