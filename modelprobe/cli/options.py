"""The options that commands share: one `Annotated` type each, so that a word means the same everywhere, and groups.

A group is a dataclass of options. A command takes it as one parameter, and `unfolded` gives each of its fields an
option of its own: `def command(model: ModelOptions, report: ReportOptions) -> None`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_type_hints

import typer

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.checkpoint.file_names import SAVE_FORMATS, SAVE_SUFFIXES
from modelprobe.errors import BadInput
from modelprobe.report.formats import RENDERERS

if TYPE_CHECKING:
    from modelprobe.model.build import TargetRequest
    from modelprobe.model.weights.request import RepairOptions
    from modelprobe.report.blocks import Report
    from modelprobe.vision.image_model import ImageModelRequest

TARGET, MODEL, INPUT, IMAGES, COUNTING, OUTPUT = "Target", "Model", "Input", "Images", "Counting", "Output"
"""The panels of `--help`."""

FLAG = ""
RARE = "Rare options"
"""The last panel of `--help`: its options stand behind all others, wherever a command's signature has them."""


def _complete_format(incomplete: str) -> list[str]:
    return [name for name in RENDERERS if name.startswith(incomplete)]


def known_format(value: Optional[str]) -> Optional[str]:  # noqa: UP045 - Typer reads it at run time
    """The callback of every option that names a report format: refuses an unknown one before anything is done."""
    from modelprobe.cli.output import choose

    if value in ("pt", "safetensors"):  # what --format of `repair` and `convert` took in earlier releases
        raise BadInput(f"{value} is no format of reports", f"--to {value} chooses the format of a weight file")
    return choose(value, None).name if value is not None else None


TargetArg = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="What to look at: resnet50, timm:vit_base_patch16_224, net.py:Net, package.module:factory, "
        "or a weight file. A plain name is torchvision's if it has it, else timm's.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]

SetOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="An argument for the model's constructor, such as --set num_classes=10. Repeatable.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

ArchOpt = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME",
        help="The network that a weight file belongs to: resnet50, timm:NAME, net.py:Net. It is built, and the report "
        "says whether the file fits.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]

UnsafeLoadOpt = Annotated[
    bool,
    typer.Option(
        "--unsafe-load",
        help="Unpickle a whole model the ordinary way, which runs any code that the file names. For files you trust.",
        rich_help_panel=RARE,
    ),
]

InputOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="An input of forward: 224 (a square image), 3x224x224, 8x3x224x224, ids=1x128:int64. Give it once for "
        "each input, in order. Default: what the model declares, and the report says so.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

