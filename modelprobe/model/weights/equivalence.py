"""Two networks compared by running them: the same weights given to both, and the order in which tensors are used.

Values are drawn anew for the proof: the weights of a file may be such that two of them could be exchanged unnoticed
(zeros, layer scales of 1e-6). What the outputs do not depend on is found by gradients, and is not proven.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.checkpoint.keys.apply import value_of
from modelprobe.checkpoint.keys.draft import Part
from modelprobe.errors import ProbeError, one_line
from modelprobe.model.construct import seeded, without_warnings
from modelprobe.model.inputs.declared import IMAGE, DeclaredInput
from modelprobe.model.inputs.example import make_inputs
from modelprobe.model.target import Target
from modelprobe.tracing.recorder import trace

EQUAL = 1e-6
"""Largest difference over the largest output, in float64, that is taken for rounding."""

EPSILON = 1e-5

Inputs = tuple[tuple[Any, ...], dict[str, Any], str]
"""Positional arguments, keywords, and both in words."""

SMALL_SIDES = (64, 96)
"""Sides of an image that are tried before the declared one: a convolutional network takes any."""


@dataclass(frozen=True, slots=True)
class OutputComparison:
    """What a comparison of outputs gave. `relative` is the largest difference over the largest output.

    `insensitive` are tensors that the outputs do not depend on; `reason` says why there was no comparison,
    `known_difference` in what the two networks are known to differ.
    """

    source: str
    target: str
    inputs: str = ""
    difference: float = 0.0
    relative: float = 0.0
    insensitive: tuple[str, ...] = ()
    reason: str = ""
    known_difference: str = ""

    @property
    def equal(self) -> bool:
        """Whether the outputs are equal but for rounding."""
        return not self.reason and self.relative <= EQUAL


def compare_random(
    source: Target,
    target: Target,
    parts: Sequence[Part],
    names: Mapping[str, str],
    inputs: Sequence[str] = (),
    seed: int = 0,
) -> OutputComparison:
    """Give random weights to `source`, the same through `parts` to `target`, and compare what both compute.

    `parts` are made of tensors named as in the file; `names` leads from those to the names that `source` has for them.
    `inputs` are specs as for `--input`; without any, what the target declares, a smaller image first.
    """
    label = source.spec, target.spec
    try:
        with without_warnings(), torch.random.fork_rng(devices=[]):
            first, second = fresh(source, seed).double().eval(), fresh(target, seed).double().eval()
            _randomise(first, seed)
            _carry_over(first, second, parts, names)
            return _first_comparison(label, (first, second), _inputs(target, second, inputs), parts, names)
    except (ProbeError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError) as error:
        return OutputComparison(*label, reason=one_line(error))


def fresh(target: Target, seed: int = 0) -> nn.Module:
    """The target built on the CPU; of a model that exists already a copy, since it is not ours to change."""
    module = target.build("cpu", seed).module
    return copy.deepcopy(module).cpu() if target.is_instance else module


def _carry_over(first: nn.Module, second: nn.Module, parts: Sequence[Part], names: Mapping[str, str]) -> None:
    state, own = first.state_dict(), second.state_dict()
    made = {
        part.name: value_of(part, lambda name: state[names[name]], lambda name: own[name])
        for part in parts
        if part.name in own
    }
    own.update(made)  # in place: it carries the versions of its modules
    second.load_state_dict(own, strict=True)


def _randomise(model: nn.Module, seed: int) -> None:
    """Values that keep activations in bounds and that no two tensors share."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not torch.is_tensor(tensor) or not tensor.is_floating_point() or not tensor.dim():
                continue
            last = name.rpartition(".")[2]
            if tensor.dim() > 1 and "embed" not in last and "token" not in last:
                spread = (1.0 / max(1, tensor[0].numel())) ** 0.5
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * spread
            elif "bias" in last or last == "running_mean" or tensor.dim() > 1:
                drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * 0.2
            else:
                drawn = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
            tensor.copy_(drawn)


