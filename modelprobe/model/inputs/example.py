"""Example inputs of a model: from `--input`, `--inputs-from`, or what the model declares."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.errors import BadInput
from modelprobe.model.inputs import first_layer as guess
from modelprobe.model.inputs.declared import (
    GIVEN,
    IMAGE_PAIR,
    IMAGES,
    NAMED,
    TENSOR,
    UNDECLARED,
    DeclaredInput,
    batched,
    completed,
    is_short,
)
from modelprobe.model.inputs.spec import EXAMPLES, InputSpec, bounded, parse_floating, parse_input
from modelprobe.model.target import Target
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.tensors import given_leaves, shape_of

# Whole numbers are drawn below this: an index that every table has.
_SMALL = 2
_MOST_IMAGES = 100_000


@dataclass(frozen=True)
class ExampleInputs:
    """What `forward` is called with: specs to make tensors from, or values that are used as they are.

    `names` are those of the positional arguments, as forward calls them. `default` is true when nobody asked for these,
    `guessed` when the model itself does not declare them either. `alternatives` may be meant instead, the likeliest
    first: the first that runs is. `optional` are arguments that a forward takes which was given none. `notes` say what
    was assumed.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    names: tuple[str, ...] = ()
    default: bool = False
    source: str = ""
    notes: tuple[Note, ...] = ()
    guessed: bool = False
    alternatives: tuple[ExampleInputs, ...] = ()
    optional: tuple[str, ...] = ()

    def build(self, device: str = "meta", seed: int = 0) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of `forward`. On `meta` without values; elsewhere drawn from `seed`, and so the same each time.

        Floats are standard normal, whole numbers and bools 0 or 1. Tensors that were given stay where they are.
        """
        generator = torch.Generator().manual_seed(seed)
        args = tuple(_built_tensor(value, device, generator) for value in self.args)
        return args, {name: _built_tensor(value, device, generator) for name, value in self.kwargs.items()}

    def describe(self) -> tuple[str, ...]:
        """One line for each argument: `x: 1x3x224x224 float32`, `images: list of 1 x [3x512x512] float32`."""
        names = [*self.names, *(f"input {index}" for index in range(len(self.names), len(self.args)))]
        every = [*zip(names, self.args, strict=False), *self.kwargs.items()]
        return tuple(f"{name}: {_shape_and_dtype(value)}" for name, value in every)


def make_inputs(
    target: Target,
    specs: Sequence[str | InputSpec] = (),
    batch: int | None = None,
    dtype: str | None = None,
    inputs_from: str | None = None,
    model: nn.Module | None = None,
) -> ExampleInputs:
    """The example inputs for `target`. `model` is the built model, where there is one: it spares building it again.

    `dtype` is that of the floating inputs whose spec says none; without it, that of the model's own parameters.
    Raises BadInput for specs that do not fit `forward`, or when nothing tells what the model takes.
    """
    model = model if model is not None else target.build().module
    parsed = [_as_number(parse_input(spec) if isinstance(spec, str) else spec, model) for spec in specs]
    if batch is not None and batch < 1:
        raise BadInput(f"--batch {batch}: a batch has at least one example", "for example --batch 8")
    floating = parse_floating(dtype) if dtype else ""
    if inputs_from is not None:
        if parsed or batch is not None:
            raise BadInput("--inputs-from says all of the input", "leave out --input and --batch")
        from modelprobe.model.inputs.from_function import load_inputs_function

        args, kwargs, notes = load_inputs_function(inputs_from)
        return _given_specs(model, args, kwargs, notes, inputs_from, floating)
    floating = floating or _own_dtype(model)
    if parsed:
        return _requested_inputs(target, model, parsed, batch, floating)
    return _default(target, model, batch, floating)


def _default(target: Target, model: nn.Module, batch: int | None, floating: str) -> ExampleInputs:
    wanted = target.declared_inputs(model)
    if wanted is None:
        raise nothing_tells(target.name, model)
    if wanted.kind == GIVEN:
        if batch is not None:
            raise BadInput(f"--batch cannot change {wanted.source}", EXAMPLES)
        from modelprobe.model.inputs.from_function import split_file_function

        args, kwargs, _ = split_file_function(wanted.values, wanted.source)
        note = Note(f"the input is {wanted.source}", Level.INFO)
        found = _given_specs(model, args, kwargs, (note,), wanted.source, "")
        return ExampleInputs(found.args, found.kwargs, found.names, True, wanted.source, found.notes)
    if wanted.kind == NAMED:
        from modelprobe.model.inputs.named import named_sets

        return named_sets(model, wanted, {}, batch, floating)
    if wanted.kind == UNDECLARED and batch is not None:
        raise BadInput(f"--batch {batch}: forward of {target.name} takes no inputs", "leave --batch out")
    spec = InputSpec(None, wanted.shape, wanted.dtype or floating)
    args = () if wanted.kind == UNDECLARED else _forward_arguments([spec], wanted, batch)
    names = positional(model, len(args))
    guessed = any(note.level is Level.ASSUMED for note in wanted.notes)
    return ExampleInputs(
        args, names=names, default=True, source=wanted.source, notes=wanted.notes, guessed=guessed,
        optional=wanted.optional,
    )  # fmt: skip


def _requested_inputs(
    target: Target, model: nn.Module, specs: Sequence[InputSpec], batch: int | None, floating: str
) -> ExampleInputs:
    declared = target.declared_inputs(model)
    if declared is not None and declared.kind == NAMED:
        from modelprobe.model.inputs.named import given_names, named_sets

        given = given_names(declared, specs, batch, floating)
        tensors = {name for name, value in given.items() if isinstance(value, InputSpec)}
        if any(tensors <= set(names) for names in declared.values):
            return named_sets(model, declared, given, batch, floating)
    unnamed = [spec for spec in specs if spec.name is None]
    wanted = (declared or guess.from_first_layer(model)) if unnamed else None
    full = [InputSpec(None, completed(spec, wanted), _input_dtype(spec, wanted, floating)) for spec in unnamed]
    kwargs: dict[str, Any] = {}
    for spec in specs:
        if spec.name in kwargs:
            raise BadInput(f"--input {spec.name} was given twice", "leave one of the two out")
        if spec.name is not None and spec.literal is not None:
            kwargs[spec.name] = spec.literal[0]
        elif spec.name is not None:
            kwargs[spec.name] = InputSpec(None, batched(spec.shape, batch), spec.dtype or floating)
    args = _forward_arguments(full, wanted, batch)
    check_call(model, len(args), tuple(kwargs))
    names = positional(model, len(args))
    example = ExampleInputs(
        args, MappingProxyType(kwargs), names, notes=_channel_notes(unnamed, wanted), source="--input"
    )
    short = next((number for number, spec in enumerate(unnamed) if _may_be_an_image(spec, wanted)), None)
    if short is None or batch not in (None, unnamed[short].shape[0]):
        return example
    return _as_it_stands(example, unnamed, short)


def _may_be_an_image(spec: InputSpec, wanted: DeclaredInput | None) -> bool:
    """Whether two numbers are height and width, or the whole shape, as nothing tells."""
    return len(spec.shape) == 2 and (wanted is None or wanted.kind in (GIVEN, UNDECLARED))


def _as_it_stands(image: ExampleInputs, unnamed: Sequence[InputSpec], number: int) -> ExampleInputs:
    """Two numbers as the whole shape, and as an image where the model does not take that."""
    exact = "x".join(map(str, unnamed[number].shape))
    text = f"--input {exact} was taken as the whole shape: --input 1x3x{exact} is an image of 3 channels"
    args = list(image.args)
    args[number] = replace(args[number], shape=unnamed[number].shape)
    return replace(image, args=tuple(args), notes=(Note(text, Level.ASSUMED),), alternatives=(image,))


def _as_number(spec: InputSpec, model: nn.Module) -> InputSpec:
    """`keep=1` as the number 1 where forward's own default of `keep` is a number, or its annotation says so."""
    if spec.name is None or spec.dtype or spec.literal is not None or len(spec.shape) != 1:
        return spec
    for parameter in guess.parameters_of_forward(model) or ():
        if parameter.name == spec.name:
            plain = isinstance(parameter.default, (int, float)) or parameter.annotation in (int, float, "int", "float")
            return InputSpec(spec.name, (), literal=(spec.shape[0],)) if plain else spec
    return spec


