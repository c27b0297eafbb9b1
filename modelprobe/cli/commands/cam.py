"""`modelprobe cam`: which places of a picture speak for a class?"""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe import console
from modelprobe.cli import directory_options as delivery
from modelprobe.cli import options, output
from modelprobe.vision import looker as sight

MethodOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        "-m",
        metavar="NAME[,NAME]",
        help="gradcam, layercam, guided-gradcam, integrated-gradients, saliency, occlusion. Left out: gradcam.",
        show_default=False,
        rich_help_panel=sight.PICTURES,
    ),
]
ClassOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        metavar="CLASS",
        help="For which class, by index or label. May be given again. Left out: the top prediction of each picture.",
        show_default=False,
        rich_help_panel=sight.PICTURES,
    ),
]
LayerOpt = Annotated[
    str | None,
    typer.Option(
        "--layer",
        metavar="NAME",
        help="At which layer. Left out: chosen by the paths from the picture to the scores; the report says why.",
        show_default=False,
        rich_help_panel=sight.PICTURES,
    ),
]


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    arch: options.ArchOpt = None,
    unsafe_load: options.UnsafeLoadOpt = False,
    weights: sight.WeightsOpt = sight.PRETRAINED,
    image: sight.ImageOpt = None,
    method: MethodOpt = None,
    classes: ClassOpt = None,
    layer: LayerOpt = None,
    resize: sight.ResizeOpt = None,
    crop: sight.CropOpt = None,
    mean: sight.MeanOpt = None,
    std: sight.StdOpt = None,
    labels: sight.LabelsOpt = None,
    cmap: sight.ColourMapOpt = "jet",
    format: options.FormatOpt = None,
    out: delivery.FolderOpt = None,
    force: delivery.FolderForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """Class activation maps: where a picture speaks for a class, by Grad-CAM or another method, at a chosen layer."""
    delivery.check_folder(out, force)
    from modelprobe.vision.cam.cam import CamOptions, methods_of, run_cam
    from modelprobe.vision.images import find_images
    from modelprobe.vision.pictures.colour import colour_map

    asked = CamOptions(methods_of(method or ()), tuple(classes or ()), layer, cmap)
    colour_map(cmap)
    files = find_images(image or ())
    seeing = sight.ImageModelRequest(
        target, settings or (), arch, unsafe_load, weights, resize, crop, mean, std, labels
    )
    view = sight.load_image_model(seeing).view()
    result = delivery.deliver(out, force, lambda place: run_cam(view, asked, files, place, console.working))
    output.emit(result.report(), format, strict=strict)
