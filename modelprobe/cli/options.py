"""The options that commands share: one `Annotated` type each, so that a word means the same everywhere, and groups.

A group is a dataclass of options. A command takes it as one parameter, and the app gives each of its fields an
option of its own: `def command(model: ModelOptions, report: ReportOptions) -> None`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe.checkpoint.dtypes import FLOATING_DTYPES
from modelprobe.cli.output import complete_format, known_format
from modelprobe.errors import BadInput
from modelprobe.report.formats import RENDERERS

if TYPE_CHECKING:
    from modelprobe.cost.traces.stored import StoredRun, StoreUse
    from modelprobe.model.build import TargetRequest
    from modelprobe.report.blocks import Report

TARGET, MODEL, INPUT, IMAGES, COUNTING, OUTPUT = "Target", "Model", "Input", "Images", "Counting", "Output"
"""The panels of `--help`."""

RARE = "Rare options"
"""The last panel of `--help`: its options stand behind all others, wherever a command's signature has them."""


def option(*names: str, panel: str, help: str, **settings: Any) -> Any:
    """An option of these names, in that panel of `--help`."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


def one_of(option: str, known: Sequence[str | None]) -> Callable[[Any], Any]:
    """The callback of an option that takes one of a table's names. It raises BadInput for any other."""

    def chosen(value: Any) -> Any:
        if value not in known:
            raise BadInput(f"{option} {value!r} is not known", f"choose one of {', '.join(filter(None, known))}")
        return value

    return chosen


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
    option(
        "--set",
        metavar="KEY=VALUE",
        panel=MODEL,
        help="An argument for the model's constructor, such as --set num_classes=10. Repeatable.",
    ),
]

ArchOpt = Annotated[
    str | None,
    option(
        "--arch",
        metavar="NAME",
        panel=MODEL,
        help="The network that a weight file belongs to: resnet50, timm:NAME, net.py:Net. It is built, and the "
        "report says whether the file fits.",
    ),
]

UnsafeLoadOpt = Annotated[
    bool,
    option(
        "--unsafe-load",
        panel=RARE,
        help="Unpickle a whole model the ordinary way, which runs any code that the file names. For files you trust.",
    ),
]

CallOpt = Annotated[
    str, option("--call", metavar="METHOD", panel=RARE, help="The method to run instead of forward, such as encode.")
]

RedirectOpt = Annotated[
    bool, option("--redirect-device", panel=RARE, help="Keep the model where it is: .cuda() in its code does nothing.")
]

SeedOpt = Annotated[
    int, option("--seed", metavar="N", min=0, panel=RARE, help="Of random weights, inputs and numbers in forward.")
]

ModeOpt = Annotated[
    str,
    option(
        "--mode",
        metavar="eval|train",
        callback=one_of("--mode", ("eval", "train")),
        panel=RARE,
        help="The mode of the forward pass; train counts no backward pass, `modelprobe training` does.",
    ),
]

IgnoreOpt = Annotated[
    list[str] | None,
    option(
        "--ignore",
        metavar="PATTERN[,PATTERN]",
        panel=COUNTING,
        help="Modules that are left out of every figure: 'head,blocks.*.attn'. Repeatable.",
    ),
]

InputOpt = Annotated[
    list[str] | None,
    option(
        "--input",
        "-i",
        metavar="[NAME=]SHAPE[:DTYPE]",
        panel=INPUT,
        help="An input of forward: 224 (a square image), 3x224x224, 8x3x224x224, ids=1x128:int64. Give it once for "
        "each input, in order. Default: what the model declares, and the report says so.",
    ),
]

BatchOpt = Annotated[
    str | None, option("--batch", "-b", metavar="N", panel=INPUT, help="Examples in the batch. Default: 1.")
]

InputsFromOpt = Annotated[
    str | None,
    option(
        "--inputs-from",
        metavar="FILE.py:FUNCTION",
        panel=INPUT,
        help="A function of yours that returns the inputs (a tuple, or a dict for keywords). It is run.",
    ),
]

DeviceOpt = Annotated[
    str | None,
    option(
        "--device",
        metavar="DEVICE",
        panel=INPUT,
        help="Where to run: cpu, cuda, cuda:1, mps, or meta (no weights in memory, nothing computed). Default: "
        "meta, where that is enough.",
    ),
]

DtypeOpt = Annotated[
    str | None,
    option(
        "--dtype",
        metavar="|".join(FLOATING_DTYPES),
        panel=INPUT,
        help="The floating-point type of weights and inputs. Default: the model's own.",
    ),
]

DepthOpt = Annotated[
    int | None,
    option(
        "--depth",
        "-d",
        metavar="N",
        min=0,
        panel=OUTPUT,
        help="How many levels of modules to show; 0 shows the model alone. What is below is added up, not left out.",
    ),
]

FoldOpt = Annotated[
    bool | None,
    option(
        "--fold/--no-fold",
        panel=OUTPUT,
        help="Show equal blocks once, as xN. Default: in what is read, not in json and csv.",
    ),
]

