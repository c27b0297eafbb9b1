"""`diverge` of two targets of the command line: both loaded, given the same weights where they have none, and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from modelprobe.checkpoint.file_names import names_weights
from modelprobe.console import stdout_kept, working
from modelprobe.environment import brief
from modelprobe.errors import BadInput
from modelprobe.inside.divergence.find import diverge
from modelprobe.inside.divergence.result import DivergenceResult
from modelprobe.inside.divergence.shared_weights import MOSTLY, share_weights
from modelprobe.inside.divergence.watched_run import RunSide
from modelprobe.model.build import LoadedModel, TargetRequest, load_model, record_with
from modelprobe.model.target import Target, is_configuration
from modelprobe.model.weights.chosen import PRETRAINED, RANDOM
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.tensors import moved, with_leaves


class _Given(NamedTuple):
    """What a run is given, as the machinery of inputs makes it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    notes: tuple[Note, ...]
    env: Mapping[str, Any]


def _what_is_given(
    model: nn.Module, /, *args: Any, kwargs: Mapping[str, Any], device: str, notes: Sequence[Note], env: Any
) -> _Given:
    return _Given(args, kwargs, tuple(notes), env)


@stdout_kept()
def diverge_targets(
    a: TargetRequest, b: TargetRequest, *, train: bool = False, devices: tuple[str, str] = ("cpu", "cpu"),
    python_b: str | None = None,
) -> DivergenceResult:  # fmt: skip
    """Compare two targets on the inputs of the first, each on its device. On a GPU TF32 is off.

    With `python_b`, the path of another Python, B is built and run there. Raises ProbeError for what stands in the way.
    """
    if train and a.batch is None and not a.inputs and a.inputs_from is None:
        a = replace(a, batch=2)
    names = (a.target, b.target) if a.target != b.target else (f"{a.target} (A)", f"{b.target} (B)")
    first, second = _loaded(a), _loaded(b)
    notes = [*_same_weights(first, second, names)]
    for name, loaded in zip(names, (first, second), strict=True):
        notes += [replace(note, text=f"{name}: {note.text}") for note in loaded.notes if "--weights" not in note.text]
    models = [in_dtype(loaded) for loaded in (first, second)]
    given = record_with(replace(first, model=models[0], notes=()), _what_is_given, "train" if train else "eval")
    notes += [note for note in given.notes if note not in notes]
    plain = train and len({torch.device(device).type for device in devices}) > 1
    if plain:
        text = (
            "Of a training step on two kinds of devices the plain kernels are compared: no cuDNN, no fused attention."
        )
        notes.append(Note(text, Level.INFO))
    sides = []
    for loaded, model, device in zip((first, second), models, devices, strict=True):
        args, kwargs = moved(_inputs_of(loaded, given), device)
        sides.append(RunSide(model.to(device), args, kwargs, train, a.seed, plain_kernels=plain))
    there: dict[str, str] = {}
    with working(f"running {names[0]} and {names[1]}"), _without_tf32(devices):
        if python_b is None:
            found = diverge(sides[0], sides[1], names, notes)
        else:
            from modelprobe.inside.divergence.other_python import OtherSide, diverge_in

            run = replace(sides[1], model=nn.Module())
            other = OtherSide(second.request, sides[1].model.state_dict(), run, devices[1])
            found, there = diverge_in(python_b, sides[0], other, names, notes)
    env = {
        **brief(), "a": _environment(first), "b": {**_environment(second), **there},
        "inputs": given.env.get("inputs", ()),
        **({"devices": devices} if devices != ("cpu", "cpu") else {}),
    }  # fmt: skip
    return replace(found, env=env)


@contextmanager
def _without_tf32(devices: Sequence[str]) -> Iterator[None]:
    """Let products and convolutions in float32 be computed in float32, where a GPU may round their operands."""
    if not any(device.startswith("cuda") for device in devices):
        yield
        return
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = products.allow_tf32
    kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    try:
        products.allow_tf32 = False
        with cudnn.flags(**kept, allow_tf32=False):
            yield
    finally:
        products.allow_tf32 = before


def _loaded(request: TargetRequest) -> LoadedModel:
    """The target with the weights that it has itself; nothing is downloaded."""
    from modelprobe.model.build import resolve_target
    from modelprobe.model.sources import ZooSource

    has_own = names_weights(request.target) and not is_configuration(request.target)
    if not has_own:
        target, _ = resolve_target(request)
        has_own = target.is_instance or (not isinstance(target.source, ZooSource) and _same_for_any_seed(target))
    return load_model(replace(request, weights=PRETRAINED if has_own else RANDOM))


