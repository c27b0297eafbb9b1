"""`modelprobe health`: what is wrong with a weight file, or with a model on one batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe.checkpoint.file_names import names_weights
from modelprobe.cli.options import (
    INPUT,
    MODEL,
    OUTPUT,
    TARGET,
    ArchOpt,
    BatchOpt,
    InputOpt,
    InputsFromOpt,
    ModelOptions,
    ReportOptions,
    SeedOpt,
    SetOpt,
    ShapeOptions,
    UnsafeLoadOpt,
    one_of,
    option,
    target_request,
)
from modelprobe.errors import BadInput, CheckFailed

if TYPE_CHECKING:
    from modelprobe.inside.health.batch_health import BatchHealthResult
    from modelprobe.model.build import TargetRequest

EXAMPLES = (
    "modelprobe health samples/digit_vit.pth",
    "modelprobe health samples/digit_cnn.pth --layers",
    "modelprobe health resnet18 --input 8x3x64x64 --optimizer adam --lr 1e-3",
)
STEP_RULES = ("sgd", "adam", "adamw")

HealthArg = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="A weight file, of which the values are looked at; or a model, which is run: resnet50, net.py:Net, a "
        "weight file with --arch.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
HealthBranchOpt = Annotated[
    str | None,
    option("--branch", metavar="NAME", panel=TARGET, help="Which part of a file is looked at: state_dict_ema."),
]
HealthWeightsOpt = Annotated[
    str | None,
    option(
        "--weights",
        metavar="random|pretrained|FILE",
        panel=MODEL,
        help="The model's weights. Default: random, as before a training.",
    ),
]
HealthImageOpt = Annotated[
    list[str] | None,
    option("--image", metavar="FILE|DIR", panel=INPUT, help="A batch of images, as the model takes them. Repeatable."),
]
HealthLossOpt = Annotated[
    str | None,
    option(
        "--loss",
        metavar="FILE.py:FUNCTION",
        panel=INPUT,
        help="Makes a scalar of what the model returns. Default: the model's own loss, else cross-entropy against "
        "made-up classes, else a mean square.",
    ),
]
RateOpt = Annotated[
    float | None, option("--lr", metavar="X", min=0.0, panel=INPUT, help="A learning rate, whose first step is judged.")
]
RuleOpt = Annotated[
    str,
    option(
        "--optimizer",
        metavar="|".join(STEP_RULES),
        callback=one_of("--optimizer", STEP_RULES),
        panel=INPUT,
        help="The optimizer of --lr.",
    ),
]
SpectrumOpt = Annotated[
    bool, option("--spectrum", panel=OUTPUT, help="Of a file: stable rank and spectral tail of each weight.")
]
DepthPlotOpt = Annotated[
    Path | None,
    option("--plot", metavar="FILE.png", panel=OUTPUT, help="Of a run: how outputs and gradients grow through depth."),
]
AllLayersOpt = Annotated[bool, option("--layers", panel=OUTPUT, help="Also every layer and parameter.")]


def command(
    target: HealthArg,
    *,
    branch: HealthBranchOpt = None,
    settings: SetOpt = None,
    arch: ArchOpt = None,
    weights: HealthWeightsOpt = None,
    image: HealthImageOpt = None,
    input: InputOpt = None,
    inputs_from: InputsFromOpt = None,
    batch: BatchOpt = None,
    loss: HealthLossOpt = None,
    lr: RateOpt = None,
    optimizer: RuleOpt = "sgd",
    layers: AllLayersOpt = False,
    spectrum: SpectrumOpt = False,
    plot: DepthPlotOpt = None,
    seed: SeedOpt = 0,
    unsafe_load: UnsafeLoadOpt = False,
    report: ReportOptions,
) -> None:
    """What is wrong, in ranked sentences. Of a weight file: layers never trained, dead units, steps too large, values
    not finite. Of a model on one batch: no gradient and why, dead and saturated units, the first NaN and its line.

    Exit code 1 when anything was found.
    """
    report.check()
    if names_weights(target) and arch is None:
        _refuse_of_models({
            "--input": input, "--inputs-from": inputs_from, "--batch": batch, "--image": image, "--loss": loss,
            "--lr": lr, "--weights": weights, "--set": settings, "--plot": plot,
        })  # fmt: skip
        from modelprobe.environment import brief
        from modelprobe.inside.health.file_health import check_file_health

        found: Any = replace(check_file_health(target, branch, layers, spectrum), env=brief())
    else:
        if branch is not None or spectrum:
            raise BadInput(f"--{'branch' if branch else 'spectrum'} is for weight files alone", "leave it out")
        given = ModelOptions(target=target, settings=settings, arch=arch, unsafe_load=unsafe_load)
        shapes = ShapeOptions(input=input, inputs_from=inputs_from)
        request = replace(target_request(given, shapes, batch=batch), weights=weights, seed=seed)
        _check_plot(plot, report.force)
        found = _of_run(request, image, loss, {"rate": lr, "optimizer": optimizer, "show_layers": layers})
        if plot is not None:
            found = _drawn_through_depth(found, plot, report.force)
    report.emit(found.report())
    if found.findings:
        raise CheckFailed(f"{target}: {found.findings[0].text}", "the report tells all that was found")


def _refuse_of_models(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value:
            raise BadInput(f"{name} is for a model that is run", "--arch names the network of the file")


def _of_run(
    request: TargetRequest, image: list[str] | None, loss: str | None, settings: dict[str, Any]
) -> BatchHealthResult:
    from modelprobe.model.inputs.from_function import load_function

    criterion = load_function(loss, "--loss") if loss is not None else None
    if image is None:
        from modelprobe.inside.health.of_target import health_of_target

        return health_of_target(request, loss=criterion, **settings)
    if request.inputs or request.inputs_from or request.batch is not None:
        raise BadInput("--image says all of the input", "leave out --input, --inputs-from and --batch")
    return _on_images(request, image, criterion, settings)


def _on_images(request: TargetRequest, image: list[str], loss: Any, settings: dict[str, Any]) -> BatchHealthResult:
    """One step on a batch of images, prepared as the model wants them."""
    from modelprobe.inside.health.of_target import health_of_images
    from modelprobe.vision.image_model import ImageModelRequest, load_image_model
    from modelprobe.vision.images import find_images, gathered

    own = names_weights(request.target)
    asked = replace(request, weights=request.weights or ("pretrained" if own else "random"))
    model = load_image_model(ImageModelRequest(asked))
    photos = [model.open(file) for file in find_images(image)]
    notes = gathered((photo.path, note) for photo in photos for note in model.preprocessing.notes_on(photo))
    images = [model.image(model.arguments(photo), "health") for photo in photos]
    return health_of_images(model.loaded, images, [*model.notes, *notes], loss=loss, **settings)


def _check_plot(plot: Path | None, force: bool) -> None:
    from modelprobe.files.atomic import check_target

    if plot is not None:
        if plot.suffix.lower() != ".png":
            raise BadInput(f"{plot} has another suffix than .png", "name it with .png")
        check_target(plot, force=force)


def _drawn_through_depth(found: BatchHealthResult, plot: Path, force: bool) -> BatchHealthResult:
    from modelprobe.files.atomic import atomic_write
    from modelprobe.vision.pictures.curves import depth_plot

    layers = [(one.path or one.cls, one.std, one.gradient) for one in found.layers]
    atomic_write(plot, depth_plot(layers, found.gains(), f"{found.model}: through depth"), force=force)
    return replace(found, plot=str(plot))
