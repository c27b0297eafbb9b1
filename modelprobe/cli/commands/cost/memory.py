"""`modelprobe memory`: the peak memory of inference or of a training step, and what is alive then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from modelprobe.cli.options import (
    COUNTING,
    OUTPUT,
    BatchOpt,
    ModelOptions,
    ReportOptions,
    ShapeOptions,
    one_of,
    option,
    target_request,
)
from modelprobe.cli.training_options import FreezeOpt, OptimizerOpt
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from modelprobe.cost.memory.estimate import MemoryResult

EXAMPLES = (
    "modelprobe memory resnet18 --batch 8",
    "modelprobe memory resnet18 --train --optimizer adamw --batch 8 --device cuda",
    "modelprobe memory resnet18 --train --fits 4090",
)

DEVICE_KINDS = ("cpu", "cuda")

TrainOpt = Annotated[bool, option("--train", panel=COUNTING, help="A training step instead of inference.")]
KindOpt = Annotated[
    str | None,
    option(
        "--device",
        metavar="|".join(DEVICE_KINDS),
        callback=one_of("--device", (None, *DEVICE_KINDS)),
        panel=COUNTING,
        help="Whose kernels and allocator; none is needed. cuda: also what torch's caching allocator reserves.",
    ),
]
FitsOpt = Annotated[
    str | None,
    option(
        "--fits",
        metavar="SIZE|DEVICE",
        panel=COUNTING,
        help="The largest batch within 24GiB, or within the memory of a device: 4090, a100-40.",
    ),
]
ContextOpt = Annotated[
    str,
    option("--context", metavar="SIZE", panel=COUNTING, help="With --device cuda: what is outside torch's allocator."),
]


LossOpt = Annotated[
    str | None,
    option("--loss", metavar="FILE.py:FUNCTION", panel=COUNTING, help="With --train: the loss of the model's output."),
]
PlanOpt = Annotated[
    str | None,
    option("--plan", metavar="SIZE|DEVICE", panel=COUNTING, help="What would make it fit, each change recorded."),
]
CurveOpt = Annotated[Path | None, option("--plot", metavar="FILE.png", panel=OUTPUT, help="Draw memory over time.")]


def command(
    model: ModelOptions,
    inputs: ShapeOptions,
    *,
    batch: BatchOpt = None,
    train: TrainOpt = False,
    optimizer: OptimizerOpt = "sgd",
    freeze: FreezeOpt = None,
    loss: LossOpt = None,
    device: KindOpt = None,
    fits: FitsOpt = None,
    plan: PlanOpt = None,
    context: ContextOpt = "1750MiB",
    plot: CurveOpt = None,
    report: ReportOptions,
) -> None:
    """Peak memory of inference or a training step, from shapes alone: its parts, when it is, and what is alive then."""
    report.check()
    from modelprobe.model.inputs.series import parse_batches

    batches = parse_batches(batch)
    _refuse_together(train, batches, fits, plan, plot, {"--optimizer": optimizer != "sgd", "--freeze": freeze,
                                                        "--loss": loss})  # fmt: skip
    from modelprobe.cost.memory.devices import is_device, memory_limit
    from modelprobe.report.amounts import parse_amount

    wanted = fits or plan
    limit = memory_limit(wanted, "--fits" if fits else "--plan") if wanted is not None else 0
    like = device or ("cuda" if wanted is not None and is_device(wanted) else "cpu")
    outside = parse_amount(context, "--context", of_bytes=True)
    from modelprobe.cost.memory.estimate import MemoryByBatch
    from modelprobe.cost.memory.of_target import MemoryRequest, memory_by_batch, memory_of_target, memory_that_fits
    from modelprobe.model.build import load_model
    from modelprobe.model.inputs.from_function import load_function

    criterion = load_function(loss, "--loss") if loss is not None else None
    asked = MemoryRequest(train, optimizer, freeze or (), criterion, like, outside)
    loaded = load_model(target_request(model, inputs, batch=str(batches[0]) if len(batches) == 1 else None))
    if plan is not None:
        from modelprobe.cost.memory.plan import memory_plan

        report.emit(memory_plan(loaded, limit, asked).report())
    elif len(batches) > 1:
        results = memory_by_batch(loaded, batches, asked)
        report.emit(MemoryByBatch(tuple(batches), results, results[-1].env).report())
    else:
        found = memory_that_fits(loaded, limit, asked) if fits is not None else memory_of_target(loaded, asked)
        report.emit((_curve_drawn(found, plot, report.force) if plot is not None else found).report())


def _refuse_together(
    train: bool, batches: Sequence[int], fits: str | None, plan: str | None, plot: Path | None,
    of_training: Mapping[str, object],
) -> None:  # fmt: skip
    """Raise BadInput for options that say something about each other."""
    if fits is not None and batches:
        raise BadInput("--fits finds the batch, and --batch gives one", "leave one of them out")
    if plan is not None and (fits is not None or len(batches) > 1):
        raise BadInput("--plan is for one batch, and asks what fits itself", "leave --fits out, and give one --batch")
    given = [name for name, value in of_training.items() if value]
    if given and not train:
        raise BadInput(f"{' and '.join(given)} {'is' if len(given) == 1 else 'are'} of a training step", "add --train")
    if plot is not None and (plot.suffix.lower() != ".png" or plan is not None or len(batches) > 1):
        hint = "name it with .png" if plot.suffix.lower() != ".png" else "leave out --plan, and give one --batch"
        raise BadInput(f"--plot {plot} draws the curve of one run as a PNG", hint)


def _curve_drawn(result: MemoryResult, path: Path, force: bool) -> MemoryResult:
    from modelprobe.cost.memory.estimate import PARTS
    from modelprobe.files.atomic import atomic_write
    from modelprobe.vision.pictures.curves import stacked_areas

    names = [name.replace("_", " ") for name in PARTS]
    phases = [moment.phase for moment in result.line]
    starts = [(phase, at) for at, phase in enumerate(phases) if at == 0 or phase != phases[at - 1]]
    title = f"{result.model}: memory of {result.what}"
    atomic_write(path, stacked_areas(names, [moment.parts for moment in result.line], starts, title), force=force)
    return replace(result, plot=str(path))
