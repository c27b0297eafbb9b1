"""`modelprobe predict`: the top classes for images."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.image_options import (
    ImageBatchOpt,
    ImageModelOptions,
    ImageOptions,
    LabelsOpt,
    OutputNameOpt,
    ScoresOpt,
    image_model,
)
from modelprobe.cli.options import OUTPUT, ReportOptions, option
from modelprobe.errors import BadInput

EXAMPLES = (
    "modelprobe predict samples/models.py:DigitCNN --weights samples/digit_cnn.pth --image samples/digit_a.png",
    "modelprobe predict resnet18 --weights random --image 'samples/*.png' --top 3",
)

TopClassesOpt = Annotated[int, option("--top", "-n", metavar="N", min=1, panel=OUTPUT, help="Classes for each image.")]


def command(
    model: ImageModelOptions,
    images: ImageOptions,
    *,
    scores: ScoresOpt = None,
    output_name: OutputNameOpt = None,
    labels: LabelsOpt = None,
    batch: ImageBatchOpt = 16,
    top: TopClassesOpt = 5,
    report: ReportOptions,
) -> None:
    """Predictions for images: the top classes with labels and probabilities.

    One image among several that cannot be read is reported, and the others go on (exit code 0, under --strict 3).
    """
    report.check()
    if not images.given:
        raise BadInput("which images? --image was not given", "give a file, a directory or a wildcard")
    from modelprobe.vision.predict import predict_images
    from modelprobe.vision.scores import ScoreOptions

    found = predict_images(
        image_model(model, images, labels, batch), images.image or (), top, ScoreOptions(scores, output_name)
    )
    report.emit(found.report())
