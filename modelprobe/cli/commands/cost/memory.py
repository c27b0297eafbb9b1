"""`modelprobe memory`: the peak memory of inference or of a training step, and what is alive then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from modelprobe.cli.options import (
    COUNTING,
    OUTPUT,
    TRACE_SUFFIX,
    BatchOpt,
    ModelOptions,
    ReportOptions,
    SaveTraceOpt,
    ShapeOptions,
    StoreOptions,
    is_trace_file,
    one_of,
    option,
    target_request,
)
from modelprobe.cli.training_options import FreezeOpt, LossOpt, OptimizerOpt
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from modelprobe.cost.memory.estimate import MemoryByBatch, MemoryResult
    from modelprobe.cost.memory.plan import MemoryPlan
    from modelprobe.cost.memory.request import MemoryRequest
    from modelprobe.cost.traces.saved import RecordedMemory
    from modelprobe.cost.traces.stored import StoredRun
    from modelprobe.model.build import TargetRequest

EXAMPLES = (
    "modelprobe memory resnet18 --batch 8",
    "modelprobe memory resnet18 --train --optimizer adamw --batch 8 --device cuda",
    "modelprobe memory resnet18 --train --fits 4090",
)

DEVICE_KINDS = ("cpu", "cuda")
CONTEXT = "1750MiB"

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
AmpOpt = Annotated[
    bool, option("--amp", panel=COUNTING, help="Under autocast: to bfloat16, with --device cuda to float16.")
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
    amp: AmpOpt = False,
    device: KindOpt = None,
    fits: FitsOpt = None,
    plan: PlanOpt = None,
    context: ContextOpt = CONTEXT,
    plot: CurveOpt = None,
    save_trace: SaveTraceOpt = None,
    store: StoreOptions,
    report: ReportOptions,
) -> None:
    """Peak memory of inference or a training step, from shapes alone: its parts, when it is, and what is alive then."""
    report.check()
    from modelprobe.model.inputs.series import parse_batches

    batches = parse_batches(batch)
    of_training = {"--optimizer": optimizer != "sgd", "--freeze": freeze, "--loss": loss}
    from modelprobe.report.amounts import parse_amount

    outside = parse_amount(context, "--context", of_bytes=True)
    stored: StoredRun | None = None
    found: MemoryResult | MemoryByBatch | MemoryPlan
    if is_trace_file(model.target):
        others = {"batch": batch, "train": train, "fits": fits, "plan": plan, "device": device, "amp": amp}
        others |= {"save_trace": save_trace is not None, "fresh": store.fresh, "keep": store.keep}
        found = _of_trace(model, inputs, {**of_training, **others}, outside)
    else:
        from modelprobe.cost.memory.request import MemoryRequest

        _refuse_together(train, batches, fits, plan, (plot, save_trace), of_training)
        limit, like = _limit(fits, plan, device, context)
        asked = MemoryRequest(train, optimizer, freeze or (), like=like, context=outside, amp=amp)
        asked = asked if loss is None else _with_loss(asked, loss)
        request = target_request(model, inputs, batch=str(batches[0]) if len(batches) == 1 else None)
        if plan is not None or limit or len(batches) > 1:
            found = _of_several(request, asked, limit, batches, plan)
        else:
            found, stored = _of_one(request, store, asked, save_trace, report.force)
    kept = stored if plot is None and save_trace is None else None
    report.emit(_with_curve(found, plot, report.force).report(), kept)


def _with_loss(asked: MemoryRequest, loss: str) -> MemoryRequest:
    from modelprobe.model.inputs.from_function import load_function

    return replace(asked, loss=load_function(loss, "--loss"))


def _of_one(
    request: TargetRequest, store: StoreOptions, asked: MemoryRequest, save: Path | None, force: bool
) -> tuple[MemoryResult, StoredRun | None]:
    """One run, recorded or from the store, and where it is kept."""
    from modelprobe.cost.traces.stored import memory_run

    recorded, stored = memory_run(request, store.use, asked)
    if save is not None:
        from modelprobe.cost.traces.saved import save_run

        save_run(save, force, memory=recorded)
    return _estimate_from(recorded, asked.context), stored


def _limit(fits: str | None, plan: str | None, device: str | None, context: str) -> tuple[int, str]:
    """Bytes that may be taken, 0 for any, and whose kernels and allocator: those of a GPU where one is named."""
    from modelprobe.cost.memory.devices import is_device, memory_limit

    wanted = fits if fits is not None else plan
    limit = memory_limit(wanted, "--fits" if fits is not None else "--plan") if wanted is not None else 0
    like = device or ("cuda" if wanted is not None and is_device(wanted) else "cpu")
    if context != CONTEXT and like != "cuda":
        raise BadInput("--context is what stands outside torch's allocator on a GPU", "add --device cuda")
    return limit, like


def _of_several(
    request: TargetRequest, asked: MemoryRequest, limit: int, batches: Sequence[int], plan: str | None
) -> MemoryPlan | MemoryByBatch | MemoryResult:
    """What takes more than one run."""
    from modelprobe.cost.memory.of_target import memory_by_batch, memory_that_fits
    from modelprobe.model.build import load_model

    loaded = load_model(request)
    if len(batches) > 1:
        from modelprobe.cost.memory.estimate import MemoryByBatch

        results = memory_by_batch(loaded, batches, asked)
        return MemoryByBatch(tuple(batches), results, results[-1].env)
    if plan is None:
        return memory_that_fits(loaded, limit, asked)
    from modelprobe.cost.memory.plan import memory_plan

    return memory_plan(loaded, limit, asked)


def _of_trace(
    model: ModelOptions, inputs: ShapeOptions, others: Mapping[str, object], context: int
) -> MemoryResult:  # fmt: skip
    from modelprobe.cli.trace_options import refuse_model_options
    from modelprobe.cost.traces.saved import load_memory

    refuse_model_options(model, inputs, **{name: bool(value) for name, value in others.items()})
    return _estimate_from(load_memory(model.target), context)


def _estimate_from(recorded: RecordedMemory, context: int) -> MemoryResult:
    from modelprobe.cost.memory.estimate import estimate_of

    return estimate_of(recorded.trace, like=recorded.like, optimizer=recorded.optimizer, context=context)


def _refuse_together(
    train: bool, batches: Sequence[int], fits: str | None, plan: str | None, files: Sequence[Path | None],
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
    for file, suffix in zip(files, (".png", TRACE_SUFFIX), strict=True):
        if file is not None and file.suffix.lower() != suffix:
            raise BadInput(f"{file} has another suffix than {suffix}", f"name it with {suffix}")
        if file is not None and (plan is not None or len(batches) > 1):
            raise BadInput(f"{file} is to hold one run", "leave out --plan, and give one --batch")


def _with_curve(
    result: MemoryResult | MemoryPlan | MemoryByBatch, path: Path | None, force: bool
) -> MemoryResult | MemoryPlan | MemoryByBatch:
    """The same with its curve drawn, where there is a path for it: of one run alone."""
    from modelprobe.cost.memory.estimate import PARTS, MemoryResult

    if path is None or not isinstance(result, MemoryResult):
        return result
    from modelprobe.files.atomic import atomic_write
    from modelprobe.vision.pictures.curves import stacked_areas

    names = [name.replace("_", " ") for name in PARTS]
    phases = [moment.phase for moment in result.line]
    starts = [(phase, at) for at, phase in enumerate(phases) if at == 0 or phase != phases[at - 1]]
    title = f"{result.model}: memory of {result.what}"
    atomic_write(path, stacked_areas(names, [moment.parts for moment in result.line], starts, title), force=force)
    return replace(result, plot=str(path))
