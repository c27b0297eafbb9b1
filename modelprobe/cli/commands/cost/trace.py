"""`modelprobe trace`: every operator of a forward pass in order; the recorded run as a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from modelprobe.cli.options import (
    COUNTING,
    TRACE_SUFFIX,
    ModelOptions,
    ModeOpt,
    ReportOptions,
    RunOptions,
    is_trace_file,
    option,
    target_request,
)

EXAMPLES = (
    "modelprobe trace samples/models.py:TinyCNN",
    "modelprobe trace resnet18 --module layer4 --operator conv*",
    "modelprobe trace resnet18 -o resnet18.mptrace",
)

ModulePatternOpt = Annotated[
    list[str] | None,
    option("--module", metavar="PATTERN", panel=COUNTING, help="Operators inside modules: 'layer4.*'. Repeatable."),
]
OperatorPatternOpt = Annotated[
    list[str] | None,
    option("--operator", metavar="PATTERN", panel=COUNTING, help="Operators of a name: 'conv*'. Repeatable."),
]


def command(
    model: ModelOptions,
    inputs: RunOptions,
    *,
    mode: ModeOpt = "eval",
    module: ModulePatternOpt = None,
    operator: OperatorPatternOpt = None,
    report: ReportOptions,
) -> None:
    """Every operator of a forward pass in order, with module, shapes, MACs and bytes. `-o run.mptrace` keeps the run as
    a file, which flops, summary and trace take in place of the model, without torch."""
    kept = report.output if report.output is not None and report.output.suffix == TRACE_SUFFIX else None
    shown = replace(report, output=None) if kept is not None else report
    shown.check()
    from modelprobe.cost.traces.operators import operators_of

    if is_trace_file(model.target):
        from modelprobe.cli.trace_options import refuse_model_options
        from modelprobe.cost.traces.saved import load_forward

        refuse_model_options(model, inputs, mode=mode != "eval")
        trace, bounds = load_forward(model.target)
    else:
        from modelprobe.cost.data_dependent import cost_bounds
        from modelprobe.model.build import load_model, record

        loaded = load_model(target_request(model, inputs))
        trace = record(loaded, train=mode == "train")
        bounds = cost_bounds(loaded.model, trace)
    found = operators_of(trace, module or (), operator or ())
    if kept is not None:
        from modelprobe.cost.traces.saved import save_run

        save_run(kept, report.force, forward=trace, bounds=bounds)
    shown.emit(found.report())
