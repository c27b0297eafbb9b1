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
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.tensors import shapes
from modelprobe.vision.cam.gradients import differentiable
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import gathered
from modelprobe.vision.scores import AS_GIVEN, EMBEDDING, EXP, SHARES, ScoreOptions, Scores, highest


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
        dense = any(one.area is not None for prediction in self.predictions for one in prediction.guesses)
        columns = (
            *((Column("image", "Image"),) if several else ()),
            Column("label", "Class", wrap=several),
            *((Column("area", "Area", Unit.SHARE, bar=True),) if dense else ()),
            Column("probability", "Probability", Unit.SHARE, bar=not dense),
            Column("index", "Index", Unit.COUNT, priority=2),
            Column("score", "Score", Unit.NUMBER, priority=3),
            Column("rank", "Rank", Unit.COUNT, priority=4),
        )
        rows = [row for prediction in self.predictions for row in _prediction_rows(prediction, several, dense)]
        blocks: list[Block] = [Facts(self.facts), Table(columns, tuple(rows), key="predictions")]
        title = f"{self.model}: predictions"
        return Report(title, "modelprobe.predict/1", (*blocks, *self.notes), self.to_dict(), self.env)


def _prediction_rows(prediction: Prediction, several: bool, dense: bool) -> list[Row]:
    if prediction.error:
        named = (prediction.image,) if several else ()
        return [Row((*named, prediction.error, *(None,) * (5 if dense else 4)), quiet=True)]
    return [
        Row(
            (
                *((prediction.image,) if several else ()),
                one.label,
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
    return best(row, shares, labels, count) if row.dim() == 1 else _best_of_places(row, shares, labels, count)


@stdout_kept()
def predict_images(
    request: ImageModelRequest, images: Sequence[str], top: int, scores: ScoreOptions | None = None
) -> PredictResult:
    """Look at every image in turn. Raises BadInput when none can be looked at, or the model is no classifier."""
    files = request.find_files(images)
    seeing = load_image_model(request)
    files += seeing.frame_files
    run = PredictionRun(seeing, top, Scores(seeing.model, scores or ScoreOptions()))
    with progress("predicting", len(files)) as advance:
        for file in files:
            try:
                run.look(file)
            except _UnreadableError as error:
                if len(files) == 1:
                    raise BadInput(*error.args) from error
                run.done[file] = Prediction(str(file), error=error.args[0])
            advance()
        run.flush()
    done = tuple(run.done[file] for file in files)
    if not run.classes:
        raise BadInput(
            f"none of {len(files)} images could be looked at; the first: {done[0].error}",
            "give images that Pillow can read",
        )
    labels = seeing.labels.for_classes(run.classes)
    notes = (*seeing.notes, *run.scores.notes, *gathered(run.told), *_prediction_notes(run))
    return PredictResult(
        seeing.name, seeing.weights.plain(), seeing.preprocessing.describe(), run.classes, labels.source,
        run.scores.rule, run.scores.describe(), done, notes, seeing.env, _prediction_facts(run, files),
    )  # fmt: skip


class _UnreadableError(Exception):
    """One image cannot be read: message and hint."""


class PredictionRun:
    """What is gathered over the images: those of one size are looked at together."""

    def __init__(self, seeing: ImageModel, top: int, scores: Scores) -> None:
        self.seeing, self.top, self.scores, self.classes = seeing, top, scores, 0
        self.done: dict[Path, Prediction] = {}
        self.told: list[tuple[Path, Note]] = []
        self._waiting: list[tuple[Path, tuple[Any, ...]]] = []

    def look(self, file: Path) -> None:
        """One image. Raises _UnreadableError for it, other errors for the model."""
        seeing = self.seeing.preprocessing
        try:
            photo = self.seeing.open(file)
            arguments = self.seeing.arguments(photo)
        except BadInput as error:
            raise _UnreadableError(error.message, error.hint) from error
        self.told += [(file, note) for note in seeing.notes_on(photo)]
        if self._waiting and shapes(self._waiting[0][1]) != shapes(arguments):
            self.flush()
        self._waiting.append((file, arguments))
        if len(self._waiting) >= self.seeing.batch or not all(isinstance(value, Tensor) for value in arguments):
            self.flush()

    def flush(self) -> None:
        """Look at the images that wait."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            rows = self._read(
                tuple(_joined(values) for values in zip(*(a for _, a in waiting), strict=True)), len(waiting)
            )
        except (ModelRaised, BadInput):
            if len(waiting) == 1:
                raise
            rows = [row for _, arguments in waiting for row in self._read(arguments, 1)]  # it takes no batch
        for (file, _), row in zip(waiting, rows, strict=True):
            self.classes = len(row)
            if not bool(row.isfinite().any()):
                self.done[file] = Prediction(str(file), error="every score is NaN or infinite")
                continue
            labels = self.seeing.labels.for_classes(self.classes)
            names = [labels.of(index) for index in range(self.classes)]
            self.done[file] = Prediction(str(file), guesses_of(row, self.scores, names, self.top))

    def _read(self, arguments: tuple[Any, ...], batch: int) -> list[Tensor]:
        """The scores of each image, float64 on the CPU; the first time with gradients on: they tell how it was made."""
        model = self.seeing.model
        with model_errors(self._raised), differentiable(model) if not self.scores.kind else torch.no_grad():
            if not self.scores.kind:
                arguments = tuple(_leaf(value) for value in arguments)
            out = model(*arguments)
        found = self.scores.read(out, batch).detach()
        if self.scores.kind == EMBEDDING:
            raise BadInput(
                f"{self.seeing.name} is no classifier: it puts out an embedding of {found.shape[1]} numbers",
                "`modelprobe features` shows any model; --scores softmax takes the numbers for classes",
            )
        return list(found.to(device="cpu", dtype=torch.float64))

    def _raised(self, error: BaseException) -> ProbeError:
        return ModelRaised(
            f"{self.seeing.name} raised {type(error).__name__}: {one_line(error)}", "--debug shows where"
        )


def _joined(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if len(values) > 1 else values[0]


def _leaf(value: Any) -> Any:
    """A tensor that gradients are followed from, and that the model may write to."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().clone().requires_grad_() * 1
    return value


def _best_of_places(scores: Tensor, shares: Tensor | None, labels: Sequence[str], count: int) -> tuple[Guess, ...]:
    """Of scores [classes, H, W] the classes that win at most places: their share, and their mean score there."""
    won = highest(scores[None])[0]
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


def _prediction_notes(run: PredictionRun) -> list[Note]:
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
    errors = [one.error for one in run.done.values() if one.error]
    if errors:
        many = "1 image was" if len(errors) == 1 else f"{len(errors):,} images were"
        notes.append(Note(f"{many} left out: {errors[0]}{'; …' if len(errors) > 1 else '.'}", Level.WARNING))
    return notes


def _prediction_facts(run: PredictionRun, files: Sequence[Path]) -> tuple[Fact, ...]:
    seeing, classes = run.seeing, run.classes
    named = seeing.labels.for_classes(classes)
    names = named.source or "none known: --labels FILE names them"
    return (
        seeing.weights.fact(),
        Fact("Images", str(files[0]) if len(files) == 1 else f"{len(files):,}"),
        Fact("Classes", f"{classes:,}", detail=names),
        Fact("Scores", run.scores.describe()),
        Fact("Input", seeing.preprocessing.describe()),
    )
