"""In which way is `flops` asked to count? What goes together, and which of its answers is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelprobe.cli.commands import flops_compare, flops_scaling, flops_train
from modelprobe.errors import BadInput
from modelprobe.model.build import Question, build, fuse, record
from modelprobe.report.blocks import Report

if TYPE_CHECKING:
    from modelprobe.model.inputs.series import Series

BY = ("module", "operator", "kind", "call")
CAUSAL = ("dense", "exact")
CONVENTIONS = ("modelprobe", "torchvision", "torch", "fvcore", "thop", "torchinfo", "ptflops", "ptflops-aten")


@dataclass(frozen=True)
class Way:
    """The options of `flops` that say how to count and what to show, as they were given."""

    by: str
    depth: int | None
    top: int | None
    convention: str
    causal: str
    fused: bool
    compare: bool
    timeout: float | None
    train: bool
    freeze: tuple[str, ...]
    optimizer: str | None
    plot: Path | None
    force: bool


def check(way: Way, series: Series, batches: Sequence[int]) -> None:
    """Raises BadInput for unknown names, and for options that mean nothing together."""
    for option, value, known in (
        ("--by", way.by, BY),
        ("--convention", way.convention, CONVENTIONS),
        ("--causal", way.causal, CAUSAL),
    ):
        if value not in known:
            raise BadInput(f"{option} {value!r} is not known", f"choose one of {', '.join(known)}")
    if way.causal == "exact" and way.convention != "modelprobe":
        raise BadInput(
            f"--causal exact is not how {way.convention} counts", "leave out one of --causal and --convention"
        )
    rules = {"--convention": way.convention != "modelprobe", "--causal": way.causal != "dense"}
    shown = {"--depth": way.depth is not None, "--top": way.top is not None}
    several = {"list in --input or --batch": flops_scaling.several(series, batches)}
    flops_compare.check(way.compare, way.timeout, {**rules, "--by": way.by != "module", **shown, **several})
    flops_scaling.check(series, batches, way.plot, {**rules, "--by": way.by != "module", **shown})
    flops_train.check(
        way.train,
        way.freeze,
        way.optimizer,
        {**rules, "--compare": way.compare, "--fused": way.fused, **several, "--by call": way.by == "call"},
    )


def answer(question: Question, way: Way, series: Series, batches: Sequence[int]) -> Report:
    """The report that is meant: of a training step, of several sizes, of other tools, or of one forward pass."""
    if way.train:
        return flops_train.cost(question, way.freeze, way.optimizer, way.by, way.depth, way.top).report()
    if flops_scaling.several(series, batches):
        return flops_scaling.report(question, series, batches, way.fused, way.plot, way.force)
    if way.compare:
        return flops_compare.compare(question, fused=way.fused, timeout=way.timeout).report()
    return _forward(question, way)


def _forward(question: Question, way: Way) -> Report:
    from modelprobe.cost.causal import exactly_causal
    from modelprobe.cost.conventions.report import cost
    from modelprobe.cost.data_dependent import ranges
    from modelprobe.cost.flops import FlopsResult

    subject = fuse(build(question)) if way.fused else build(question)
    trace = record(subject, functions=way.convention == "ptflops")
    if way.causal == "exact":
        trace = exactly_causal(trace)
    result = cost(trace, way.convention, by=way.by, depth=way.depth, top=way.top)
    if isinstance(result, FlopsResult):
        result = replace(result, ranges=ranges(subject.model, trace))
    return result.report()
