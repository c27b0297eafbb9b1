"""Predictions for images: the scores of a forward pass as probabilities, the largest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modelprobe.errors import BadInput
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.failures import model_errors
from modelprobe.vision.cam.gradients import differentiable, never_off
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.scores import AS_GIVEN, EMBEDDING, EXP, SHARES, ScoreOptions, Scores, highest
from modelprobe.vision.together import Together
from modelprobe.vision.walk import Command, ImagePlace, Shown, joined, walk_images


@dataclass(frozen=True, slots=True)
class Guess:
    """One class with its score as the model put it out, and the probability made of it."""

    rank: int
    index: int
    label: str
    probability: float | None
    score: float
    area: float | None = None
    """Of a score at every place: the share of places where the class wins. Score and probability are means there."""


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
    scores: str
    predictions: tuple[Prediction, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any]
    facts: tuple[Fact, ...] = field(repr=False, default=())

    def report(self) -> Report:
        """One row for each class of each image; the image's name where there are several."""
        several = len(self.predictions) > 1
        failed = any(one.error for one in self.predictions)
        dense = any(one.area is not None for prediction in self.predictions for one in prediction.guesses)
        columns = (
            *((Column("image", "Image"),) if several else ()),
            Column("label", "Class", wrap=several),
            *((Column("error", "Error", wrap=True),) if failed else ()),
            *((Column("area", "Area", Unit.SHARE, bar=True),) if dense else ()),
            Column("probability", "Probability", Unit.SHARE, bar=not dense),
            Column("index", "Index", Unit.COUNT, priority=2),
            Column("score", "Score", Unit.NUMBER, priority=3),
            Column("rank", "Rank", Unit.COUNT, priority=4),
        )
        rows = [row for one in self.predictions for row in _prediction_rows(one, several, dense, failed)]
        blocks: list[Block] = [Facts(self.facts), Table(columns, tuple(rows), key="predictions")]
        title = f"{self.model}: predictions"
        return Report(title, "modelprobe.predict/1", (*blocks, *self.notes), self.to_dict(), self.env)


def _prediction_rows(prediction: Prediction, several: bool, dense: bool, failed: bool) -> list[Row]:
    if prediction.error:
        named = (prediction.image,) if several else ()
        return [Row((*named, None, prediction.error, *(None,) * (5 if dense else 4)), quiet=True)]
    return [
        Row(
            (
                *((prediction.image,) if several else ()),
                one.label,
                *((None,) if failed else ()),
                *((one.area,) if dense else ()),
                one.probability,
                one.index,
                one.score,
                one.rank,
            )
        )
        for one in prediction.guesses
    ]


def best(scores: Tensor, shares: Tensor | None, labels: Sequence[str], count: int) -> tuple[Guess, ...]:
    """The `count` classes of the highest scores [classes]. Scores that are not finite make no class the best."""
    order = torch.argsort(torch.nan_to_num(scores, nan=-torch.inf), descending=True, stable=True)[:count].tolist()
    return tuple(
        Guess(rank, index, labels[index], None if shares is None else float(shares[index]), float(scores[index]))
        for rank, index in enumerate(order, 1)
    )


def guesses_of(row: Tensor, scores: Scores, labels: Sequence[str], count: int) -> tuple[Guess, ...]:
    """The best classes of one image, given its scores [classes], or [classes, H, W] where each place has some."""
    shares = scores.probabilities(row)
    if row.dim() == 1:
        return best(row, shares, labels, count)
    return _best_of_places(row, shares, labels, count, scores.threshold)


def predict_images(
    request: ImageModelRequest, images: Sequence[str], top: int, scores: ScoreOptions | None = None
) -> PredictResult:
    """Look at every image in turn. Raises BadInput when none can be looked at, or the model is no classifier."""
    files = request.find_files(images)
    model = load_image_model(request)
    run = PredictionRun(model, top, Scores(model.model, scores or ScoreOptions()))
    walked = walk_images(model, [*files, *model.own_files], run)
    done = tuple(one.kept or Prediction(one.image, error=one.error) for one in walked.images)
    notes = (*model.notes, *run.scores.notes, *walked.notes, *_prediction_notes(run, done))
    return PredictResult(
        model.name, model.weights.plain(), model.preprocessing.describe(), run.classes,
        model.labels.for_classes(run.classes).source, run.scores.rule, run.scores.describe(), done, notes, model.env,
        _prediction_facts(run, done),
    )  # fmt: skip


