"""`modelprobe params`: how many parameters, where, and which would train; groups for an optimizer; initialization."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from modelprobe.checkpoint.file_names import names_weights
from modelprobe.cli.options import (
    COUNTING,
    MODEL,
    DepthOpt,
    DtypeOpt,
    FoldOpt,
    ModelOptions,
    ReportOptions,
    option,
)
from modelprobe.cli.training_options import FreezeOpt
from modelprobe.errors import BadInput
from modelprobe.model.build import TargetRequest, load_model
from modelprobe.report.blocks import Report

EXAMPLES = (
    "modelprobe params resnet18 --freeze 'conv1,layer[12].*'",
    "modelprobe params resnet18 --groups --lr 'fc.*=1e-2' --lr '*=1e-3'",
    "modelprobe params timm:test_vit --init",
)

GroupsOpt = Annotated[
    bool,
    option("--groups", panel=COUNTING, help="Groups for an optimizer as code: with weight decay and without."),
]
RatesOpt = Annotated[
    list[str] | None,
    option(
        "--lr",
        metavar="PATTERN=RATE",
        panel=COUNTING,
        help="With --groups: a learning rate for some parameters, the first that fits a name. Repeatable.",
    ),
]
InitOpt = Annotated[
    bool, option("--init", panel=MODEL, help="How each layer is initialized: fans, and the scheme its values fit.")
]


def command(
    model: ModelOptions,
    *,
    dtype: DtypeOpt = None,
    freeze: FreezeOpt = None,
    depth: DepthOpt = None,
    fold: FoldOpt = None,
    groups: GroupsOpt = False,
    lr: RatesOpt = None,
    init: InitOpt = False,
    report: ReportOptions,
) -> None:
    """Parameters: total, trainable, by module and dtype, tied ones once, weight-decay groups. With --freeze, what would
    still train; with --groups, code for an optimizer; with --init, how layers are initialized."""
    report.check()
    if lr and not groups:
        raise BadInput("--lr is for --groups", "add --groups")
    if (groups or init) and (freeze or depth is not None or dtype is not None or (groups and init)):
        raise BadInput("--groups and --init are reports of their own", "give one of them, without --freeze and --depth")
    from modelprobe.cost.params import parameters_of
    from modelprobe.cost.patterns import split_patterns

    request = TargetRequest(
        model.target, model.settings or (), dtype=dtype, arch=model.arch, unsafe_load=model.unsafe_load
    )
    if groups:
        from modelprobe.cost.optimizers.groups import groups_of, parse_rates

        rates = parse_rates(lr or ())
        loaded = load_model(request)
        report.emit(
            groups_of(loaded.tree, rates, model=loaded.target.name, notes=loaded.notes, env=loaded.env).report()
        )
        return
    if init:
        report.emit(_initialization(request))
        return
    loaded = load_model(request)
    result = parameters_of(
        loaded.tree,
        model=loaded.target.name,
        depth=report.depth(depth),
        freeze=split_patterns(freeze or ()),
        folded=report.folded(fold),
        notes=loaded.notes,
        env=loaded.env,
    )
    report.emit(result.report())


def _initialization(request: TargetRequest) -> Report:
    from modelprobe.inside.health.initialized import initialization_of
    from modelprobe.model.weights.chosen import AS_BUILT, PRETRAINED

    own = names_weights(request.target)
    return initialization_of(load_model(replace(request, weights=PRETRAINED if own else AS_BUILT))).report()