BatchOpt = Annotated[
    str | None,
    typer.Option(
        "--batch",
        "-b",
        metavar="N",
        help="Examples in the batch. Default: 1.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

InputsFromOpt = Annotated[
    str | None,
    typer.Option(
        "--inputs-from",
        metavar="FILE.py:FUNCTION",
        help="A function of yours that returns the inputs (a tuple, or a dict for keywords). It is run.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

DeviceOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where to run: cpu, cuda, cuda:1, mps, or meta (no weights in memory, "
        "nothing computed). Default: meta, where that is enough.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

DtypeOpt = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="|".join(FLOATING_DTYPES),
        help="The floating-point type of weights and inputs. Default: the model's own.",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]

DepthOpt = Annotated[
    int | None,
    typer.Option(
        "--depth",
        "-d",
        metavar="N",
        min=0,
        help="How many levels of modules to show; 0 shows the model alone. What is below is added up, not left out.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]

TopOpt = Annotated[
    int | None,
    typer.Option(
        "--top",
        "-n",
        metavar="N",
        min=1,
        help="Show the N largest rows only.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]

FormatOpt = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="|".join(RENDERERS),
        help="How to write the report. Default: by the suffix of -o, else terminal.",
        show_default=False,
        callback=known_format,
        autocompletion=_complete_format,
        rich_help_panel=OUTPUT,
    ),
]

OutputOpt = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the report to a file. Its suffix chooses the format: "
        f"{' '.join(renderer.suffixes[0] for renderer in RENDERERS.values())}.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]

ForceOpt = Annotated[
    bool,
    typer.Option("--force", help="Replace the file that -o names, if it exists.", rich_help_panel=OUTPUT),
]

StrictOpt = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Exit with code 3 when anything was assumed, not counted or left out.",
        rich_help_panel=OUTPUT,
    ),
]


FusedOpt = Annotated[
    bool,
    typer.Option(
        "--fused",
        help="Count the model as deployed: branches re-parameterized, batch norms folded, where it knows how.",
        rich_help_panel=RARE,
    ),
]

FreezeOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze",
        metavar="PATTERN[,PATTERN]",
        help="Parameters that do not train: 'conv1,layer1.*'. Modules or parameters, with wildcards. Repeatable.",
        show_default=False,
        rich_help_panel=COUNTING,
    ),
]


def one_of(option: str, known: Sequence[str | None]) -> Callable[[Any], Any]:
    """The callback of an option that takes one of a table's names. It raises BadInput for any other."""

    def chosen(value: Any) -> Any:
        if value not in known:
            raise BadInput(f"{option} {value!r} is not known", f"choose one of {', '.join(filter(None, known))}")
        return value

    return chosen


# Groups


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model."""

    target: TargetArg
    settings: SetOpt = None
    arch: ArchOpt = None
    unsafe_load: UnsafeLoadOpt = False


@dataclass(frozen=True, kw_only=True)
class ShapeOptions:
    """What the model is given: shapes and types."""

    input: InputOpt = None
    inputs_from: InputsFromOpt = None
    dtype: DtypeOpt = None


@dataclass(frozen=True, kw_only=True)
class InputOptions(ShapeOptions):
    """What the model is given, and where it runs."""

    batch: BatchOpt = None
    device: DeviceOpt = None


def target_request(
    model: ModelOptions, inputs: ShapeOptions | None = None, *, batch: str | None = None, device: str | None = None
) -> TargetRequest:
    """What these options ask for. Raises BadInput for a batch that is no number, or a list."""
    from modelprobe.model.build import TargetRequest
    from modelprobe.model.inputs.series import parse_batches

    inputs = inputs or ShapeOptions()
    if isinstance(inputs, InputOptions):
        batch, device = inputs.batch, inputs.device
    batches = parse_batches(batch)
    if len(batches) > 1:
        raise BadInput(f"--batch {batch} lists several", "`modelprobe scaling` takes a list in --batch")
    return TargetRequest(
        model.target,
        model.settings or (),
        inputs.input or (),
        inputs.inputs_from,
        batches[0] if batches else None,
        inputs.dtype,
        device,
        arch=model.arch,
        unsafe_load=model.unsafe_load,
    )


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Where the report goes, and in which format."""

    format: FormatOpt = None
    output: OutputOpt = None
    force: ForceOpt = False
    strict: StrictOpt = False

    def check(self) -> None:
        """Raise now what `emit` would raise about the format and the path later. For commands that compute for long."""
        from modelprobe.cli.output import check

        check(self.format, self.output, force=self.force)

    def emit(self, report: Report) -> None:
        """Write the report. Under `--strict` raises Incomplete afterwards when a note stands against the answer."""
        from modelprobe.cli.output import emit

        emit(report, self.format, self.output, force=self.force, strict=self.strict)


def unfolded(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose groups of options are options of their own, with those of the panel `RARE` at the end."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        if not is_dataclass(parameter.annotation):
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        found = _options_of(parameter.annotation)
        groups[name] = (parameter.annotation, [option.name for option in found])
        parameters += found
    parameters.sort(key=lambda parameter: _is_rare(parameter.annotation))  # stable: all others keep their order

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = {name: group(**{field: values.pop(field) for field in taken}) for name, (group, taken) in groups.items()}
        command(**made, **values)

    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]


def _is_rare(annotation: Any) -> bool:
    return any(getattr(option, "rich_help_panel", None) == RARE for option in getattr(annotation, "__metadata__", ()))


# Images

ImageOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="FILE|DIR|PATTERN",
        help="An image, a directory of images, or a quoted wildcard ('photos/**/*.jpg'). Repeatable.",
        show_default=False,
        rich_help_panel=IMAGES,
    ),
]
WeightsOpt = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="pretrained|random|FILE",
        help="Published weights, seeded random ones, or a file, which is read safely and repaired where its names "
        "differ. Where published ones cannot be had, random ones are taken and the report says so.",
        rich_help_panel=MODEL,
    ),
]
LayersOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "-l",
        metavar="NAME[,NAME]",
        help="Layers by name or wildcard: layer1,layer4, 'blocks.*.attn', '*'. Repeatable; --list shows them.",
        show_default=False,
        rich_help_panel=IMAGES,
    ),
]
ResizeOpt = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="N|HxW",
        help="Resize the shorter side to N, or the image to HxW. Default: as the model was trained.",
        show_default=False,
        rich_help_panel=RARE,
    ),
]
CropOpt = Annotated[
    bool | None,
    typer.Option(
        "--crop/--no-crop",
        help="Take the center, or squeeze the whole image into the model's size. Default: as the model was trained.",
        show_default=False,
        rich_help_panel=RARE,
    ),
]
MeanOpt = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="X[,X,X]",
        help="Subtracted from values in 0..1. Default: the model's own.",
        show_default=False,
        rich_help_panel=RARE,
    ),
]
StdOpt = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="X[,X,X]",
        help="Divides after that. Default: the model's own.",
        show_default=False,
        rich_help_panel=RARE,
    ),
]
LabelsOpt = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="Names of the classes: one on each line, or JSON. Default: those that the library publishes.",
        show_default=False,
        rich_help_panel=IMAGES,
    ),
]
ColourMapOpt = Annotated[
    str,
    typer.Option(
        "--cmap", metavar="NAME", help="The colour map: viridis, jet, or any of matplotlib's.", rich_help_panel=IMAGES
    ),
]
ListLayersOpt = Annotated[
    bool,
    typer.Option("--list", help="List what can be asked for, and compute nothing.", rich_help_panel=IMAGES),
]
DirectoryOpt = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Write images, index.html and report.json into this directory. The same command line resumes there.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
DirectoryForceOpt = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Write into a directory that holds other files; those of the same names are replaced, none deleted.",
        rich_help_panel=OUTPUT,
    ),
]


