"""`modelprobe predict`: the classes that a model sees in pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe import console
from modelprobe.cli import options, output
from modelprobe.errors import BadInput, ModelRaised, ProbeError, one_line
from modelprobe.report.blocks import Fact, Level, Note
from modelprobe.vision import looker as sight

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from modelprobe.vision.predict import Prediction, PredictResult

TopOpt = Annotated[
    int,
    typer.Option("--top", "-n", metavar="N", min=1, help="How many classes for each picture.",
                 rich_help_panel=options.OUTPUT),
]  # fmt: skip


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    arch: options.ArchOpt = None,
    unsafe_load: options.UnsafeLoadOpt = False,
    weights: sight.WeightsOpt = sight.PRETRAINED,
    image: sight.ImageOpt = None,
    labels: sight.LabelsOpt = None,
    resize: sight.ResizeOpt = None,
    crop: sight.CropOpt = None,
    mean: sight.MeanOpt = None,
    std: sight.StdOpt = None,
    top: TopOpt = 5,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """The classes that a model sees in pictures: the best few of each, with labels and probabilities.

    One picture among several that cannot be read is reported, and the others go on (exit code 0, under --strict 3).
    """
    output.check(format, out, force=force)
    if not image:
        raise BadInput("which pictures? --image was not given", "give a file, a directory or a wildcard")
    looking = sight.ImageModelRequest(
        target, settings or (), arch, unsafe_load, weights, resize, crop, mean, std, labels
    )
    output.emit(predict(looking, image, top).report(), format, out, force=force, strict=strict)


@console.stdout_kept()
def predict(looking: sight.ImageModelRequest, images: Sequence[str], top: int) -> PredictResult:
    """Look at every picture in turn. Raises BadInput when none can be looked at, or the model is no classifier."""
    from modelprobe.vision.images import find_images, gathered
    from modelprobe.vision.predict import Prediction, PredictResult

    files = find_images(images)
    seeing = sight.load_image_model(looking)
    run = PredictionRun(seeing, top)
    with console.progress("looking at pictures", len(files)) as advance:
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
            f"none of {len(files)} pictures could be looked at; the first: {run.done[0].error}",
            "give pictures that Pillow can read",
        )
    labels, rule = seeing.labels.for_classes(run.classes), " and ".join(sorted(run.rules))
    notes = (*seeing.notes, *gathered(run.told), *_prediction_notes(run))
    return PredictResult(
        seeing.target.name, seeing.weights.plain(), seeing.preprocessing.describe(), run.classes, labels.source, rule,
        tuple(run.done), notes, seeing.env, _prediction_facts(seeing, files, run.classes),
    )  # fmt: skip


class _UnreadableError(Exception):
    """One picture cannot be read: message and hint."""


class PredictionRun:
    """What is gathered over the pictures."""

    def __init__(self, seeing: sight.ImageModel, top: int) -> None:
        self.seeing, self.top, self.classes = seeing, top, 0
        self.done: list[Prediction] = []
        self.told: list[tuple[Path, Note]] = []
        self.rules: set[str] = set()

    def look(self, file: Path) -> None:
        """One picture. Raises _UnreadableError for it, other errors for the model."""
        from modelprobe.vision.images import open_image
        from modelprobe.vision.predict import Prediction, best

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


def _scores(seeing: sight.ImageModel, arguments: Any) -> Tensor:
    import torch

    from modelprobe.vision.predict import scores_of

    try:
        with torch.no_grad():
            found = seeing.model(*arguments)
    except (ProbeError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:
        name = seeing.target.name
        raise ModelRaised(f"{name} raised {type(error).__name__}: {one_line(error)}", "--debug shows where") from error
    return scores_of(found, seeing.target.name)


def _prediction_notes(run: PredictionRun) -> list[Note]:
    from modelprobe.vision.predict import AS_GIVEN, SIGMOID

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
        many = "1 picture was" if len(errors) == 1 else f"{len(errors):,} pictures were"
        notes.append(Note(f"{many} left out: {errors[0]}{'; …' if len(errors) > 1 else '.'}", Level.WARNING))
    return notes


def _prediction_facts(seeing: sight.ImageModel, files: Sequence[Path], classes: int) -> tuple[Fact, ...]:
    named = seeing.labels.for_classes(classes)
    names = named.source or "none known: --labels FILE names them"
    return (
        seeing.weights.fact(),
        Fact("Pictures", str(files[0]) if len(files) == 1 else f"{len(files):,}"),
        Fact("Classes", f"{classes:,}", detail=names),
        Fact("Input", seeing.preprocessing.describe()),
    )
