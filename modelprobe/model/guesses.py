"""Inputs that nobody gave: the first of several that a model takes, and the question when none fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from modelprobe.errors import BadInput, ModelRaised, ProbeError
from modelprobe.model.inputs.example import ExampleInputs
from modelprobe.model.inputs.first_layer import from_first_layer, parameters_of_forward, without_wrappers
from modelprobe.model.inputs.spec import InputSpec
from modelprobe.tracing.failures import LoneValueError, NeedsValuesError
from modelprobe.tracing.records import Trace


def first_that_runs(example: ExampleInputs, run: Callable[[ExampleInputs], object]) -> ExampleInputs:
    """Of `example` and its alternatives the first that `run` takes; the likeliest when it takes none.

    `run` raises NeedsValuesError where `meta` can tell no further: that one is taken when no other runs.
    """
    reached: ExampleInputs | None = None
    for candidate in (example, *example.alternatives):
        try:
            run(candidate)
        except NeedsValuesError:
            reached = reached or candidate
        except ProbeError:
            continue
        else:
            return candidate
    return reached or example


def question(label: str, model: nn.Module, example: ExampleInputs, raised: ModelRaised) -> ProbeError:
    """What to ask when the model does not take an input that was our guess: it is not the model's fault.

    A model without a `forward` takes none, and a batch of one is no guess of a shape: such an error is given back.
    """
    if isinstance(raised, LoneValueError) or 'missing the required "forward"' in raised.message:
        return raised
    names = [p.name for p in parameters_of_forward(model) or [] if p.kind is not p.VAR_KEYWORD]
    takes = f"forward takes {', '.join(names[:8])}{', …' if len(names) > 8 else ''}"
    guessed = ", ".join(example.describe())
    return BadInput(
        f"{label} did not run on an input that was guessed, {guessed}: {raised.message}",
        f"say what it takes: --input {names[0] if names else 'x'}=SHAPE, with :int64 for whole numbers, or "
        f"--inputs-from; {takes}",
    )


def question_of_nothing(
    label: str, model: nn.Module, example: ExampleInputs, run: Callable[[ExampleInputs], Trace]
) -> BadInput:
    """What to ask when a forward whose arguments are all optional was given none and did nothing."""
    takes = ", ".join(example.optional)
    declared = from_first_layer(without_wrappers(model))
    for name in example.optional if declared is not None else ():
        assert declared is not None
        spec = InputSpec(None, declared.shape, declared.dtype or "float32")
        try:
            ran = bool(run(replace(example, kwargs={name: spec}, optional=())).ops)
        except ProbeError:
            continue
        if ran:
            shape = "x".join(map(str, spec.shape)) + (":int64" if declared.dtype == "int64" else "")
            return BadInput(
                f"{label} does nothing without an input: forward takes {takes}, all of them optional",
                f"say which it is given: for example --input {name}={shape}",
            )
    return BadInput(
        f"{label} does nothing without an input: forward takes {takes}, all of them optional",
        f"say which it is given, such as --input {example.optional[0]}=SHAPE",
    )