def _forward_arguments(full: Sequence[InputSpec], wanted: DeclaredInput | None, batch: int | None) -> tuple[Any, ...]:
    """The positional arguments: a list of images, a pair of images, or each spec for itself; with the batch."""
    if wanted is not None and wanted.kind == IMAGES:
        return (_images(full, batch),) if full else ()
    dim = wanted.batch_dim if wanted is not None else 0
    each = tuple(
        InputSpec(None, bounded(batched(spec.shape, batch, min(dim, len(spec.shape) - 1)), "the input"), spec.dtype)
        for spec in full
    )
    return each * 2 if wanted is not None and wanted.kind == IMAGE_PAIR and len(each) == 1 else each


def _images(full: Sequence[InputSpec], batch: int | None) -> list[InputSpec]:
    """The list that a detector takes: a spec of four sizes is as many images, any other is one."""
    images: list[InputSpec] = []
    for spec in full:
        count, shape = (spec.shape[0], spec.shape[1:]) if len(spec.shape) == 4 else (1, spec.shape)
        images += [InputSpec(None, bounded(shape, "the input"), spec.dtype)] * min(count, _MOST_IMAGES)
    if max(len(images), batch or 0) >= _MOST_IMAGES:
        raise BadInput(f"a list of {_MOST_IMAGES} images or more cannot be made", EXAMPLES)
    if batch is not None and len(images) not in (1, batch):
        raise BadInput(f"--batch {batch} contradicts --input for {len(images)} images", "leave one of the two out")
    return images * batch if batch is not None and len(images) == 1 else images


