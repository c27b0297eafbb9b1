"""The options of the commands that look at images: `features`, `predict`, `cam`, `attention`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from modelprobe.cli.options import (
    IMAGES,
    MODEL,
    OUTPUT,
    RARE,
    FormatOpt,
    InputsFromOpt,
    ModelOptions,
    StrictOpt,
    one_of,
    option,
)
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from modelprobe.report.blocks import Report
    from modelprobe.vision.image_model import ImageModelRequest

ImageOpt = Annotated[
    list[str] | None,
    option(
        "--image",
        metavar="FILE|DIR|PATTERN",
        panel=IMAGES,
        help="An image, a directory of images, or a quoted wildcard ('photos/**/*.jpg'). Repeatable.",
    ),
]
WeightsOpt = Annotated[
    str,
    option(
        "--weights",
        metavar="pretrained|random|FILE",
        panel=MODEL,
        help="Published weights, seeded random ones, or a file, which is read safely and repaired where its names "
        "differ. Where published ones cannot be had, random ones are taken and the report says so.",
    ),
]
LayersOpt = Annotated[
    list[str] | None,
    option(
        "--layers",
        "-l",
        metavar="NAME[,NAME]",
        panel=IMAGES,
        help="Layers by name or wildcard: layer1,layer4, 'blocks.*.attn', '*'. Repeatable; --list shows them.",
    ),
]
ResizeOpt = Annotated[
    str | None,
    option(
        "--resize",
        metavar="N|HxW",
        panel=RARE,
        help="Resize the shorter side to N, or the image to HxW. Default: as the model was trained.",
    ),
]
CropOpt = Annotated[
    bool | None,
    option(
        "--crop/--no-crop",
        panel=RARE,
        help="Take the center, or squeeze the whole image into the model's size. Default: as the model was trained.",
    ),
]
MeanOpt = Annotated[
    str | None,
    option("--mean", metavar="X[,X,X]", panel=RARE, help="Subtracted from values in 0..1. Default: the model's own."),
]
StdOpt = Annotated[
    str | None, option("--std", metavar="X[,X,X]", panel=RARE, help="Divides after that. Default: the model's own.")
]
LabelsOpt = Annotated[
    Path | None,
    option(
        "--labels",
        metavar="FILE",
        panel=IMAGES,
        help="Names of the classes: one on each line, or JSON. Default: those that the library publishes.",
    ),
]
ColourMapOpt = Annotated[
    str,
    option(
        "--cmap",
        metavar="NAME",
        panel=IMAGES,
        help="The color map: viridis, jet, or any of matplotlib's. `features` has auto: white at 0 for values of both "
        "signs.",
    ),
]
ScoresOpt = Annotated[
    str | None,
    option(
        "--scores",
        metavar="softmax|sigmoid|exp|given|none",
        panel=IMAGES,
        help="What makes probabilities of the scores. Default: what the model's output shows, and the report says it.",
    ),
]
OutputNameOpt = Annotated[
    str | None,
    option(
        "--output-name",
        metavar="NAME|INDEX",
        panel=IMAGES,
        help="The output that holds the scores, by name or number from 0, where the model puts out several.",
    ),
]
ImageInputOpt = Annotated[
    str | None,
    option(
        "--input",
        "-i",
        metavar="HxW",
        panel=IMAGES,
        help="The size that the model is given: 224, 256x320. It is built for it where it must be. Default: its own.",
    ),
]
ImageBatchOpt = Annotated[
    int, option("--batch", "-b", metavar="N", min=1, panel=RARE, help="Images that are looked at together.")
]
ImageDeviceOpt = Annotated[
    str, option("--device", metavar="DEVICE", panel=MODEL, help="Where the model runs: cpu, cuda, cuda:1, mps.")
]
RangeOpt = Annotated[
    str | None,
    option(
        "--range",
        metavar="LOW,HIGH",
        panel=RARE,
        help="The values that become black and white, of images with more than 8 bits. Default: those in the image.",
    ),
]
VideoOpt = Annotated[
    Path | None,
    option(
        "--video",
        metavar="FILE",
        panel=IMAGES,
        help="A video, in place of images or beside them: frames of it, or one clip for a model of videos.",
    ),
]
FramesOpt = Annotated[
    int | None,
    option(
        "--frames",
        metavar="N",
        min=1,
        max=256,
        panel=IMAGES,
        help="Frames of the video. Default: as many as the model takes, or 8.",
    ),
]
SamplingOpt = Annotated[
    str,
    option(
        "--sampling",
        metavar="segments|random|dense",
        callback=one_of("--sampling", ("segments", "random", "dense")),
        panel=RARE,
        help="Which frames: the middle of each of N equal segments, a random one of each, or N consecutive ones.",
    ),
]
FrameSeedOpt = Annotated[
    int, option("--seed", metavar="N", min=0, panel=RARE, help="Of --sampling random: other frames for another seed.")
]
ListLayersOpt = Annotated[bool, option("--list", panel=IMAGES, help="List what can be asked for, and compute nothing.")]
DirectoryOpt = Annotated[
    Path | None,
    option(
        "--output",
        "-o",
        metavar="DIR",
        panel=OUTPUT,
        help="Write images, index.html and report.json into this directory. The same command line resumes there.",
    ),
]
DirectoryForceOpt = Annotated[
    bool,
    option(
        "--force",
        panel=OUTPUT,
        help="Write into a directory that holds other files; those of the same names are replaced, none deleted.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class ImageModelOptions(ModelOptions):
    """Which model looks, and with which weights."""

    weights: WeightsOpt = "pretrained"
    device: ImageDeviceOpt = "cpu"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What it looks at, and how images are prepared."""

    image: ImageOpt = None
    input: ImageInputOpt = None
    inputs_from: InputsFromOpt = None
    resize: ResizeOpt = None
    crop: CropOpt = None
    mean: MeanOpt = None
    std: StdOpt = None
    range: RangeOpt = None
    video: VideoOpt = None
    frames: FramesOpt = None
    sampling: SamplingOpt = "segments"
    seed: FrameSeedOpt = 0

    @property
    def given(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self.image) or self.video is not None or self.inputs_from is not None


