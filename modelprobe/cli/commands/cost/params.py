"""`modelprobe params`: how many parameters, where, and which would train."""

from __future__ import annotations

from modelprobe.cli.options import DepthOpt, DtypeOpt, ModelOptions, ReportOptions
from modelprobe.cli.training_options import FreezeOpt
from modelprobe.model.build import TargetRequest, load_model

EXAMPLES = (
    "modelprobe params resnet18 --depth 1",
    "modelprobe params resnet18 --freeze 'conv1,layer[12].*'",
)


def command(
    model: ModelOptions,
    *,
    dtype: DtypeOpt = None,
    freeze: FreezeOpt = None,
    depth: DepthOpt = None,
    report: ReportOptions,
) -> None:
    """Parameters: total, trainable, by module and dtype, tied ones once, weight-decay groups. With --freeze, what would
    still train."""
    report.check()
    from modelprobe.cost.params import parameters_of
    from modelprobe.cost.patterns import split_patterns

    loaded = load_model(
        TargetRequest(model.target, model.settings or (), dtype=dtype, arch=model.arch, unsafe_load=model.unsafe_load)
    )
    result = parameters_of(
        loaded.tree,
        model=loaded.target.name,
        depth=report.depth(depth),
        freeze=split_patterns(freeze or ()),
        notes=loaded.notes,
        env=loaded.env,
    )
    report.emit(result.report())
