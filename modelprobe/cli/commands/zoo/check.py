"""`modelprobe check`: whether a model stays within a budget, and has not become dearer than a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe.cli.options import (
    OUTPUT,
    TARGET,
    BatchOpt,
    InputOpt,
    InputsFromOpt,
    ModelOptions,
    ReportOptions,
    SetOpt,
    ShapeOptions,
    option,
    target_request,
)
from modelprobe.console import say
from modelprobe.errors import BadInput, CheckFailed
from modelprobe.files.atomic import atomic_write, check_target

NO_GROWTH = "0%"

if TYPE_CHECKING:
    from modelprobe.cost.budgets.check import CheckedModel, CheckResult

BUDGET_PANEL = "Budget"

EXAMPLES = (
    "modelprobe check resnet50 --max-params 26M --max-gmacs 4.2",
    "modelprobe check resnet50 --baseline costs.json --update-baseline",
)

OptionalTargetArg = Annotated[
    str,
    typer.Argument(
        metavar="[TARGET]",
        help="The model. Default: those under tool.modelprobe.check in pyproject.toml.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
ParamsBudgetOpt = Annotated[
    str | None, option("--max-params", metavar="N", panel=BUDGET_PANEL, help="At most so many parameters: 25M.")
]
GmacsBudgetOpt = Annotated[
    str | None, option("--max-gmacs", metavar="N", panel=BUDGET_PANEL, help="At most so many GMACs: 4.2, 600M.")
]
GflopsBudgetOpt = Annotated[
    str | None,
    option("--max-gflops", metavar="N", panel=BUDGET_PANEL, help="At most so many GFLOPs (2 per MAC, and the rest)."),
]
ActivationsBudgetOpt = Annotated[
    str | None,
    option(
        "--max-activations", metavar="N", panel=BUDGET_PANEL, help="At most so many outputs of conv and matmul layers."
    ),
]
MemoryBudgetOpt = Annotated[
    str | None,
    option(
        "--max-memory",
        metavar="SIZE",
        panel=BUDGET_PANEL,
        help="At most so many bytes of weights, buffers, inputs and activations at the peak of inference: 500MB.",
    ),
]
BaselineOpt = Annotated[
    Path | None,
    option("--baseline", metavar="FILE.json", panel=BUDGET_PANEL, help="Figures that must not be exceeded."),
]
GrowthOpt = Annotated[
    str,
    option("--tolerance", metavar="SHARE", panel=BUDGET_PANEL, help="What figures may grow by since the baseline: 1%."),
]
UpdateBaselineOpt = Annotated[
    bool, option("--update-baseline", panel=BUDGET_PANEL, help="Write the figures of now to the baseline.")
]
JunitOpt = Annotated[
    Path | None, option("--junit", metavar="FILE.xml", panel=OUTPUT, help="Also write the result as JUnit XML.")
]
GithubOpt = Annotated[
    bool,
    option("--github", panel=OUTPUT, help="Also annotate the pull request, and add the report to the job's summary."),
]


def command(
    target: OptionalTargetArg = "",
    *,
    settings: SetOpt = None,
    inputs: InputOpt = None,
    inputs_from: InputsFromOpt = None,
    batch: BatchOpt = None,
    max_params: ParamsBudgetOpt = None,
    max_gmacs: GmacsBudgetOpt = None,
    max_gflops: GflopsBudgetOpt = None,
    max_activations: ActivationsBudgetOpt = None,
    max_memory: MemoryBudgetOpt = None,
    baseline: BaselineOpt = None,
    tolerance: GrowthOpt = NO_GROWTH,
    update_baseline: UpdateBaselineOpt = False,
    junit: JunitOpt = None,
    github: GithubOpt = False,
    report: ReportOptions,
) -> None:
    """Whether parameters, MACs, FLOPs, activations and memory stay within limits and within a baseline, for CI.

    Exit code 1, and a line for each, when something is exceeded. The figures are deterministic: no false alarm. A model
    without a limit and without a baseline is refused (exit code 2): nothing would be checked.
    """
    report.check()
    if junit is not None:
        check_target(junit, force=True)
    given = {
        "set": settings, "input": inputs, "inputs-from": inputs_from, "batch": batch, "max-params": max_params,
        "max-gmacs": max_gmacs, "max-gflops": max_gflops, "max-activations": max_activations, "max-memory": max_memory,
        "baseline": baseline, "tolerance": tolerance,
    }  # fmt: skip
    result = _check_models(target, given, update_baseline)
    if junit is not None:
        from modelprobe.cost.budgets.ci import junit_xml

        atomic_write(junit, junit_xml(result), force=True)
    if github:
        from modelprobe.cost.budgets.ci import append_summary, github_annotations

        append_summary(result)
        for line in github_annotations(result):
            say(line)
    report.emit(result.report())
    if not result.passed:
        for text in result.breaches[:-1]:
            say(f"exceeded: {text}")
        accept = "; --update-baseline accepts what grew" if result.grew else ""
        raise CheckFailed(result.breaches[-1], f"make the model cheaper, or raise the budget{accept}")


def _check_models(target: str, given: Mapping[str, Any], update: bool) -> CheckResult:
    """Every model checked: the one that is named, or those of pyproject.toml."""
    from modelprobe.cost.budgets.baseline import write_baseline
    from modelprobe.cost.budgets.check import CheckResult
    from modelprobe.environment import brief

    jobs = [(target, dict(given))]
    if not target:
        from modelprobe.cost.budgets.configured import configured_checks

        ignored = [f"--{key}" for key, value in given.items() if value not in (None, NO_GROWTH)]
        if ignored:
            raise BadInput(f"{ignored[0]} needs a TARGET", "pyproject.toml holds the options of its own targets")
        jobs = [(check.target, dict(check.options)) for check in configured_checks(Path.cwd())]
    models, written = [], ""
    for name, options in jobs:
        place = str(options.get("baseline") or "")
        if update and not place:
            raise BadInput("--update-baseline has no file to write", "name it: --baseline costs.json")
        model = _checked_model(name, options, update)
        models.append(model)
        if update:
            entry = {"inputs": list(model.inputs), **{figure.figure: figure.value for figure in model.figures}}
            write_baseline(Path(place), {name: entry})
            written = place
    result = CheckResult(True, tuple(models), written, env=brief())
    return replace(result, passed=not result.breaches)


def _checked_model(target: str, options: Mapping[str, Any], update: bool) -> CheckedModel:
    from modelprobe.cost.budgets.baseline import read_baseline
    from modelprobe.cost.budgets.check import Budget, check_trace
    from modelprobe.report.amounts import parse_amount, parse_share

    limits = {
        figure: parse_amount(
            str(options[key]), f"--{key}", scale=10**9 if key in ("max-gmacs", "max-gflops") else 1,
            of_bytes=key == "max-memory",
        )
        for figure, key in (
            ("parameters", "max-params"), ("macs", "max-gmacs"), ("flops", "max-gflops"),
            ("activations", "max-activations"), ("memory", "max-memory"),
        )
        if options.get(key) is not None
    }  # fmt: skip
    tolerance = parse_share(str(options.get("tolerance", NO_GROWTH)), "--tolerance")
    if not limits and not options.get("baseline"):
        raise BadInput(
            f"nothing to check of {target}: it has no limit and no baseline",
            '--max-params 25M, or --baseline costs.json --update-baseline; in pyproject.toml, max-params = "25M"',
        )
    from modelprobe.cost.rollup import input_texts
    from modelprobe.model.build import load_model, record

    batch = options.get("batch")
    shapes = ShapeOptions(input=_texts(options.get("input")), inputs_from=options.get("inputs-from"))
    request = target_request(
        ModelOptions(target=target, settings=_texts(options.get("set"))),
        shapes,
        batch=None if batch is None else str(batch),
    )
    loaded = load_model(request)
    trace = record(loaded)
    place = options.get("baseline")
    before = {} if place is None or update else read_baseline(Path(place), target, input_texts(trace))
    return check_trace(target, trace, Budget(limits, before, str(place or ""), tolerance))


def _texts(value: Any) -> list[str] | None:
    """A setting that may be one text or a list of them."""
    if value is None or isinstance(value, list):
        return None if value is None else [str(item) for item in value]
    return [str(value)]