def _input_dtype(spec: InputSpec, wanted: DeclaredInput | None, floating: str) -> str:
    return spec.dtype or (wanted.dtype if wanted is not None else "") or floating


def _channel_notes(unnamed: Sequence[InputSpec], wanted: DeclaredInput | None) -> tuple[Note, ...]:
    short = next((spec for spec in unnamed if is_short(spec)), None)
    if short is None:
        return ()
    if wanted is None or wanted.kind in (GIVEN, UNDECLARED):
        return (_image_note(short),)
    if wanted.kind == TENSOR and len(short.shape) >= len(wanted.shape):
        return ()
    rest = "the rest of the shape" if wanted.kind == TENSOR else "the number of channels"
    from_layer = Note(f"{rest} was read from {wanted.source}", Level.INFO)
    return (from_layer,) if any(note.level is Level.ASSUMED for note in wanted.notes) else wanted.notes


def _image_note(short: InputSpec) -> Note:
    exact = "x".join(map(str, short.shape))
    text = f"--input {exact} was taken as an image of 3 channels: NAME={exact} is a tensor of exactly that shape"
    return Note(text, Level.ASSUMED)


def _given_specs(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    notes: tuple[Note, ...],
    source: str,
    floating: str,
) -> ExampleInputs:
    check_call(model, len(args), tuple(kwargs))
    settled = tuple(_settled(value, floating) for value in args)
    named = {name: _settled(value, floating) for name, value in kwargs.items()}
    return ExampleInputs(settled, MappingProxyType(named), positional(model, len(args)), False, source, notes)


def _settled(value: Any, floating: str) -> Any:
    """A value as it is; a tensor without values (on meta) as the spec to make it from, a floating one in `--dtype`."""
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            own = str(value.dtype).removeprefix("torch.")
            return InputSpec(None, tuple(value.shape), floating if floating and value.is_floating_point() else own)
        return value.to(_torch_dtype(floating)) if floating and value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _settled(item, floating) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_settled(item, floating) for item in value)
    return value