def _first_comparison(
    label: tuple[str, str],
    models: tuple[nn.Module, nn.Module],
    inputs: Sequence[Inputs],
    parts: Sequence[Part],
    names: Mapping[str, str],
) -> OutputComparison:
    found, problem = _first_outputs(models, inputs)
    if found is None:
        return OutputComparison(*label, reason=problem)
    outputs, (args, kwargs, shown) = found
    compared = _verdict(label, shown, outputs, models, parts, names)
    if compared.known_difference and _alike_but_for_epsilons(models, args, kwargs):
        return replace(compared, known_difference=f"{compared.known_difference}, and that is all the difference")
    return compared


Outputs = tuple[list[Tensor], list[Tensor]]


def _first_outputs(
    models: tuple[nn.Module, nn.Module], inputs: Sequence[Inputs]
) -> tuple[tuple[Outputs, Inputs] | None, str]:
    """What both models compute from the first input that both take, and the input; else None and the last error."""
    problem = "no input is known that both take"
    for given in inputs:
        try:
            one, other = (_flat(model(*given[0], **given[1])) for model in models)
        except Exception as error:  # noqa: BLE001 - a model of the user's may raise anything: another size is tried
            problem = one_line(error)
            continue
        return ((one, other), given), ""
    return None, problem


def _largest_difference(outputs: Outputs) -> tuple[float, float] | None:
    """The largest difference and the largest output; None when they have other shapes."""
    one, other = outputs
    if [tensor.shape for tensor in one] != [tensor.shape for tensor in other] or not one:
        return None
    difference = max(float((a - b).detach().abs().max()) for a, b in zip(one, other, strict=True))
    return difference, max(float(tensor.detach().abs().max()) for tensor in one)


def _verdict(
    label: tuple[str, str],
    shown: str,
    outputs: Outputs,
    models: tuple[nn.Module, nn.Module],
    parts: Sequence[Part],
    names: Mapping[str, str],
) -> OutputComparison:
    measured = _largest_difference(outputs)
    if measured is None:
        return OutputComparison(*label, shown, reason="their outputs have other shapes")
    difference, largest = measured
    if not largest or largest != largest or difference != difference or largest == float("inf"):
        return OutputComparison(*label, shown, reason="their outputs are zero or not finite with random weights")
    if difference / largest > EQUAL:
        return OutputComparison(
            *label, shown, difference, difference / largest, known_difference=known_difference(*models)
        )
    return OutputComparison(
        *label, shown, difference, difference / largest, _insensitive(outputs[0], models[0], parts, names)
    )


def known_difference(first: nn.Module, second: nn.Module) -> str:
    """The epsilons of their norms, where those differ: what stands in no weight file."""
    one, other = _epsilons(first), _epsilons(second)
    return f"their norms have the epsilons {one} and {other}" if one != other else ""