def _same_for_any_seed(target: Target) -> bool:
    """Whether a factory of the user's makes the same weights whatever the seed: it loads them."""
    first, second = (_varied(target.build("cpu", seed).module) for seed in (0, 1))
    return bool(first) and any(name in second and torch.equal(value, second[name]) for name, value in first.items())


def _varied(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters but those of one value, such as fresh biases."""
    values = {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.numel() > 1}
    return {name: value for name, value in values.items() if not bool((value == value.flatten()[0]).all())}


def _drawn_alike(first: LoadedModel, second: LoadedModel) -> bool:
    """Whether two networks of the user's draw the same weights from one seed, but for what they do to a few."""
    from modelprobe.model.sources import ZooSource

    if any(isinstance(loaded.target.source, ZooSource) for loaded in (first, second)):
        return False  # two libraries begin their copies of a network differently
    one, other = _varied(first.model), _varied(second.model)
    equal = sum(name in other and torch.equal(value, other[name]) for name, value in one.items())
    return equal >= MOSTLY * max(len(one), len(other), 1)


def _environment(loaded: LoadedModel) -> dict[str, Any]:
    kept = ("target", "model", "origin", "settings", "seed")
    dtype = {"dtype": loaded.request.dtype} if loaded.request.dtype else {}
    return {**{key: loaded.env[key] for key in kept}, **dtype}


def _same_weights(first: LoadedModel, second: LoadedModel, names: tuple[str, str]) -> tuple[Note, ...]:
    assert first.weights is not None
    assert second.weights is not None
    if second.weights.kind == RANDOM:
        random = first.weights.kind == RANDOM
        if random and _drawn_alike(first, second):
            return (Note(f"Neither has weights of its own: both are made from seed {first.request.seed}.", Level.INFO),)
        said = share_weights(first.model, second.model, (first.target, second.target), names)
        if not random:
            return said
        seed = f"Neither has weights of its own: random ones of seed {first.request.seed} are used."
        return (Note(seed, Level.INFO), *said)
    if first.weights.kind == RANDOM:
        return share_weights(second.model, first.model, (second.target, first.target), names[::-1])
    return ()


def in_dtype(loaded: LoadedModel) -> nn.Module:
    """The model in the floating-point type that was asked for."""
    if loaded.request.dtype is None:
        return loaded.model
    from modelprobe.model.inputs.spec import parse_floating

    return loaded.model.to(getattr(torch, parse_floating(loaded.request.dtype)))


def _inputs_of(loaded: LoadedModel, given: _Given) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of A, floating ones in the type that this side computes in."""
    if loaded.request.dtype is None:
        return given.args, dict(given.kwargs)
    wanted = next((p.dtype for p in loaded.model.parameters() if p.is_floating_point()), None)

    def change(tensor: Tensor) -> Tensor:
        return tensor.to(wanted) if wanted is not None and tensor.is_floating_point() else tensor

    return with_leaves(given.args, change), with_leaves(dict(given.kwargs), change)


def find_divergence(
    a: nn.Module,
    b: nn.Module,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    train: bool = False,
    seed: int = 0,
) -> DivergenceResult:
    """The first operator at which `a(*inputs, **kwargs)` and `b(*inputs, **kwargs)` part; both are left as they were.

    Both run with the weights that they have, on the CPU or wherever those are. `train` compares a step: forward in
    training mode, and backward from a fixed random weighting of the outputs. Values of A's operators are kept in a
    temporary file, so that memory stays at about one forward. The result's `verdict` is `equal` or `diverges`, its
    `culprit` has `path_a`, `path_b`, `operator`.
    Raises BadInput when the two have no operator in common, or both raise.
    """
    for side, model in (("a", a), ("b", b)):
        if not isinstance(model, nn.Module):
            raise BadInput(f"{side} is {type(model).__name__}, no torch.nn.Module", "give two models and their inputs")
    named = dict(kwargs or {})
    sides = [RunSide(model, inputs, named, train, seed) for model in (a, b)]
    labels = (type(a).__name__, type(b).__name__)
    if labels[0] == labels[1]:
        labels = (f"{labels[0]} (A)", f"{labels[1]} (B)")
    return replace(diverge(sides[0], sides[1], labels), env=brief())