class PredictionRun(Command[Prediction]):
    """The best classes of images, one batch after the other."""

    def __init__(self, seeing: ImageModel, top: int, scores: Scores) -> None:
        self.seeing, self.top, self.scores, self.classes = seeing, top, scores, 0
        self._together = Together()

    def look(self, batch: Sequence[Shown]) -> list[Tensor]:
        """The scores of each image."""
        found = self._read(joined(batch), len(batch))
        if len(batch) > 1:
            self._together.check(batch, found, lambda one: self._read(one.arguments, 1)[0])
        return found

    def keep(self, shown: Shown, row: Tensor, place: ImagePlace) -> Prediction:
        """Its best classes."""
        self.classes = len(row)
        if not bool(row.isfinite().any()):
            return Prediction(shown.image, error="every score is NaN or infinite")
        labels = self.seeing.labels.for_classes(self.classes)
        names = [labels.of(index) for index in range(self.classes)]
        return Prediction(shown.image, guesses_of(row, self.scores, names, self.top))

    def _read(self, arguments: tuple[Any, ...], batch: int) -> list[Tensor]:
        """The scores of each image, float64 on the CPU; the first time with gradients on: they tell how it was made."""
        model = self.seeing.model
        with ExitStack() as stack:
            stack.enter_context(model_errors())
            if self.scores.kind:
                stack.enter_context(torch.no_grad())
            else:
                stack.enter_context(differentiable(model))
                stack.enter_context(never_off())
                arguments = tuple(_leaf(value) for value in arguments)
            out = model(*arguments)
        found = self.scores.read(out, batch).detach()
        if self.scores.kind == EMBEDDING:
            raise BadInput(
                f"{self.seeing.name} is no classifier: it puts out an embedding of {found.shape[1]} numbers",
                "`modelprobe features` shows any model; --scores softmax takes the numbers for classes",
            )
        return list(found.to(device="cpu", dtype=torch.float64))


def _leaf(value: Any) -> Any:
    """A tensor that gradients are followed from, and that the model may write to."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_() * 1
    return value


def _best_of_places(
    scores: Tensor, shares: Tensor | None, labels: Sequence[str], count: int, threshold: float
) -> tuple[Guess, ...]:
    """Of scores [classes, H, W] the classes that win at most places: their share, and their mean score there."""
    won = highest(scores[None], threshold)[0]
    area = won.mean((1, 2))
    order = torch.argsort(area, descending=True, stable=True)[:count].tolist()

    def there(values: Tensor, index: int) -> float:
        inside = values[index][won[index] > 0]
        return float(inside.mean() if len(inside) else values[index].mean())

    return tuple(
        Guess(
            rank,
            index,
            labels[index],
            None if shares is None else there(shares, index),
            there(scores, index),
            float(area[index]),
        )
        for rank, index in enumerate(order, 1)
    )


def _prediction_notes(run: PredictionRun, done: Sequence[Prediction]) -> list[Note]:
    notes, labels = [], run.seeing.labels
    if labels.names and not labels.for_classes(run.classes).names:
        text = (
            f"The model has {run.classes:,} classes, {labels.source} {len(labels.names):,} names: they were not used."
        )
        notes.append(Note(text, Level.WARNING))
    if run.scores.rule == AS_GIVEN and run.scores.kind == SHARES:
        notes.append(Note("The scores sum to 1 already: taken as probabilities, no softmax.", Level.ASSUMED))
    elif run.scores.rule in (AS_GIVEN, EXP):
        notes.append(Note(f"The model puts out {run.scores.kind}: no softmax.", Level.ASSUMED))
    errors = [one.image for one in done if one.error and not one.guesses and "score" in one.error]
    if errors:
        text = (
            f"Every score is NaN or infinite for {errors[0]}{f' and {len(errors) - 1:,} more' if errors[1:] else ''}."
        )
        notes.append(Note(text, Level.WARNING))
    return notes


def _prediction_facts(run: PredictionRun, done: Sequence[Prediction]) -> tuple[Fact, ...]:
    seeing, classes = run.seeing, run.classes
    named = seeing.labels.for_classes(classes)
    names = named.source or "none known: --labels FILE names them"
    return (
        seeing.weights.fact(),
        Fact("Images", done[0].image if len(done) == 1 else f"{len(done):,}"),
        Fact("Classes", f"{classes:,}", detail=names),
        Fact("Scores", run.scores.describe()),
        Fact("Input", seeing.preprocessing.describe()),
    )