@dataclass(frozen=True, kw_only=True)
class DirectoryOptions:
    """The report to stdout, everything else into a directory."""

    format: FormatOpt = None
    output: DirectoryOpt = None
    force: DirectoryForceOpt = False
    strict: StrictOpt = False

    def emit(self, report: Report) -> None:
        """Write the report to stdout. Under `--strict` raises Incomplete when a note stands against the answer."""
        from modelprobe.cli.output import emit

        emit(report, self.format, strict=self.strict)


def image_model(
    model: ImageModelOptions, images: ImageOptions, labels: Path | None = None, batch: int = 1
) -> ImageModelRequest:
    """What these options ask for."""
    from modelprobe.model.build import TargetRequest
    from modelprobe.vision.image_model import ImageModelRequest
    from modelprobe.vision.preprocessing.overrides import PreprocessingOverrides, parse_range
    from modelprobe.vision.video import VideoRequest

    request = TargetRequest(
        model.target,
        model.settings or (),
        (images.input,) if images.input is not None else (),
        images.inputs_from,
        arch=model.arch,
        unsafe_load=model.unsafe_load,
        weights=model.weights,
    )
    overrides = PreprocessingOverrides(
        images.resize, images.crop, images.mean, images.std, images.input, parse_range(images.range)
    )
    video = None
    if images.video is not None:
        video = VideoRequest(images.video, images.frames, images.sampling, images.seed)
    elif images.frames is not None or images.sampling != "segments":
        raise BadInput("--frames and --sampling are of a video", "name one with --video FILE")
    prepared = images.inputs_from is not None and not images.image and video is None
    return ImageModelRequest(request, overrides, labels, model.device, batch, video, prepared)