def check_call(model: nn.Module, count: int, names: Sequence[str]) -> None:
    """Raises BadInput when `forward` cannot be called with `count` positional arguments and these names."""
    parameters = guess.parameters_of_forward(model)
    if parameters is None or getattr(type(model), "forward", None) is nn.Module.forward:
        return  # without a forward of its own, calling it says so
    kinds = {parameter.kind for parameter in parameters}
    known = [
        p.name for p in parameters if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    listing = ", ".join(known) or "nothing"
    for name in names:
        if name not in known and inspect.Parameter.VAR_KEYWORD not in kinds:
            raise BadInput(f"forward has no argument {name!r}", f"it takes: {listing}")
        if name in known[:count]:
            raise BadInput(f"{name} is given twice: by name, and by an input without one", f"forward takes: {listing}")
    if count > len(known) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        were = "1 input was" if count == 1 else f"{count} inputs were"
        raise BadInput(f"{were} given, forward takes {len(known)}", f"it takes: {listing}")
    needed = guess.required_inputs(model) or ()
    missing = [name for name in needed if name not in known[:count] and name not in names]
    if missing:
        hint = " ".join(f"--input {name}=1x16" for name in missing)
        raise BadInput(
            f"forward also needs: {', '.join(missing)}", f"for example {hint}, with :int64 for whole numbers"
        )


def nothing_tells(label: str, model: nn.Module) -> BadInput:
    needed = guess.required_inputs(model) or ()
    if len(needed) > 1:
        hint = " ".join(f"--input {name}=1x16" for name in needed)
        return BadInput(
            f"{label} takes {len(needed)} inputs ({', '.join(needed)}): say their shapes",
            f"for example {hint}, with :int64 for whole numbers",
        )
    return BadInput(f"nothing tells what {label} takes: say it with --input", EXAMPLES)


def positional(model: nn.Module, count: int) -> tuple[str, ...]:
    parameters = guess.parameters_of_forward(model) or []
    ordered = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in ordered)[:count]


def _own_dtype(model: nn.Module) -> str:
    """The dtype of the first floating parameter, which the model's inputs are expected in."""
    for parameter in model.parameters():
        name = str(parameter.dtype).removeprefix("torch.")
        if name in FLOATING_DTYPES:
            return name
    return "float32"


def _torch_dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise BadInput(f"the installed torch has no dtype {name}")
    return found


def _built_tensor(value: Any, device: str, generator: torch.Generator) -> Any:
    if isinstance(value, InputSpec):
        return _example_tensor(value, device, generator)
    if type(value) in (list, tuple):
        return type(value)(_built_tensor(item, device, generator) for item in value)
    if isinstance(value, dict):
        return {key: _built_tensor(item, device, generator) for key, item in value.items()}
    return value


def _example_tensor(spec: InputSpec, device: str, generator: torch.Generator) -> torch.Tensor:
    dtype = _torch_dtype(spec.dtype)
    if torch.device(device).type == "meta":
        return torch.empty(spec.shape, dtype=dtype, device="meta")
    if dtype.is_complex:
        drawn = torch.randn(spec.shape, dtype=torch.complex64, generator=generator)
    elif dtype.is_floating_point:
        drawn = torch.randn(spec.shape, generator=generator)
    else:
        drawn = torch.randint(0, _SMALL, spec.shape, generator=generator)
    return drawn.to(device=device, dtype=dtype)


def _shape_and_dtype(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return str(InputSpec(None, shape_of(value), str(value.dtype).removeprefix("torch.")))
    if isinstance(value, (list, tuple)) and value:
        first = value[0]
        if isinstance(first, InputSpec) and all(item == first for item in value):
            return f"list of {len(value)} x [{'x'.join(map(str, first.shape))}] {first.dtype}"
        return f"{type(value).__name__} of {', '.join(_shape_and_dtype(item) for item in value)}"
    if isinstance(value, dict):
        return f"dict of {', '.join(f'{key}: {_shape_and_dtype(item)}' for key, item in value.items())}"
    if isinstance(value, (InputSpec, int, float, bool, str)):
        return str(value)
    inside = [f"{name}: {_shape_and_dtype(tensor)}" for name, tensor in given_leaves(value)]
    more = f", {len(inside) - 2} more" if len(inside) > 2 else ""
    return type(value).__name__ + (f" of {', '.join(inside[:2])}{more}" if inside else "")
