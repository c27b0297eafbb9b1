"""Recording a training step of a target that a command was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from torch import nn

from modelprobe.console import stdout_kept
from modelprobe.cost.patterns import matching, split_patterns
from modelprobe.model.build import LoadedModel, Recording, record_with
from modelprobe.model.inputs.training_targets import with_targets
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.failures import LoneValueError
from modelprobe.tracing.module_tree import read_tree
from modelprobe.tracing.prepare import unwrapped
from modelprobe.tracing.step_records import TrainingTrace
from modelprobe.tracing.training import record_training

T = TypeVar("T")


@stdout_kept()
def record_training_step(loaded: LoadedModel, freeze: Sequence[str] = ()) -> TrainingTrace:
    """The recorded step. `freeze` holds patterns such as `layer1.*`.

    Raises BadInput when nothing would train, ModelRaised.
    """
    return trained_with(loaded, partial(record_training, freeze=frozen_names(loaded.model, freeze)))


def trained_with(loaded: LoadedModel, recording: Recording[T]) -> T:
    """What `recording` makes of a step; of two examples where batch norm refuses the one that nobody asked for."""
    try:
        return record_with(loaded, recording, "train", with_targets)
    except LoneValueError:
        asked = loaded.request
        if asked.batch is not None or asked.inputs or asked.inputs_from is not None:
            raise
    note = Note("A batch of 2 was assumed: batch norm cannot train on the single values of one example.", Level.ASSUMED)
    pair = replace(loaded, request=replace(asked, batch=2), notes=(*loaded.notes, note))
    return record_with(pair, recording, "train", with_targets)


def frozen_names(model: nn.Module, freeze: Sequence[str]) -> frozenset[str]:
    """The parameters that patterns such as `"layer1.*,bn*"` name. Raises BadInput for one that names nothing."""
    inner, _ = unwrapped(model)
    paths = [entry.path for entry in read_tree(inner).state if entry.role == "parameter"]
    return matching(paths, split_patterns(freeze))
