"""`modelprobe cam`: class activation maps."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.image_options import (
    ColourMapOpt,
    DirectoryOptions,
    ImageModelOptions,
    ImageOptions,
    LabelsOpt,
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
        help="gradcam, layercam, guided-gradcam, integrated-gradients, saliency, occlusion. Default: gradcam.",
    ),
]
ClassOpt = Annotated[
    list[str] | None,
    option(
        "--class",
        "-c",
        metavar="CLASS",
        panel=IMAGES,
        help="The class, by index or label. Repeatable. Default: the top prediction of each image.",
    ),
]
MapLayersOpt = Annotated[
    str | None,
    option(
        "--layers",
        "-l",
        metavar="NAME",
        panel=IMAGES,
        help="The layer. Default: chosen by the paths from the image to the scores; the report says why.",
    ),
]


def command(
    model: ImageModelOptions,
    images: ImageOptions,
    *,
    method: MethodOpt = None,
    classes: ClassOpt = None,
    layer: MapLayersOpt = None,
    labels: LabelsOpt = None,
    cmap: ColourMapOpt = "jet",
    output: DirectoryOptions,
) -> None:
    """Class activation maps: which part of an image speaks for a class, by Grad-CAM or another method."""
    from modelprobe.files.directory import check_directory
    from modelprobe.vision.cam.cam import CamOptions, cam_of_files, methods_of

    check_directory(output.output, output.force)
    asked = CamOptions(methods_of(method or ()), tuple(classes or ()), layer, cmap)
    request = image_model(model, images, labels)
    output.emit(cam_of_files(request, asked, images.image or (), output.output, output.force).report())
