"""What `features`, `predict`, `cam` and `attention` look with: a model with weights, its preprocessing, its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe.cli import options
from modelprobe.console import stdout_kept
from modelprobe.report.blocks import Note

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.model.target import Target
    from modelprobe.model.weights.chosen import ModelWeights
    from modelprobe.vision.labels import Labels
    from modelprobe.vision.photos import ImageViewer
    from modelprobe.vision.preprocessing.lookup import Preprocessing

PICTURES = "Pictures"
PRETRAINED = "pretrained"

ImageOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="FILE|DIR|PATTERN",
        help="A picture, a directory of them, or a quoted wildcard ('photos/**/*.jpg'). May be given again.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
WeightsOpt = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="pretrained|random|FILE",
        help="The published weights, seeded random ones, or those of a file, which is read safely and repaired where "
        "its names differ. Where none can be had, random ones are taken and the report says so.",
        rich_help_panel=options.MODEL,
    ),
]
LayersOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "-l",
        metavar="NAME[,NAME]",
        help="Layers by name or wildcard: layer1,layer4, 'blocks.*.attn', '*'. May be given again; --list shows them.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
ResizeOpt = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="N|HxW",
        help="Resize the shorter side to N, or the picture to HxW, instead of the model's own way.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
CropOpt = Annotated[
    bool | None,
    typer.Option(
        "--crop/--no-crop",
        help="Take the centre, or squeeze the whole picture into the model's size. Left out: the model's own way.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
MeanOpt = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="X[,X,X]",
        help="Subtracted from values in 0..1, instead of the model's own.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
StdOpt = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="X[,X,X]",
        help="What values are divided by after that, instead of the model's own.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
LabelsOpt = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="The names of the classes: one on each line, or JSON. Left out: those that the library publishes.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
ColourMapOpt = Annotated[
    str,
    typer.Option(
        "--cmap", metavar="NAME", help="The colour map: viridis, jet, or any of matplotlib's.", rich_help_panel=PICTURES
    ),
]


@dataclass(frozen=True)
class ImageModelRequest:
    """What the command line said about the model and how it sees. `weights` is `pretrained`, `random` or a file."""

    target: str
    settings: Sequence[str] = ()
    arch: str | None = None
    unsafe_load: bool = False
    weights: str = PRETRAINED
    resize: str | None = None
    crop: bool | None = None
    mean: str | None = None
    std: str | None = None
    labels: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class ImageModel:
    """A model on the CPU in eval mode, and what it needs to look at pictures. `notes` go into the report."""

    asked: ImageModelRequest
    target: Target
    model: nn.Module
    weights: ModelWeights
    preprocessing: Preprocessing
    labels: Labels
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> ImageViewer:
        """What an analyzer needs of it."""
        from modelprobe.vision.photos import ImageViewer

        return ImageViewer(
            self.target.name,
            self.model,
            self.preprocessing,
            self.labels,
            self.weights.fact(),
            self.weights.plain(),
            self.notes,
            self.env,
        )


@stdout_kept()
def load_image_model(asked: ImageModelRequest) -> ImageModel:
    """The target with weights, its preprocessing and its labels. Raises ProbeError for what stands in the way."""
    from modelprobe.model.build import TargetRequest, load_model
    from modelprobe.vision.labels import labels_of, read_labels
    from modelprobe.vision.preprocessing.lookup import PreprocessingOverrides, preprocessing

    if asked.labels is not None:
        read_labels(asked.labels)  # a mistake in it is told before weights are fetched
    loaded = load_model(
        TargetRequest(
            asked.target,
            asked.settings,
            seed=asked.seed,
            arch=asked.arch,
            unsafe_load=asked.unsafe_load,
            weights=asked.weights,
        )
    )
    assert loaded.weights is not None
    overrides = PreprocessingOverrides(asked.resize, asked.crop, asked.mean, asked.std)
    seeing = preprocessing(loaded.target, loaded.model, loaded.entry, overrides)
    labels = labels_of(loaded.target, loaded.model, loaded.entry, asked.labels)
    notes = (*loaded.notes, *seeing.notes)
    return ImageModel(asked, loaded.target, loaded.model, loaded.weights, seeing, labels, notes, loaded.env)
