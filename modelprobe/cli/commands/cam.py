"""`modelprobe cam`: class activation maps."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli.options import (
    IMAGES,
    ColourMapOpt,
    DirectoryOptions,
    ImageModelOptions,
    ImageOptions,
    LabelsOpt,
    image_model,
)

EXAMPLES = (
    "modelprobe cam samples/models.py:DigitCNN --weights samples/digit_cnn.pth --image samples/digit_b.png",
    "modelprobe cam resnet18 --weights random --image samples/shapes.png --class 3 --method gradcam,layercam -o maps",
)

MethodOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME[,NAME]",
        help="gradcam, layercam, guided-gradcam, integrated-gradients, saliency, occlusion. Default: gradcam.",
        show_default=False,
        rich_help_panel=IMAGES,
    ),
]
ClassOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--class",
        "-c",
        metavar="CLASS",
        help="The class, by index or label. Repeatable. Default: the top prediction of each image.",
        show_default=False,
        rich_help_panel=IMAGES,
    ),
]
MapLayersOpt = Annotated[
    str | None,
    typer.Option(
        "--layers",
        "-l",
        metavar="NAME",
        help="The layer. Default: chosen by the paths from the image to the scores; the report says why.",
        show_default=False,
        rich_help_panel=IMAGES,
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