def _alike_but_for_epsilons(models: tuple[nn.Module, nn.Module], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether both compute the same once all their norms have one epsilon, which the models keep."""
    for module in (module for model in models for module in model.modules()):
        if isinstance(getattr(module, "eps", None), float):
            module.eps = EPSILON  # type: ignore[assignment]
    with torch.no_grad():
        one, other = (_flat(model(*args, **kwargs)) for model in models)
    measured = _largest_difference((one, other))
    return measured is not None and measured[0] <= EQUAL * measured[1]


def _epsilons(model: nn.Module) -> str:
    every = (getattr(module, "eps", None) for module in model.modules())
    return ", ".join(f"{eps:g}" for eps in sorted({eps for eps in every if isinstance(eps, float)})) or "none"


def compare_outputs(
    first: nn.Module, second: nn.Module, source: Target, target: Target, inputs: Sequence[str] = ()
) -> OutputComparison:
    """Both models, with the weights they have, on the same seeded input."""
    label = source.spec, target.spec
    try:
        first, second = first.double().eval(), second.double().eval()
        with torch.no_grad():
            found, problem = _first_outputs((first, second), _inputs(target, second, inputs))
        if found is None:
            return OutputComparison(*label, reason=problem)
        outputs, (_, _, shown) = found
        measured = _largest_difference(outputs)
        if measured is None:
            return OutputComparison(*label, shown, reason="their outputs have other shapes")
        return OutputComparison(*label, shown, measured[0], measured[0] / (measured[1] or 1.0))
    except (ProbeError, RuntimeError, MemoryError) as error:
        return OutputComparison(*label, reason=one_line(error))


def _insensitive(
    outputs: list[Tensor], model: nn.Module, parts: Sequence[Part], names: Mapping[str, str]
) -> tuple[str, ...]:
    """Parameters without a gradient, of which there are several of one shape: exchanging them would not show."""
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype) for tensor in outputs]
    total = torch.stack([(tensor * weight).sum() for tensor, weight in zip(outputs, drawn, strict=True)]).sum()
    parameters = {name: value for name, value in model.named_parameters(remove_duplicate=False) if value.requires_grad}
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    largest = max((float(g.abs().max()) for g in gradients if g is not None and g.numel()), default=0.0)
    silent = {
        name
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is None or float(gradient.abs().max()) <= 1e-14 * largest
    }
    shapes: dict[tuple[int, ...], list[str]] = {}
    for part in parts:
        if part.sources and all(names.get(source) in silent for source in part.sources):
            shapes.setdefault(part.shape, []).append(part.name)
    return tuple(name for held in shapes.values() if len(held) > 1 for name in held)


def _inputs(target: Target, model: nn.Module, asked: Sequence[str]) -> list[Inputs]:
    """Example inputs in float64, the small ones first."""
    wanted: DeclaredInput | None = None if asked else target.declared_inputs(model)
    tries: list[list[str]] = [list(asked)]
    if wanted is not None and wanted.kind == IMAGE and len(wanted.shape) == 4:
        channels = wanted.shape[1]
        sides = [side for side in SMALL_SIDES if wanted.size is None or side < max(wanted.size)]
        tries = [*([f"{channels}x{side}x{side}"] for side in sides), []]
    found = []
    for specs in tries:
        example = make_inputs(target, specs, dtype="float64", model=model)
        with seeded(0):
            args, kwargs = example.build("cpu", 0)
        found.append((_double(args), _double(kwargs), ", ".join(example.describe())))
    return found


def _double(value: Any) -> Any:
    """Floating tensors in float64, also those that a model offers for itself."""
    if torch.is_tensor(value):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _double(item) for key, item in value.items()}
    return type(value)(map(_double, value)) if type(value) in (list, tuple) else value


def _flat(value: Any) -> list[Tensor]:
    """The floating tensors of an output, in order."""
    if torch.is_tensor(value):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _flat(item)]
    return [tensor for item in vars(value).values() for tensor in _flat(item)] if hasattr(value, "__dict__") else []


def order_of_use(target: Target, inputs: Sequence[str] = ()) -> tuple[str, ...]:
    """The names in the state_dict of `target`, by the first call of the module that holds each; unused ones are absent.

    The model runs once on `meta`, where it computes nothing; where it cannot, the answer is empty.
    """
    if target.is_instance:
        return ()  # it is somebody else's object: nothing is hooked into it
    try:
        with without_warnings(), torch.no_grad():
            model = target.build("meta").module.eval()
            args, kwargs = make_inputs(target, inputs, model=model).build("meta", 0)
            calls = trace(model, *args, kwargs=kwargs).calls
    except (ProbeError, RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError):
        return ()
    held: dict[str, list[str]] = {}
    for name in model.state_dict():
        held.setdefault(name.rpartition(".")[0], []).append(name)
    return tuple(dict.fromkeys(name for call in calls for name in held.get(call.path, ())))