TopOpt = Annotated[
    int | None, option("--top", "-n", metavar="N", min=1, panel=OUTPUT, help="Show the N largest rows only.")
]

FormatOpt = Annotated[
    str | None,
    option(
        "--format",
        "-f",
        metavar="|".join(RENDERERS),
        callback=known_format,
        autocompletion=complete_format,
        panel=OUTPUT,
        help="How to write the report. Default: by the suffix of -o, else terminal.",
    ),
]

OutputOpt = Annotated[
    Path | None,
    option(
        "--output",
        "-o",
        metavar="FILE",
        panel=OUTPUT,
        help="Write the report to a file. Its suffix chooses the format: "
        f"{' '.join(renderer.suffixes[0] for renderer in RENDERERS.values())}.",
    ),
]

ForceOpt = Annotated[bool, option("--force", panel=OUTPUT, help="Replace the file that -o names, if it exists.")]

StrictOpt = Annotated[
    bool, option("--strict", panel=OUTPUT, help="Exit with code 3 when anything was assumed, not counted or left out.")
]


FusedOpt = Annotated[
    bool,
    option(
        "--fused",
        panel=RARE,
        help="Count the model as deployed: branches re-parameterized, batch norms folded, where it knows how.",
    ),
]

SaveTraceOpt = Annotated[
    Path | None,
    option("--save-trace", metavar="FILE.mptrace", panel=OUTPUT, help="Keep the recorded run as a file, a target too."),
]

FreshOpt = Annotated[
    bool, option("--fresh", panel=RARE, help="Record anew what the store holds of an earlier run, and keep that.")
]

KeepOpt = Annotated[
    bool,
    option(
        "--keep",
        panel=RARE,
        help="Let the store hold this run of your own code too, until a file changes that was imported for it.",
    ),
]

TRACE_SUFFIX = ".mptrace"


def is_trace_file(target: str) -> bool:
    """Whether the target is a recorded run."""
    return target.endswith(TRACE_SUFFIX)


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


@dataclass(frozen=True, kw_only=True)
class RunOptions(InputOptions):
    """What is run of it, and how."""

    call: CallOpt = "forward"
    redirect_device: RedirectOpt = False
    seed: SeedOpt = 0


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """Whether a run that was recorded before may be the answer."""

    fresh: FreshOpt = False
    keep: KeepOpt = False

    @property
    def use(self) -> StoreUse:
        """The same, as what records runs takes it."""
        from modelprobe.cost.traces.stored import StoreUse

        return StoreUse(self.fresh, self.keep)


def target_request(
    model: ModelOptions, inputs: ShapeOptions | None = None, *, batch: str | None = None, device: str | None = None
) -> TargetRequest:
    """What these options ask for. Raises BadInput for a batch that is no number, or a list."""
    from modelprobe.model.build import TargetRequest

    inputs = inputs or ShapeOptions()
    if isinstance(inputs, InputOptions):
        batch, device = inputs.batch, inputs.device
    return TargetRequest(
        model.target,
        model.settings or (),
        inputs.input or (),
        inputs.inputs_from,
        _one_batch(batch) if batch is not None else None,
        inputs.dtype,
        device,
        arch=model.arch,
        unsafe_load=model.unsafe_load,
        **_run_settings(inputs),
    )


def _one_batch(text: str) -> int | None:
    from modelprobe.model.inputs.series import parse_batches

    batches = parse_batches(text)
    if len(batches) > 1:
        raise BadInput(
            f"--batch {text} lists several", "give one; `modelprobe scaling` and `modelprobe profile` take a list"
        )
    return batches[0] if batches else None


def _run_settings(inputs: ShapeOptions) -> dict[str, Any]:
    if not isinstance(inputs, RunOptions):
        return {}
    return {"call": inputs.call, "redirect": inputs.redirect_device, "seed": inputs.seed}


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

    def is_short(self) -> bool:
        """Whether the report is as long as a screen: data for programs, and a page that folds its trees, hold all."""
        from modelprobe.cli.output import choose

        return choose(self.format, self.output).name not in ("json", "jsonl", "csv", "html")

    def folded(self, given: bool | None) -> bool:
        """Whether equal blocks are shown once: as given, else in what is as long as a screen."""
        return self.is_short() if given is None else given

    def depth(self, given: int | None) -> int | None:
        """The depth of a tree: what was given, else what a screen holds; for programs and pages all of it."""
        from modelprobe.cost.rollup import ALL_ROWS

        return ALL_ROWS if given is None and not self.is_short() else given

    def emit(self, report: Report, stored: StoredRun | None = None) -> None:
        """Write the report. Under `--strict` raises Incomplete afterwards when a note stands against the answer.

        `stored` is the run that it says all of: the same command line can be answered by its text.
        """
        from modelprobe.cli.output import emit

        emit(report, self.format, self.output, force=self.force, strict=self.strict, stored=stored)
