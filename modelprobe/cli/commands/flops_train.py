"""`modelprobe flops --train`: what a training step costs: forward, backward, recomputation, the optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from modelprobe.cli import options
from modelprobe.console import stdout_kept
from modelprobe.errors import BadInput
from modelprobe.model.build import Question, Subject, build, recorded
from modelprobe.report.blocks import Level, Note

if TYPE_CHECKING:
    from modelprobe.cost.training import TrainingResult
    from modelprobe.tracing.training import TrainingTrace

OPTIMIZERS = ("sgd", "sgd-momentum", "adam", "adamw")
TRAINING = "Training"

TrainOpt = Annotated[
    bool,
    typer.Option(
        "--train",
        metavar=options.FLAG,
        help="Count a training step: forward, the true backward, what checkpointing computes again, the optimiser.",
        rich_help_panel=TRAINING,
    ),
]

FreezeOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze",
        metavar="PATTERN[,PATTERN]",
        help="With --train: parameters that do not train, 'layer1.*,bn*'. Modules or parameters, with wildcards.",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]

OptimizerOpt = Annotated[
    str | None,
    typer.Option(
        "--optimizer",
        metavar="|".join(OPTIMIZERS),
        help="With --train: whose update is counted. Left out: sgd.",
        show_default=False,
        rich_help_panel=TRAINING,
    ),
]


def check(train: bool, freeze: Sequence[str] | None, optimizer: str | None, others: Mapping[str, bool]) -> None:
    """Raises BadInput for options that mean nothing together. `others` says which were given of those that would."""
    if not train:
        given = {"--freeze": bool(freeze), "--optimizer": optimizer is not None}
        lone = next((name for name, there in given.items() if there), None)
        if lone is not None:
            raise BadInput(f"{lone} is for --train", f"add --train, or leave {lone} out")
        return
    if optimizer is not None and optimizer not in OPTIMIZERS:
        raise BadInput(f"--optimizer {optimizer!r} is not known", f"choose one of {', '.join(OPTIMIZERS)}")
    wrong = next((name for name, there in others.items() if there), None)
    if wrong is not None:
        raise BadInput(
            f"--train counts a training step by modelprobe's own rules: it takes no {wrong}", f"leave {wrong} out"
        )


def cost(
    question: Question,
    freeze: Sequence[str] | None,
    optimizer: str | None,
    by: str,
    depth: int | None,
    top: int | None,
) -> TrainingResult:
    """The training step of the target."""
    from modelprobe.cost.training import count_training

    found = training_of(build(question), freeze or ())
    return count_training(found, optimizer=optimizer or OPTIMIZERS[0], by=by, depth=depth, top=top)


@stdout_kept()
def training_of(subject: Subject, freeze: Sequence[str] = ()) -> TrainingTrace:
    """The recorded step; of two examples where batch norm refuses the one that nobody asked for."""
    from modelprobe.cost.training import frozen_names
    from modelprobe.model.inputs.training_targets import with_targets
    from modelprobe.tracing.training import LoneValueError, record_training

    recording = partial(record_training, freeze=frozen_names(subject.model, freeze))
    try:
        return recorded(subject, recording, "train", with_targets)
    except LoneValueError:
        asked = subject.question
        if asked.batch is not None or asked.inputs or asked.inputs_from is not None:
            raise
    text = "A batch of two was assumed: batch norm in training mode refuses the single values that one example gives."
    note = Note(text, Level.ASSUMED)
    pair = replace(subject, question=replace(asked, batch=2), notes=(*subject.notes, note))
    return recorded(pair, recording, "train", with_targets)