@dataclass(frozen=True, kw_only=True)
class ImageModelOptions(ModelOptions):
    """Which model looks, and with which weights."""

    weights: WeightsOpt = "pretrained"


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What it looks at, and how images are prepared."""

    image: ImageOpt = None
    resize: ResizeOpt = None
    crop: CropOpt = None
    mean: MeanOpt = None
    std: StdOpt = None


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


def image_model(model: ImageModelOptions, images: ImageOptions, labels: Path | None = None) -> ImageModelRequest:
    """What these options ask for."""
    from modelprobe.model.build import TargetRequest
    from modelprobe.vision.image_model import ImageModelRequest
    from modelprobe.vision.preprocessing.overrides import PreprocessingOverrides

    request = TargetRequest(
        model.target, model.settings or (), arch=model.arch, unsafe_load=model.unsafe_load, weights=model.weights
    )
    overrides = PreprocessingOverrides(images.resize, images.crop, images.mean, images.std)
    return ImageModelRequest(request, overrides, labels)


# Weight files: options of `keys`, `repair` and `convert`

WEIGHTS = "Weights"

WeightsArg = Annotated[
    str,
    typer.Argument(
        metavar="FILE",
        help="A weight file, the index of its shards, or a checkpoint directory.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
WeightsOutputOpt = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help=f"The weight file to write. Its suffix chooses the format: {' '.join(SAVE_SUFFIXES)}.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
ToOpt = Annotated[
    str | None,
    typer.Option(
        "--to",
        metavar="|".join(SAVE_FORMATS),
        help="The format of the new file. Default: by the suffix of -o.",
        show_default=False,
        callback=one_of("--to", (None, *SAVE_FORMATS)),
        rich_help_panel=OUTPUT,
    ),
]
OverwriteOpt = Annotated[
    bool,
    typer.Option("--force", help="Replace OUT, if it exists. The input is never replaced.", rich_help_panel=OUTPUT),
]
StdoutFormatOpt = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="|".join(RENDERERS),
        help="How to write the report to stdout. Default: terminal.",
        show_default=False,
        callback=known_format,
        autocompletion=_complete_format,
        rich_help_panel=OUTPUT,
    ),
]
BranchOpt = Annotated[
    str | None,
    typer.Option(
        "--branch",
        metavar="NAME",
        help="Which part of the file to take, by its dotted name: state_dict_ema; . is the root. Default: the model.",
        show_default=False,
        rich_help_panel=WEIGHTS,
    ),
]
WantedOpt = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="TARGET|FILE",
        help="The network that the weights are for (resnet50, timm:NAME, net.py:Net), or a file with the right names.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
OriginOpt = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TARGET",
        help="The network that the file was saved from, where its names are others: outputs are compared.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
DropOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        metavar="PATTERN",
        help="Leave these tensors out, and do not expect them: 'fc.*'. Repeatable.",
        show_default=False,
        rich_help_panel=WEIGHTS,
    ),
]
DropHeadOpt = Annotated[
    bool,
    typer.Option("--drop-head", help="Leave out a last layer with other classes.", rich_help_panel=WEIGHTS),
]
PrefixOpt = Annotated[
    str,
    typer.Option(
        "--prefix",
        metavar="NAME",
        help="Take only the tensors under this prefix, and strip it: encoder_q.",
        show_default=False,
        rich_help_panel=WEIGHTS,
    ),
]
ProofInputOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="What both networks are run on to compare outputs: 224, 2x16x512. Default: what the model declares.",
        show_default=False,
        rich_help_panel=RARE,
    ),
]
GridOpt = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="ROWSxCOLUMNS",
        help="The grid of the file's position embedding. Default: square.",
        show_default=False,
        rich_help_panel=RARE,
    ),
]
UnprovenOpt = Annotated[
    bool,
    typer.Option(
        "--unproven",
        help="Accept an assignment of tensors that rests on their order alone.",
        rich_help_panel=RARE,
    ),
]
AllTensorsOpt = Annotated[bool, typer.Option("--all", help="List every tensor by itself.", rich_help_panel=OUTPUT)]


@dataclass(frozen=True, kw_only=True)
class RepairPlanOptions:
    """Which file is to fit what, and how much may be changed or assumed."""

    file: WeightsArg
    arch: WantedOpt = None
    settings: SetOpt = None
    origin: OriginOpt = None
    branch: BranchOpt = None
    prefix: PrefixOpt = ""
    drop: DropOpt = None
    drop_head: DropHeadOpt = False
    inputs: ProofInputOpt = None
    grid: GridOpt = None
    unproven: UnprovenOpt = False

    def request(self, dtype: str | None = None) -> RepairOptions:
        """What these options ask for."""
        from modelprobe.model.weights.request import RepairOptions

        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        given |= {name: tuple(given[name] or ()) for name in ("settings", "drop", "inputs")}
        return RepairOptions(**given, dtype=dtype)
