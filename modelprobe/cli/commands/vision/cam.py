"""`modelprobe cam`: class activation maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from modelprobe.cli.image_options import (
    ColourMapOpt,
    DirectoryOptions,
    ImageBatchOpt,
    ImageModelOptions,
    ImageOptions,
    LabelsOpt,
    OutputNameOpt,
    ScoresOpt,
    image_model,
)
from modelprobe.cli.options import IMAGES, option

EXAMPLES = (
    "modelprobe cam samples/models.py:DigitCNN --weights samples/digit_cnn.pth --image samples/digit_b.png",
    "modelprobe cam resnet18 --weights random --image samples/shapes.png --class 3 --method gradcam,layercam -o maps",
)

MethodOpt = Annotated[
    list[str] | None,
    option(
        "--method",
        "-m",
        metavar="NAME[,NAME]",
        panel=IMAGES,
        help="gradcam, gradcam++, layercam, hirescam, eigencam, scorecam, guided-gradcam, integrated-gradients, "
        "saliency, occlusion. Default: gradcam.",
    ),
]
ClassOpt = Annotated[
    list[str] | None,
    option(
        "--class",
        "-c",
        metavar="CLASS",
        panel=IMAGES,
        help="The class, by index or label; -3: what speaks against class 3. Repeatable. Default: the top prediction.",
    ),
]
MapLayersOpt = Annotated[
    str | None,
    option(
        "--layers",
        "-l",
        metavar="NAME[,NAME]",
        panel=IMAGES,
        help="The layer, or several, whose maps are averaged. Default: chosen by the paths from the image to the "
        "scores; the report says why.",
    ),
]
AtOpt = Annotated[
    str | None,
    option(
        "--at", metavar="X,Y", panel=IMAGES, help="Of a score at every place: this pixel of what the model sees alone."
    ),
]
MaskOpt = Annotated[
    Path | None,
    option(
        "--mask",
        metavar="FILE",
        panel=IMAGES,
        help="Of a score at every place: the white pixels of this image, of the size that the model sees.",
    ),
]
LikeOpt = Annotated[
    Path | None,
    option("--like", metavar="FILE", panel=IMAGES, help="What makes the embedding like that of this other image."),
]
JudgeOpt = Annotated[
    bool,
    option(
        "--judge",
        panel=IMAGES,
        help="Areas under the class's probability while the map's highest pixels are removed (the smaller the better) "
        "and inserted (the larger the better): compares maps.",
    ),
]


def command(
    model: ImageModelOptions,
    images: ImageOptions,
    *,
    method: MethodOpt = None,
    classes: ClassOpt = None,
    layer: MapLayersOpt = None,
    scores: ScoresOpt = None,
    output_name: OutputNameOpt = None,
    at: AtOpt = None,
    mask: MaskOpt = None,
    like: LikeOpt = None,
    judge: JudgeOpt = False,
    labels: LabelsOpt = None,
    cmap: ColourMapOpt = "jet",
    batch: ImageBatchOpt = 8,
    output: DirectoryOptions,
) -> None:
    """Class activation maps: which part of an image speaks for a class, by Grad-CAM or another method."""
    from modelprobe.errors import BadInput
    from modelprobe.vision.cam.cam import CamOptions, cam_of_files, methods_of, region_of
    from modelprobe.vision.scores import ScoreOptions

    if like is not None and (classes or at is not None or mask is not None):
        raise BadInput("--like compares embeddings, which have no classes and no places", "leave the other options out")
    if judge and like is not None:
        raise BadInput("--judge needs a class, and --like has none", "leave one of them out")
    asked = CamOptions(
        methods_of(method or ()),
        tuple(classes or ()),
        (layer,) if layer is not None else (),
        cmap,
        ScoreOptions(scores, output_name),
        region_of(at, mask),
        like,
        judge,
    )
    request = image_model(model, images, labels, batch)
    output.emit(cam_of_files(request, asked, images.image or (), output.output, output.force).report())
