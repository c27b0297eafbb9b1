"""What a command is asked about: the target built, its example inputs made, its forward pass recorded."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modelprobe.errors import BadInput, ProbeError
from modelprobe.report import Level, Note

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.model.inputs import ExampleInputs
    from modelprobe.model.target import Target
    from modelprobe.tracing.ledger import ModuleTree, Trace


@dataclass(frozen=True)
class Question:
    """What the command line said about the target and its input."""

    target: str
    settings: Sequence[str] = ()
    inputs: Sequence[str] = ()
    inputs_from: str | None = None
    batch: int | None = None
    dtype: str | None = None
    device: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Subject:
    """A target that was built, on `meta` unless a device was asked for."""

    question: Question
    target: Target
    model: nn.Module
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tree(self) -> ModuleTree:
        """The modules, parameters and buffers."""
        from modelprobe.tracing.tree import read_tree

        return read_tree(self.model)


def build(question: Question) -> Subject:
    """Resolve and build the target. Raises ProbeError for whatever stands in the way."""
    from modelprobe.analyzers.env import brief
    from modelprobe.model.sizes import resize
    from modelprobe.model.target import resolve

    target = resize(resolve(question.target, question.settings), question.inputs)
    model, notes = _built(target, question, question.device or "meta")
    env = {
        **brief(),
        "target": question.target,
        "model": target.name,
        "origin": target.origin,
        "settings": dict(target.given),
        "device": question.device or "meta",
        "mode": "eval",
        "seed": question.seed,
    }
    return Subject(question, target, model, (*target.notes, *notes), env)


def _built(target: Target, question: Question, device: str) -> tuple[nn.Module, tuple[Note, ...]]:
    from modelprobe.model.specs import parse_dtype

    _check_device(device)
    built = target.build(device, question.seed)
    if not question.dtype:
        return built.module, built.notes
    import torch

    dtype = getattr(torch, parse_dtype(question.dtype))
    if not dtype.is_floating_point:
        raise BadInput(f"--dtype {question.dtype}: weights are floating-point", "for example --dtype bfloat16")
    # `.to` works in place: an instance of the user's is not ours to change.
    module = copy.deepcopy(built.module) if target.is_instance else built.module
    return module.to(dtype), built.notes


def _check_device(device: str) -> None:
    import torch

    try:
        kind = torch.device(device).type
        if kind != "meta":
            torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise BadInput(
            f"--device {device} cannot be used: {reason}", "meta (no weights needed), cpu, cuda:0"
        ) from error


def record(subject: Subject, *, train: bool = False) -> Trace:
    """One recorded forward pass: on `meta`; for real on the CPU with seeded weights when the model needs values."""
    from modelprobe.model.inputs import make_inputs
    from modelprobe.tracing.recorder import NeedsValuesError, trace

    asked = subject.question
    example = make_inputs(
        subject.target, asked.inputs, asked.batch, asked.dtype, asked.inputs_from, model=subject.model
    )
    env = {**subject.env, "inputs": example.describe(), "mode": "train" if train else "eval"}
    notes = (*subject.notes, *example.notes)
    device = asked.device or "meta"
    args, kwargs = example.build(device, asked.seed)
    where = "meta" if device == "meta" else "real"
    try:
        return trace(subject.model, *args, kwargs=kwargs, device=where, train=train, notes=notes, env=env)
    except NeedsValuesError as needs:
        return _record_for_real(subject, example, train, notes, env, needs)


def _record_for_real(
    subject: Subject, example: ExampleInputs, train: bool, notes: tuple[Note, ...], env: Mapping[str, Any], needs: Any
) -> Trace:
    from modelprobe.output import working
    from modelprobe.tracing.recorder import real_run_note, trace

    asked = subject.question
    with working(f"running {subject.target.name} for real on the CPU"):
        model, _ = _built(subject.target, asked, "cpu")
        args, kwargs = example.build("cpu", asked.seed)
        said = (*notes, real_run_note(needs, "on the CPU with seeded random weights and input"))
        return trace(model, *args, kwargs=kwargs, device="real", train=train, notes=said, env={**env, "device": "cpu"})


def changed_by_training(subject: Subject) -> tuple[frozenset[str] | None, tuple[Note, ...]]:
    """The buffers that a train-mode forward writes to, and notes; None when no forward could be recorded.

    Without a given batch the forward is of two examples: batch statistics of one are refused by batch norm.
    """
    if not any(entry.role == "buffer" for entry in subject.tree.state):
        return frozenset(), subject.notes
    asked = subject.question
    if asked.batch is None and not asked.inputs and not asked.inputs_from:
        subject = replace(subject, question=replace(asked, batch=2))
    try:
        found = record(subject, train=True)
    except ProbeError as error:
        reason = f"Whether training changes a buffer was not observed: {error.message}."
        return None, (*subject.notes, Note(reason, Level.WARNING))
    return found.changed, found.notes
