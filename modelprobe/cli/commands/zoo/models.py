"""`modelprobe models`: torchvision's and timm's models by name, cost and accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelprobe.cli.options import OUTPUT, TARGET, ReportOptions, TopOpt, one_of, option
from modelprobe.errors import BadInput
from modelprobe.files.atomic import atomic_write, check_target

if TYPE_CHECKING:
    from modelprobe.zoo.models import ModelsResult

FILTER = "Filter"
SORTS = ("name", "params", "gmacs", "flops", "activations", "top1", "memory", "family")
TASKS = ("classification", "detection", "segmentation", "video", "optical_flow")
PLOT_AXES = ("gmacs", "params")

EXAMPLES = (
    "modelprobe models 'vit*' --max-params 30M --max-gmacs 5 --has-weights --sort gmacs",
    "modelprobe models --min-top1 80 --max-gmacs 2 --sort top1",
    "modelprobe models resnet --plot resnets.png",
)

PatternArg = Annotated[
    str,
    typer.Argument(
        metavar="[PATTERN]",
        help="A part of the name, or wildcards: 'vit_*_384'. Without one, and without a filter: the families.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
MaxParamsOpt = Annotated[
    str | None, option("--max-params", metavar="N", panel=FILTER, help="At most so many parameters: 30M.")
]
MaxGmacsOpt = Annotated[
    str | None,
    option("--max-gmacs", metavar="N", panel=FILTER, help="At most so many GMACs at the default input: 5, 600M."),
]
MinTop1Opt = Annotated[
    float | None,
    option(
        "--min-top1",
        metavar="PERCENT",
        min=0,
        max=100,
        panel=FILTER,
        help="Published top-1 accuracy of at least this. timm's own metadata gives none, torchvision's does.",
    ),
]
HasWeightsOpt = Annotated[bool, option("--has-weights", panel=FILTER, help="Only models with published weights.")]
TaskOpt = Annotated[
    str,
    option("--task", metavar="|".join(TASKS), callback=one_of("--task", ("", *TASKS)), panel=FILTER, help="One task."),
]
ModelSortOpt = Annotated[
    str,
    option(
        "--sort",
        metavar="|".join(SORTS),
        callback=one_of("--sort", ("", *SORTS)),
        panel=OUTPUT,
        help="Costs from the least, top1 from the best. Default: by name.",
    ),
]
ModelColumnsOpt = Annotated[
    list[str] | None,
    option(
        "--columns",
        metavar="NAME[,NAME]",
        panel=OUTPUT,
        help="name, origin, family, task, params, gmacs, flops, activations, memory, top1, input, weights, licence, "
        "features.",
    ),
]
FrontPlotOpt = Annotated[
    Path | None,
    option("--plot", metavar="FILE.png", panel=OUTPUT, help="Draw cost against accuracy, the Pareto front marked."),
]
AgainstOpt = Annotated[
    str,
    option(
        "--plot-by",
        metavar="|".join(PLOT_AXES),
        callback=one_of("--plot-by", PLOT_AXES),
        panel=OUTPUT,
        help="The cost that --plot draws.",
    ),
]


def command(
    *,
    pattern: PatternArg = "",
    max_params: MaxParamsOpt = None,
    max_gmacs: MaxGmacsOpt = None,
    min_top1: MinTop1Opt = None,
    has_weights: HasWeightsOpt = False,
    task: TaskOpt = "",
    sort: ModelSortOpt = "",
    top: TopOpt = None,
    columns: ModelColumnsOpt = None,
    plot: FrontPlotOpt = None,
    plot_by: AgainstOpt = "gmacs",
    report: ReportOptions,
) -> None:
    """Models of torchvision and timm by name, cost and published accuracy, from an index: nothing is imported or built.

    Figures are of one example of the default input. Names that are newer than the index are counted now.
    """
    report.check()
    if plot is not None:
        if plot.suffix.lower() != ".png":
            raise BadInput(f"--plot {plot} is not a PNG", "name it with .png")
        check_target(plot, force=report.force)
    from modelprobe.environment import brief
    from modelprobe.report.amounts import parse_amount
    from modelprobe.zoo.models import ModelFilter, find_models

    asked = ModelFilter(
        pattern,
        parse_amount(max_params, "--max-params") if max_params is not None else None,
        parse_amount(max_gmacs, "--max-gmacs", scale=10**9) if max_gmacs is not None else None,
        min_top1,
        has_weights,
        task,
        sort,
        top,
    )
    result = find_models(asked, columns or (), brief())
    report.emit((_plotted_front(result, plot, plot_by, report.force) if plot is not None else result).report())


def _plotted_front(result: ModelsResult, path: Path, against: str, force: bool) -> ModelsResult:
    """Write the plot, and say which networks are on the front."""
    from modelprobe.vision.pictures.curves import Curve, scatter_plot
    from modelprobe.zoo.models import AXES, with_front

    found = with_front(result, against)
    key, title = AXES[against]
    points = {
        m.target: (float(getattr(m, key)), m.top1) for m in found.models if m.top1 is not None and getattr(m, key)
    }
    front = Curve("Pareto front", [points[target] for target in found.front])
    others = [at for target, at in points.items() if target not in found.front]
    labels = [target.partition(":")[2] for target in found.front]
    picture = scatter_plot(others, front, labels, result.pattern or "all models", title, "top-1, %")
    atomic_write(path, picture, force=force)
    return replace(found, plot=str(path))
