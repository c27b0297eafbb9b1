"""Inputs by the names of arguments, as a library declares them: several sets, of which the first that runs is meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import nn

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.errors import BadInput
from modelprobe.model.inputs import first_layer as guess
from modelprobe.model.inputs.declared import IMAGE, TENSOR, DeclaredInput, batched, completed
from modelprobe.model.inputs.example import ExampleInputs, check_call, nothing_tells, positional
from modelprobe.model.inputs.spec import InputSpec
from modelprobe.report.blocks import Level, Note


def named_sets(
    model: nn.Module, wanted: DeclaredInput, given: Mapping[str, Any], batch: int | None, floating: str
) -> ExampleInputs:
    """The sets of arguments that a library declares and that hold what was given, each with what was given in place.

    A set that `forward` cannot be called with is left out. Raises BadInput when none is left.
    """
    found = []
    for declared in wanted.values:
        tensors = {name for name, value in given.items() if isinstance(value, InputSpec)}
        if not tensors <= set(declared):
            continue
        values = {name: _with_batch(value, batch, floating) for name, value in declared.items()} | dict(given)
        parameters = guess.parameters_of_forward(model) or []
        known = [parameter.name for parameter in parameters]
        args: tuple[Any, ...] = ()
        if len(values) == 1 and next(iter(values)) not in known:
            args, values = tuple(values.values()), {}
        try:
            check_call(model, len(args), tuple(values))
        except BadInput:
            continue
        made = [name for name in values if name not in given]
        notes = (_library_note(wanted, {name: values[name] for name in made}),) if made else ()
        names = positional(model, len(args))
        found.append(
            ExampleInputs(args, MappingProxyType(values), names, not given, wanted.source, notes, guessed=not given)
        )
    if not found:
        raise nothing_tells(type(model).__name__, model)
    return replace(found[0], alternatives=tuple(found[1:]))


def given_names(
    declared: DeclaredInput, specs: Sequence[InputSpec], batch: int | None, floating: str
) -> dict[str, Any]:
    """The specs by the names of arguments: one without a name is the next that the library declares."""
    given: dict[str, Any] = {}
    for spec in specs:
        first = next((name for name in declared.values[0] if name not in given), "")
        name = spec.name or first
        if name in given:
            raise BadInput(f"--input {name} was given twice", "leave one of the two out")
        known = next((names[name] for names in declared.values if name in names), None)
        shape, dtype = spec.shape, spec.dtype
        if isinstance(known, InputSpec):
            image = len(known.shape) == 4
            wanted = DeclaredInput(IMAGE if image else TENSOR, known.shape, known.dtype, free_dim=1)
            shape = completed(spec, wanted) if spec.name is None else shape
            dtype = dtype or known.dtype
        if spec.literal is not None:
            given[name] = spec.literal[0]
            continue
        given[name] = InputSpec(None, batched(shape, batch) if shape else shape, dtype or floating)
    return given


def _library_note(wanted: DeclaredInput, made: Mapping[str, Any]) -> Note:
    """Where arguments come from. A length that no configuration knows was chosen by us."""
    specs = {name: spec for name, spec in made.items() if isinstance(spec, InputSpec)}
    chosen = [f"{name}={_typed(spec)}" for name, spec in specs.items() if len(spec.shape) < 4 and spec.shape]
    if not chosen:
        return Note(f"the input was read from {wanted.source}", Level.INFO)
    text = " ".join(f"--input {item}" for item in chosen)
    return Note(
        f"the input was read from {wanted.source}; its lengths were assumed: override them by {text}", Level.ASSUMED
    )


def _typed(spec: InputSpec) -> str:
    shape = "x".join(map(str, spec.shape))
    return f"{shape}:{spec.dtype}" if spec.dtype and spec.dtype not in FLOATING_DTYPES else shape


def _with_batch(value: Any, batch: int | None, floating: str) -> Any:
    if isinstance(value, dict):
        return {key: _with_batch(item, batch, floating) for key, item in value.items()}
    if not isinstance(value, InputSpec):
        return value
    shape = batched(value.shape, batch) if value.shape and value.shape[0] == 1 else value.shape
    return InputSpec(None, shape, value.dtype or floating)
