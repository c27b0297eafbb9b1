"""What a command is asked about: the target resolved and built, its example inputs made, its forward pass recorded."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from modelprobe.checkpoint.file_names import names_weights
from modelprobe.console import stdout_kept, working
from modelprobe.errors import BadInput, ModelRaised, ProbeError, one_line
from modelprobe.report.blocks import Level, Note

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.checkpoint.records import Checkpoint
    from modelprobe.model.inputs.example import ExampleInputs
    from modelprobe.model.target import Target
    from modelprobe.model.weights.chosen import ModelWeights
    from modelprobe.tracing.recorder import Follower
    from modelprobe.tracing.records import ModuleTree, Trace

_MOST_FOR_A_GUESS = 2**30
"""Bytes of weights up to which an input that is our guess, and that `meta` refuses, is tried for real."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Recording(Protocol[T_co]):
    """Runs a model in one way or another and returns what happened, as `tracing.recorder.trace` does."""

    def __call__(
        self,
        model: nn.Module,
        /,
        *args: Any,
        kwargs: Mapping[str, Any],
        device: str,
        notes: Sequence[Note],
        env: Mapping[str, Any],
    ) -> T_co:
        """What happened."""


@dataclass(frozen=True)
class TargetRequest:
    """What the command line said about the target and its input.

    `weights` is None where values do not matter; else `pretrained`, `random` or a file (`model/weights/chosen.py`).
    `call` names the method that is run, `redirect` keeps the model on its device whatever its code says.
    """

    target: str
    settings: Sequence[str] = ()
    inputs: Sequence[str] = ()
    inputs_from: str | None = None
    batch: int | None = None
    dtype: str | None = None
    device: str | None = None
    seed: int = 0
    arch: str | None = None
    unsafe_load: bool = False
    weights: str | None = None
    call: str = "forward"
    redirect: bool = False


@dataclass(frozen=True)
class LoadedModel:
    """A target that was built: on `meta` unless a device was asked for; with `weights`, on the CPU in eval mode.

    `entry` is torchvision's for its published weights, which says how images are prepared.
    """

    request: TargetRequest
    target: Target
    model: nn.Module
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(default_factory=dict)
    fused: bool = False
    weights: ModelWeights | None = None
    entry: Any = None

    @property
    def tree(self) -> ModuleTree:
        """The modules, parameters and buffers."""
        from modelprobe.tracing.module_tree import read_tree

        return read_tree(self.model)


@stdout_kept()
def load_model(request: TargetRequest) -> LoadedModel:
    """Resolve and build the target. Raises ProbeError for whatever stands in the way."""
    if request.weights is not None:
        from modelprobe.model.weights.chosen import load_with_weights

        return load_with_weights(request)
    from modelprobe.model.inputs.spec import parse_floating, parse_input

    # What is wrong on the command line is said before anybody's code is run.
    specs = [parse_input(text) for text in request.inputs]
    if request.dtype is not None:
        parse_floating(request.dtype)
    named, checkpoint = resolve_target(request)
    target = named
    if specs:
        from modelprobe.model.inputs.sizes import resize

        target = resize(named, specs)
    device = "meta"
    if request.device is not None:
        from modelprobe.model.devices import checked_device

        device = checked_device(request.device)
    try:
        with working(f"building {target.name}"):
            model, notes = _built_on(target, request, device)
    except ModelRaised as raised:
        passed = ", ".join(f"{key}={value}" for key, value in target.given.items() if key not in named.given)
        if not passed:
            raise
        raise ModelRaised(raised.message, f"{passed} is from --input: choose another size") from raised.__cause__
    if checkpoint is not None and request.arch is not None:
        from modelprobe.model.weights.as_target import fit_notes

        notes = (*notes, *fit_notes(checkpoint, model, target))
    weights = checkpoint.path if checkpoint is not None else ""
    return LoadedModel(
        request, target, model, (*target.notes, *notes), environment_of(request, target, device, weights)
    )


def environment_of(request: TargetRequest, target: Target, device: str, weights: str) -> dict[str, Any]:
    """What it takes to reproduce an answer about this target."""
    from modelprobe.environment import brief

    return {
        **brief(),
        "target": request.target,
        **({"weights": weights} if weights else {}),
        "model": target.name,
        "origin": target.origin,
        "settings": dict(target.given),
        "device": device,
        "mode": "eval",
        "seed": request.seed,
        **({"call": request.call} if request.call != "forward" else {}),
        **({"redirected": True} if request.redirect else {}),
    }


def resolve_target(request: TargetRequest) -> tuple[Target, Checkpoint | None]:
    """The target, and the listing of the weight file if it is one."""
    from modelprobe.model.target import is_configuration, resolve

    is_file = names_weights(request.target) and not is_configuration(request.target)
    if not is_file and request.arch is None and not request.unsafe_load:
        return resolve(request.target, request.settings), None
    from modelprobe.model.weights.as_target import named_target  # which loads the reader

    return named_target(request.target, request.settings, request.arch, request.unsafe_load)


