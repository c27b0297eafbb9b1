"""Predictions for images: the scores of a forward pass as probabilities, the largest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelprobe.console import progress, stdout_kept
from modelprobe.errors import BadInput, ModelRaised, ProbeError, one_line
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.tensors import leaves
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import find_images, gathered, open_image

SOFTMAX, SIGMOID, AS_GIVEN = "softmax", "sigmoid", "as given"


@dataclass(frozen=True, slots=True)
class Guess:
    """One class with its score as the model put it out, and the probability made of it."""

    rank: int
    index: int
    label: str
    probability: float
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best classes for one image; or the `error` that kept it from being looked at."""

    image: str
    guesses: tuple[Guess, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class PredictResult(Result):
    """The answer of `predict`. `classes` is how many the model tells apart, `rule` how scores became probabilities."""

    model: str
    weights: Mapping[str, Any]
    preprocessing: str
    classes: int
    labels: str
    rule: str
    predictions: tuple[Prediction, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any]
    facts: tuple[Fact, ...] = field(repr=False, default=())

    def report(self) -> Report:
        """One row for each class of each image; the image's name where there are several."""
        several = len(self.predictions) > 1
        columns = (
            *((Column("image", "Image"),) if several else ()),
            Column("label", "Class", wrap=several),
            Column("probability", "Probability", Unit.SHARE, bar=True),
            Column("index", "Index", Unit.COUNT, priority=2),
            Column("score", "Score", Unit.NUMBER, priority=3),
            Column("rank", "Rank", Unit.COUNT, priority=4),
        )
        rows = [row for prediction in self.predictions for row in _prediction_rows(prediction, several)]
        blocks: list[Block] = [Facts(self.facts), Table(columns, tuple(rows), key="predictions")]
        title = f"{self.model}: predictions"
        return Report(title, "modelprobe.predict/1", (*blocks, *self.notes), self.to_dict(), self.env)


def _prediction_rows(prediction: Prediction, several: bool) -> list[Row]:
    if prediction.error:
        return [Row((prediction.image, prediction.error, None, None, None, None), quiet=True)]
    return [
        Row((*((prediction.image,) if several else ()), one.label, one.probability, one.index, one.score, one.rank))
        for one in prediction.guesses
    ]


def scores_of(output: Any, model: str) -> Tensor:
    """The scores of one image, a vector of one number for each class, float64 on the CPU.

    The first tensor of the output is taken. Raises BadInput when it is no such vector: the model is no classifier.
    """
    found = next(iter(leaves(output)), None)
    if found is None:
        raise BadInput(f"{model} puts out no tensor: it is no classifier", "`modelprobe features` shows any model")
    tensor = found[1].detach()
    flat = tensor.reshape(-1)
    if tensor.numel() != max(tensor.shape, default=0) or tensor.dim() < 2 or not tensor.is_floating_point():
        shown = "x".join(map(str, tensor.shape)) or "a single number"
        raise BadInput(
            f"{model} is no classifier: it puts out {shown} {str(tensor.dtype).removeprefix('torch.')}",
            "a classifier puts out one number for each class; `modelprobe features` shows any model",
        )
    return flat.to(device="cpu", dtype=torch.float64)


def class_probabilities(scores: Tensor) -> tuple[Tensor, str]:
    """Scores as probabilities, and by which rule: softmax; a lone score's sigmoid; unchanged where they sum to 1."""
    if len(scores) == 1:
        return torch.sigmoid(scores), SIGMOID
    if bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-4:
        return scores, AS_GIVEN
    return torch.softmax(scores, 0), SOFTMAX


def best(scores: Tensor, labels: Sequence[str], count: int) -> tuple[tuple[Guess, ...], str]:
    """The `count` classes of the highest score, and the rule. Scores that are not finite make no class the best."""
    shares, rule = class_probabilities(scores)
    order = torch.argsort(torch.nan_to_num(scores, nan=-torch.inf), descending=True, stable=True)[:count].tolist()
    return (
        tuple(
            Guess(rank, index, labels[index], float(shares[index]), float(scores[index]))
            for rank, index in enumerate(order, 1)
        ),
        rule,
    )


@stdout_kept()
def predict_images(request: ImageModelRequest, images: Sequence[str], top: int) -> PredictResult:
    """Look at every image in turn. Raises BadInput when none can be looked at, or the model is no classifier."""
    files = find_images(images)
    seeing = load_image_model(request)
    run = PredictionRun(seeing, top)
    with progress("predicting", len(files)) as advance:
        for file in files:
            try:
                run.look(file)
            except _UnreadableError as error:
                if len(files) == 1:
                    raise BadInput(*error.args) from error
                run.done.append(Prediction(str(file), error=error.args[0]))
            advance()
    if not run.classes:
        raise BadInput(
            f"none of {len(files)} images could be looked at; the first: {run.done[0].error}",
            "give images that Pillow can read",
        )
    labels, rule = seeing.labels.for_classes(run.classes), " and ".join(sorted(run.rules))
    notes = (*seeing.notes, *gathered(run.told), *_prediction_notes(run))
    return PredictResult(
        seeing.name, seeing.weights.plain(), seeing.preprocessing.describe(), run.classes, labels.source, rule,
        tuple(run.done), notes, seeing.env, _prediction_facts(seeing, files, run.classes),
    )  # fmt: skip


class _UnreadableError(Exception):
    """One image cannot be read: message and hint."""


class PredictionRun:
    """What is gathered over the images."""

    def __init__(self, seeing: ImageModel, top: int) -> None:
        self.seeing, self.top, self.classes = seeing, top, 0
        self.done: list[Prediction] = []
        self.told: list[tuple[Path, Note]] = []
        self.rules: set[str] = set()

    def look(self, file: Path) -> None:
        """One image. Raises _UnreadableError for it, other errors for the model."""
        seeing = self.seeing.preprocessing
        try:
            photo = open_image(file)
            arguments = seeing.arguments(photo)
        except BadInput as error:
            raise _UnreadableError(error.message, error.hint) from error
        scores = _scores(self.seeing, arguments)
        self.classes = len(scores)
        labels = self.seeing.labels.for_classes(self.classes)
        guesses, rule = best(scores, [labels.of(index) for index in range(self.classes)], self.top)
        self.rules.add(rule)
        self.told += [(file, note) for note in seeing.notes_on(photo)]
        self.done.append(Prediction(str(file), guesses))


def _scores(seeing: ImageModel, arguments: Any) -> Tensor:
    try:
        with torch.no_grad():
            found = seeing.model(*arguments)
    except (ProbeError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        name = seeing.name
        raise ModelRaised(f"{name} raised {type(error).__name__}: {one_line(error)}", "--debug shows where") from error
    return scores_of(found, seeing.name)


def _prediction_notes(run: PredictionRun) -> list[Note]:
    notes, labels = [], run.seeing.labels
    if labels.names and not labels.for_classes(run.classes).names:
        text = (
            f"The model has {run.classes:,} classes, {labels.source} {len(labels.names):,} names: they were not used."
        )
        notes.append(Note(text, Level.WARNING))
    if AS_GIVEN in run.rules:
        notes.append(Note("The scores sum to 1 already: taken as probabilities, no softmax.", Level.ASSUMED))
    if SIGMOID in run.rules:
        notes.append(Note("The model puts out one number: its sigmoid is given as probability.", Level.ASSUMED))
    errors = [one.error for one in run.done if one.error]
    if errors:
        many = "1 image was" if len(errors) == 1 else f"{len(errors):,} images were"
        notes.append(Note(f"{many} left out: {errors[0]}{'; …' if len(errors) > 1 else '.'}", Level.WARNING))
    return notes


def _prediction_facts(seeing: ImageModel, files: Sequence[Path], classes: int) -> tuple[Fact, ...]:
    named = seeing.labels.for_classes(classes)
    names = named.source or "none known: --labels FILE names them"
    return (
        seeing.weights.fact(),
        Fact("Images", str(files[0]) if len(files) == 1 else f"{len(files):,}"),
        Fact("Classes", f"{classes:,}", detail=names),
        Fact("Input", seeing.preprocessing.describe()),
    )
