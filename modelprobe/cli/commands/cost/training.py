"""`modelprobe training`: what a training step costs: forward, backward, recomputation, the optimizer."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.options import (
    COUNTING,
    DepthOpt,
    ModelOptions,
    ReportOptions,
    RunOptions,
    SaveTraceOpt,
    StoreOptions,
    TopOpt,
    is_trace_file,
    one_of,
    option,
    target_request,
)
from modelprobe.cli.training_options import FreezeOpt, OptimizerOpt
from modelprobe.cost.tables import TRAINING_GROUPINGS

EXAMPLES = (
    "modelprobe training resnet18 --batch 8 --depth 1",
    "modelprobe training samples/models.py:TinyAttention --optimizer adamw --by operator",
    "modelprobe training resnet18 --freeze 'conv1,bn1,layer[12].*' --depth 1",
)

TrainingByOpt = Annotated[
    str,
    option(
        "--by",
        metavar="|".join(TRAINING_GROUPINGS),
        callback=one_of("--by", TRAINING_GROUPINGS),
        panel=COUNTING,
        help="What the rows are.",
    ),
]


def command(
    model: ModelOptions,
    inputs: RunOptions,
    *,
    freeze: FreezeOpt = None,
    optimizer: OptimizerOpt = "sgd",
    by: TrainingByOpt = TRAINING_GROUPINGS[0],
    depth: DepthOpt = None,
    top: TopOpt = None,
    save_trace: SaveTraceOpt = None,
    store: StoreOptions,
    report: ReportOptions,
) -> None:
    """MACs and FLOPs of a training step: the forward in training mode, the backward pass as autograd runs it, what
    activation checkpointing computes again, and the optimizer's update. The loss is the sum of the outputs."""
    report.check()

    from modelprobe.cost.training import training_cost

    if is_trace_file(model.target):
        from modelprobe.cli.trace_options import refuse_model_options
        from modelprobe.cost.traces.saved import load_training

        refuse_model_options(model, inputs, store, freeze=bool(freeze), save_trace=save_trace is not None)
        recorded, stored = load_training(model.target), None
    else:
        from modelprobe.cost.traces.stored import training_run

        recorded, stored = training_run(target_request(model, inputs), store.use, freeze or ())
    if save_trace is not None:
        from modelprobe.cost.traces.saved import save_run

        save_run(save_trace, report.force, training=recorded)
        stored = None
    result = training_cost(recorded, optimizer=optimizer, by=by, depth=report.depth(depth), top=top)
    report.emit(result.report(), stored)