def _built_on(target: Target, request: TargetRequest, device: str) -> tuple[nn.Module, tuple[Note, ...]]:
    from modelprobe.model.inputs.spec import parse_floating

    with _memory_errors(device, target.name), _redirected(request, device):
        built = target.build(device, request.seed)
        module = built.module
        if target.is_instance and (request.dtype is not None or request.call != "forward"):
            module = copy.deepcopy(module)  # it is not ours to change
        if request.dtype is not None:
            import torch

            module = module.to(getattr(torch, parse_floating(request.dtype)))
    if request.call != "forward":
        from modelprobe.model.called_method import called_by

        module = called_by(module, request.call)
    return module, built.notes


def _redirected(request: TargetRequest, device: str) -> AbstractContextManager[Any]:
    """What builds and runs the model under `--redirect-device`."""
    if not request.redirect:
        return nullcontext()
    from modelprobe.model.redirect import RedirectedDevice

    return RedirectedDevice(device)


@contextmanager
def _memory_errors(device: str, what: str) -> Iterator[None]:
    """An allocation that fails in the body is a size too large for this machine: BadInput, not a defect."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = one_line(error)
        if not (isinstance(error, MemoryError) or "allocate" in text or "out of memory" in text):
            raise
        raise BadInput(
            f"not enough memory on {device} for {what}: {text}",
            "a smaller --input or --batch needs less; --device meta needs none, where the model allows it",
        ) from error


@stdout_kept()
def fuse_model(loaded: LoadedModel) -> LoadedModel:
    """The same with its model fused for inference. Raises BadInput when it has nothing to fuse."""
    from modelprobe.model.fusion import fused_for_inference

    model, done = fused_for_inference(loaded.model)
    if not done:
        raise BadInput(
            f"{loaded.target.name} has no module that can be fused",
            "--fused is for models that re-parameterise themselves, such as timm:repvgg_a0; leave it out",
        )
    note = Note(f"Fused for inference: {', '.join(done)}.", Level.INFO)
    env = {**loaded.env, "fused": True}
    return replace(loaded, model=model, notes=(*loaded.notes, note), env=env, fused=True)


@stdout_kept()
def record(
    loaded: LoadedModel, *, train: bool = False, functions: bool = False, follow: Follower | None = None
) -> Trace:
    """One recorded forward pass: on `meta`; for real on the CPU with seeded weights when the model needs values.

    `functions` records the calls of torch's Python functions as well; `follow` watches the forward, as in `trace`.
    """
    from modelprobe.tracing.recorder import trace

    recording = partial(trace, train=train, functions=functions, follow=follow)
    found = record_with(loaded, recording, "train" if train else "eval")
    if loaded.request.batch is None:
        return found
    from modelprobe.model.inputs.series import lost_batch

    return replace(found, notes=(*found.notes, *lost_batch(found, loaded.request.batch)))


def record_with(
    loaded: LoadedModel,
    recording: Recording[T],
    mode: str,
    complete: Callable[[nn.Module, ExampleInputs], ExampleInputs] | None = None,
) -> T:
    """What `recording` makes of the loaded with its example inputs, on `meta`, or for real where values are needed.

    `complete` adds to the inputs what the forward of that mode takes beside them.
    """
    from modelprobe.model.inputs.example import make_inputs

    asked = loaded.request
    example = make_inputs(loaded.target, asked.inputs, asked.batch, asked.dtype, asked.inputs_from, model=loaded.model)
    if example.alternatives:
        from modelprobe.model.guesses import first_that_runs

        example = first_that_runs(example, partial(_runs_on_meta, loaded))
    example = complete(loaded.model, example) if complete is not None else example
    env = {**loaded.env, "inputs": example.describe(), "mode": mode}
    if asked.call != "forward":
        example = replace(example, notes=(*example.notes, Note(f"What was run is {asked.call}().", Level.INFO)))
    loaded = replace(loaded, env=env, notes=(*loaded.notes, *example.notes))
    try:
        with working(f"running {loaded.target.name}"):
            found = _run_or_ask(loaded, example, recording)
        if example.optional and not getattr(found, "ops", True):
            from modelprobe.model.guesses import question_of_nothing

            raise question_of_nothing(loaded.target.name, loaded.model, example, partial(_runs_on_meta, loaded))
        return found
    except ModelRaised as raised:
        if not example.guessed:
            raise
        from modelprobe.model.guesses import question

        raise question(loaded.target.name, loaded.model, example, raised) from raised.__cause__


def _runs_on_meta(loaded: LoadedModel, example: ExampleInputs) -> Trace:
    """What ran, as far as `meta` can tell. Raises ProbeError when the model does not take the input."""
    from modelprobe.tracing.module_calls import is_script
    from modelprobe.tracing.recorder import trace

    if is_script(loaded.model):  # it cannot be told there
        script, _ = _built_on(loaded.target, loaded.request, "cpu")
        return _run_recording(replace(loaded, env={**loaded.env, "device": "cpu"}), script, example, trace)
    return _run_recording(replace(loaded, env={**loaded.env, "device": "meta"}), loaded.model, example, trace)


def _run_or_ask(loaded: LoadedModel, example: ExampleInputs, recording: Recording[T]) -> T:
    from modelprobe.tracing.failures import NeedsValuesError, fails_anywhere
    from modelprobe.tracing.module_calls import is_script

    asked = loaded.request
    if is_script(loaded.model) and loaded.env["device"] == "meta":  # its weights cannot be exchanged for shapes
        script, _ = _built_on(loaded.target, asked, "cpu")
        loaded = replace(loaded, model=script, env={**loaded.env, "device": "cpu"})
    try:
        return _run_recording(loaded, loaded.model, example, recording)
    except (NeedsValuesError, ModelRaised) as raised:
        # A device that was asked for in so many words is the only one that will do.
        if loaded.env["device"] != "meta" or asked.device == "meta" or fails_anywhere(raised):
            raise
        return _run_for_real(loaded, example, recording, raised)


def _run_for_real(loaded: LoadedModel, example: ExampleInputs, recording: Recording[T], raised: ProbeError) -> T:
    """Once more with weights, on the CPU: what was raised on `meta` may be for the lack of values or of a kernel."""
    from modelprobe.model.devices import free_memory
    from modelprobe.model.fusion import fused_for_inference
    from modelprobe.tracing.failures import real_run_note

    needed = sum(entry.nbytes for entry in loaded.tree.unique_state())
    if needed > free_memory():
        raised.message += f"; with {needed / 2**30:.1f} GiB of weights it cannot be run for real here"
        raise raised
    if example.guessed and isinstance(raised, ModelRaised) and needed > _MOST_FOR_A_GUESS:
        raise raised
    with working(f"running {loaded.target.name} for real on the CPU"):
        model, _ = _built_on(loaded.target, loaded.request, "cpu")
        if loaded.fused:
            model, _ = fused_for_inference(model)
        note = real_run_note(raised, "on the CPU with seeded random weights and input")
        real = replace(loaded, notes=_with_run(loaded.notes, note), env={**loaded.env, "device": "cpu"})
        return _run_recording(real, model, example, recording)


def _with_run(notes: Sequence[Note], run: Note) -> tuple[Note, ...]:
    """The notes and that of a real run, which says as well that the model was built for real, if it was."""
    from modelprobe.model.construct import BUILT_FOR_REAL

    others, reason = [], ""
    for note in notes:
        _, found, why = note.text.partition(BUILT_FOR_REAL)
        if found:
            reason = why
        else:
            others.append(note)
    if reason:
        text = run.text.replace("Run for real", "Built and run for real", 1)
        run = replace(run, text=f"{text} Its constructor raised on meta as well: {reason.rstrip('.')}.")
    return (*others, run)


def _run_recording(loaded: LoadedModel, model: nn.Module, example: ExampleInputs, recording: Recording[T]) -> T:
    """The model on the loaded's device. What it raises is told with the last line of the user's own code."""
    device = str(loaded.env["device"])
    with _memory_errors(device, f"the input {', '.join(example.describe())}"):
        args, kwargs = example.build(device, loaded.request.seed)
    where = "meta" if device == "meta" else "real"
    try:
        with _redirected(loaded.request, device):
            return recording(model, *args, kwargs=kwargs, device=where, notes=loaded.notes, env=loaded.env)
    except ModelRaised as raised:
        from modelprobe.model.user_code.failure import place

        home = getattr(loaded.target.source, "directory", None)
        line = place(raised.__cause__, home) if raised.__cause__ else ""
        hint = f"it was raised at {line}; {raised.hint}" if line else raised.hint
        raise type(raised)(raised.message, hint) from raised.__cause__


def changed_by_training(loaded: LoadedModel) -> tuple[ModuleTree, frozenset[str] | None, tuple[Note, ...]]:
    """The tree (of lazy modules with the sizes that a forward gave them), the buffers that a train-mode forward writes
    to (None when no forward could be recorded), and notes.

    Without a given batch the forward is of two examples: batch statistics of one are refused by batch norm. An input
    that was asked for and does not fit is an error; that the default one does not is a note.
    """
    if not any(entry.role == "buffer" for entry in loaded.tree.state):
        return loaded.tree, frozenset(), loaded.notes
    asked = loaded.request
    given = asked.batch is not None or bool(asked.inputs) or asked.inputs_from is not None
    # Two examples first; then what the model itself offers, which may have a batch of its own.
    requests = (asked,) if given else (replace(asked, batch=2), asked)
    problem: ProbeError | None = None
    for request in requests:
        try:
            found = record(replace(loaded, request=request), train=True)
        except ProbeError as error:
            problem = error
        else:
            return found.tree, found.changed, found.notes
    assert problem is not None
    if given:
        raise problem
    reason = f"Whether training changes a buffer was not observed: {problem.message}."
    return loaded.tree, None, (*loaded.notes, Note(reason, Level.WARNING))
