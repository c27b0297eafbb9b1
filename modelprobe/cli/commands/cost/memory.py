"""`modelprobe memory`: the peak memory of inference or of a training step, and what is alive then."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.options import (
    COUNTING,
    BatchOpt,
    FreezeOpt,
    ModelOptions,
    ReportOptions,
    ShapeOptions,
    one_of,
    option,
    target_request,
)
from modelprobe.errors import BadInput

EXAMPLES = (
    "modelprobe memory resnet18 --batch 8",
    "modelprobe memory resnet18 --train --optimizer adamw --batch 8 --device cuda",
    "modelprobe memory resnet18 --train --fits 4090",
)

OPTIMIZER_NAMES = ("sgd", "sgd-momentum", "adam", "adamw", "rmsprop", "adagrad")
DEVICE_KINDS = ("cpu", "cuda")

TrainOpt = Annotated[bool, option("--train", panel=COUNTING, help="A training step instead of inference.")]
MemoryOptimizerOpt = Annotated[
    str,
    option(
        "--optimizer",
        metavar="|".join(OPTIMIZER_NAMES),
        callback=one_of("--optimizer", OPTIMIZER_NAMES),
        panel=COUNTING,
        help="The optimizer of --train.",
    ),
]
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


def command(
    model: ModelOptions,
    inputs: ShapeOptions,
    *,
    batch: BatchOpt = None,
    train: TrainOpt = False,
    optimizer: MemoryOptimizerOpt = "sgd",
    freeze: FreezeOpt = None,
    device: KindOpt = None,
    fits: FitsOpt = None,
    context: ContextOpt = "2150MiB",
    report: ReportOptions,
) -> None:
    """Peak memory of inference or a training step, from shapes alone: its parts, when it is, and what is alive then."""
    report.check()
    if fits is not None and batch is not None:
        raise BadInput("--fits finds the batch, and --batch gives one", "leave one of them out")
    if not train and (freeze or optimizer != "sgd"):
        raise BadInput("--optimizer and --freeze are of a training step", "add --train")
    from modelprobe.cost.memory.devices import is_device, memory_limit
    from modelprobe.report.amounts import parse_amount

    limit = memory_limit(fits) if fits is not None else None
    device = device or ("cuda" if fits is not None and is_device(fits) else "cpu")
    outside = parse_amount(context, "--context", of_bytes=True)
    from modelprobe.cost.memory.of_target import fitted, memory_of_target
    from modelprobe.model.build import load_model

    loaded = load_model(target_request(model, inputs, batch=batch))
    if limit is not None:
        found = fitted(
            loaded, limit, train=train, optimizer=optimizer, freeze=freeze or (), like=device, context=outside
        )
    else:
        found = memory_of_target(
            loaded, train=train, optimizer=optimizer, freeze=freeze or (), like=device, context=outside
        )
    report.emit(found.report())
