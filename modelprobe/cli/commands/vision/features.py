"""`modelprobe features`: layer activations for images, as statistics, images and files."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.image_options import (
    ColourMapOpt,
    DirectoryOptions,
    ImageBatchOpt,
    ImageModelOptions,
    ImageOptions,
    LayersOpt,
    ListLayersOpt,
    image_model,
)
from modelprobe.cli.options import IMAGES, OUTPUT, one_of, option
from modelprobe.errors import BadInput

SORTS, SAVES = ("index", "variance", "max"), ("npz", "safetensors", "pt")

EXAMPLES = (
    "modelprobe features timm:test_vit --list",
    "modelprobe features resnet18 --weights random --layers layer1,layer4 --image samples/shapes.png",
    "modelprobe features resnet18 --weights random --layers layer1 --image samples/shapes.png -o seen",
)

ChannelsOpt = Annotated[
    int, option("--channels", metavar="N", min=1, max=1024, panel=IMAGES, help="Channels in a grid, at most.")
]
SortOpt = Annotated[
    str,
    option(
        "--sort",
        metavar="|".join(SORTS),
        callback=one_of("--sort", SORTS),
        panel=IMAGES,
        help="Which channels come first in a grid.",
    ),
]
SaveOpt = Annotated[
    str | None,
    option(
        "--save",
        metavar="|".join(SAVES),
        callback=one_of("--save", (None, *SAVES)),
        panel=OUTPUT,
        help="Write the tensors too, into the directory of -o: one file for each image.",
    ),
]

EmbedOpt = Annotated[
    bool,
    option(
        "--embed",
        panel=OUTPUT,
        help="Write one array of all images, their means over places at each layer (embeddings.npz, .npy), and a page "
        "of nearest neighbors, into the directory of -o.",
    ),
]
PcaOpt = Annotated[
    bool,
    option("--pca", panel=IMAGES, help="Draw the first three principal components of the channels as colors too."),
]


def command(
    model: ImageModelOptions,
    images: ImageOptions,
    *,
    layers: LayersOpt = None,
    list_only: ListLayersOpt = False,
    channels: ChannelsOpt = 64,
    sort: SortOpt = SORTS[0],
    cmap: ColourMapOpt = "auto",
    save: SaveOpt = None,
    embed: EmbedOpt = False,
    pca: PcaOpt = False,
    batch: ImageBatchOpt = 4,
    output: DirectoryOptions,
) -> None:
    """Layer activations for images: statistics, channel grids, heat maps over the image, tensors as files.

    One image among several that cannot be read is reported, and the others go on (exit code 0, under --strict 3).
    """
    from modelprobe.vision.features.drawing import Drawing
    from modelprobe.vision.features.run import FeaturesOptions, list_layers, run_features

    request = image_model(model, images, batch=batch)
    if list_only:
        output.emit(list_layers(request.request).report())
        return
    if not layers:
        raise BadInput("which layers? --layers was not given", "--list shows them; --layers '*' takes all of them")
    if save is not None and output.output is None:
        raise BadInput("--save needs a directory to write to", "give one with -o DIR")
    if (embed or pca) and output.output is None:
        raise BadInput(f"--{'embed' if embed else 'pca'} needs a directory to write to", "give one with -o DIR")
    drawing = Drawing(channels, sort, cmap, pca)
    asked = FeaturesOptions(request, images.image or (), layers, drawing, output.output, save, output.force, embed)
    output.emit(run_features(asked).report())
