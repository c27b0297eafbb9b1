"""`modelprobe features`: what layers put out for a picture, as figures, pictures and files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelprobe.cli import options, output
from modelprobe.errors import BadInput
from modelprobe.vision import looker as sight
from modelprobe.vision.features.drawing import Drawing

SORTS, SAVES = ("index", "variance", "max"), ("npz", "safetensors", "pt")
PICTURES, OUTPUT = sight.PICTURES, options.OUTPUT

ListOpt = Annotated[
    bool,
    typer.Option(
        "--list",
        metavar=options.FLAG,
        help="Show the layers that can be asked for, with shapes; nothing is loaded or computed.",
        rich_help_panel=PICTURES,
    ),
]
ChannelsOpt = Annotated[
    int,
    typer.Option(
        "--channels", metavar="N", min=1, max=1024, help="How many a grid shows at most.", rich_help_panel=PICTURES
    ),
]
SortOpt = Annotated[
    str,
    typer.Option(
        "--sort", metavar="|".join(SORTS), help="Which channels come first in a grid.", rich_help_panel=PICTURES
    ),
]
SaveOpt = Annotated[
    str | None,
    typer.Option(
        "--save",
        metavar="|".join(SAVES),
        help="Write the tensors too, into the directory of -o: one file for each picture.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
DirectoryOpt = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Write the pictures into this directory, with a gallery page, index.html. The same command line goes on "
        "where it was interrupted.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
ForceOpt = Annotated[
    bool,
    typer.Option(
        "--force",
        metavar=options.FLAG,
        help="Write into a directory that holds other files; those of the same names are replaced, none deleted.",
        rich_help_panel=OUTPUT,
    ),
]


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    arch: options.ArchOpt = None,
    unsafe_load: options.UnsafeLoadOpt = False,
    weights: sight.WeightsOpt = sight.PRETRAINED,
    image: sight.ImageOpt = None,
    layers: sight.LayersOpt = None,
    list_layers: ListOpt = False,
    resize: sight.ResizeOpt = None,
    crop: sight.CropOpt = None,
    mean: sight.MeanOpt = None,
    std: sight.StdOpt = None,
    channels: ChannelsOpt = 64,
    sort: SortOpt = "index",
    cmap: sight.ColourMapOpt = "viridis",
    out: DirectoryOpt = None,
    save: SaveOpt = None,
    force: ForceOpt = False,
    format: options.FormatOpt = None,
    strict: options.StrictOpt = False,
) -> None:
    """What layers put out for a picture: figures, grids of channels, heat maps over the picture, tensors as files.

    One picture among several that cannot be read is reported, and the others go on (exit code 0, under --strict 3).
    """
    from modelprobe.vision.features import run as features_run

    looking = sight.ImageModelRequest(target, settings or (), arch, unsafe_load, weights, resize, crop, mean, std)
    if list_layers:
        output.emit(features_run.list_layers(looking).report(), format, strict=strict)
        return
    _check(layers, sort, save, out)
    drawing = Drawing(channels, sort, cmap)
    asked = features_run.FeaturesOptions(looking, image or (), layers or (), drawing, out, save, force)
    output.emit(features_run.run_features(asked).report(), format, strict=strict)


def _check(layers: list[str] | None, sort: str, save: str | None, out: Path | None) -> None:
    if not layers:
        raise BadInput("which layers? --layers was not given", "--list shows them; --layers '*' takes all of them")
    if sort not in SORTS:
        raise BadInput(f"--sort {sort!r} is not known", f"choose one of {', '.join(SORTS)}")
    if save is not None and save not in SAVES:
        raise BadInput(f"--save {save!r} is not known", f"choose one of {', '.join(SAVES)}")
    if save is not None and out is None:
        raise BadInput("--save needs a directory to write to", "give one with -o DIR")
