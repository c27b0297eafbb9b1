"""`flops` with a list of sizes or batches: a table of points, the exact law through them, a plot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe.cli import options
from modelprobe.console import working
from modelprobe.errors import BadInput
from modelprobe.files.atomic import atomic_write
from modelprobe.model.build import Question, build, fuse, record
from modelprobe.report.blocks import Level, Note, Report

if TYPE_CHECKING:
    from modelprobe.cost.scaling import Scaling, ScalingPoint
    from modelprobe.model.inputs.series import Series
    from modelprobe.tracing.records import Trace

BatchesOpt = Annotated[
    str | None,
    typer.Option(
        "--batch",
        "-b",
        metavar="N[,N...]",
        help="How many examples in the batch; several make a table. Left out: one.",
        show_default=False,
        rich_help_panel=options.INPUT,
    ),
]

PlotOpt = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE.png",
        help="With several sizes or batches: draw MACs against them.",
        show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]


def parse(inputs: Sequence[str] | None, batch: str | None) -> tuple[Series, tuple[int, ...]]:
    """The points that `--input` and `--batch` list. Raises BadInput for lists that do not go together."""
    from modelprobe.model.inputs.series import parse_batches, parse_series

    return parse_series(inputs or ()), parse_batches(batch)


def several(series: Series, batches: Sequence[int]) -> bool:
    """Whether there is more than one point."""
    return len(series.points) > 1 or len(batches) > 1


def check(series: Series, batches: Sequence[int], plot: Path | None, others: Mapping[str, bool]) -> None:
    """Raises BadInput for options of a single recording beside a list, and for a plot that cannot be drawn."""
    for option, given in others.items():
        if several(series, batches) and given:
            raise BadInput(
                f"{option} is for one size, not for a list of sizes", f"leave {option} out, or give one size"
            )
    if plot is None:
        return
    if plot.suffix.lower() != ".png":
        raise BadInput(f"--plot {plot} is not a PNG", "name it with .png")
    if not series.sizes and len(batches) < 2:
        raise BadInput("there is nothing to plot against", "give --input or --batch several sizes: --input 224,256,288")


@dataclass
class Recorder:
    """Records the target at any size and batch, each once."""

    question: Question
    series: Series
    fused: bool
    seen: dict[tuple[tuple[str, ...], int | None], Trace] = field(default_factory=dict)

    def __call__(self, inputs: tuple[str, ...], batch: int | None) -> Trace:
        """The recorded forward pass."""
        key = (inputs, batch)
        if key not in self.seen:
            subject = build(replace(self.question, inputs=inputs, batch=batch))
            self.seen[key] = record(fuse(subject) if self.fused else subject)
        return self.seen[key]

    @property
    def on_meta(self) -> bool:
        """Whether every recording so far was of shapes alone."""
        return all(trace.env.get("device") == "meta" for trace in self.seen.values())


def report(
    question: Question, series: Series, batches: Sequence[int], fused: bool, plot: Path | None, force: bool
) -> Report:
    """The points, their laws, and the plot if one is asked for."""
    found = scaling(question, series, batches, fused)
    return (draw(found, plot, force) if plot is not None else found).report()


def scaling(question: Question, series: Series, batches: Sequence[int], fused: bool) -> Scaling:
    """Every point that was asked for, and the laws that a few more runs prove."""
    from modelprobe.cost.scaling import Scaling

    recorder = Recorder(question, series, fused)
    with working(f"recording {question.target} at {len(series.points) * max(1, len(batches))} sizes"):
        points = tuple(_points(recorder, series, batches))
        first = next(iter(recorder.seen.values()))
        laws, crossover, notes = _laws(recorder, series, batches)
    model = str(first.env.get("model", first.tree.cls))
    return Scaling(model, points, laws, crossover, (*_notes(recorder), *notes), env=first.env)


def _points(recorder: Recorder, series: Series, batches: Sequence[int]) -> Iterator[ScalingPoint]:
    from modelprobe.cost.scaling import point

    for index, inputs in enumerate(series.points):
        for batch in batches or (None,):
            yield point(recorder(inputs, batch), series.sizes[index] if series.sizes else None, batch)


def _laws(recorder: Recorder, series: Series, batches: Sequence[int]) -> tuple[Any, Any, list[Note]]:
    from modelprobe.cost.scaling_law import find_crossover, find_law

    if not recorder.on_meta:
        return (), None, [Note("No law was sought: the model needs values, so every size is computed for real.")]
    first = batches[0] if batches else None
    notes, laws, crossover = [], [], None
    by_size = _measure(lambda size: recorder(series.at(size), first))
    by_batch = _measure(lambda batch: recorder(series.points[0], batch))
    if series.sizes:
        law = find_law("size", {size: by_size(size) for size in series.sizes}, by_size)
        crossover = find_crossover(law, by_size) if law else None
        laws += [law] if law else []
        notes += [] if law else [_lawless("size")]
    elif len(series.points) > 1:
        notes.append(Note("No law was sought: the inputs differ in more than one number."))
    if len(batches) > 1:
        law = find_law("batch", {batch: by_batch(batch) for batch in batches}, by_batch)
        laws += [law] if law else []
        notes += [] if law else [_lawless("batch")]
    return tuple(laws), crossover, notes


def _lawless(variable: str) -> Note:
    return Note(
        f"MACs are no polynomial of degree 4 or less in the {variable}, or it was refused between these points."
    )


def _measure(recorded: Callable[[int], Trace]) -> Callable[[int], tuple[int, int]]:
    from modelprobe.cost.scaling_law import attention_macs

    def measure(size: int) -> tuple[int, int]:
        trace = recorded(size)
        return trace.macs, attention_macs(trace)

    return measure


def _notes(recorder: Recorder) -> list[Note]:
    """The notes of the first point, and what a reader must know of the others."""
    first, *others = recorder.seen.values()
    more = [note for trace in others for note in trace.notes if note.level is not Level.INFO]
    return list(dict.fromkeys((*first.notes, *more)))


def draw(result: Scaling, path: Path, force: bool) -> Scaling:
    """Write the plot: MACs against the size, a line for each batch, or against the batch alone."""
    from modelprobe.vision.pictures.curves import Curve, curves

    by_size = len({point.size for point in result.points}) > 1
    batches = list(dict.fromkeys(point.batch for point in result.points)) if by_size else [None]
    lines = []
    for batch in batches:
        mine = [p for p in result.points if p.batch == batch or not by_size]
        at = [float((p.size if by_size else p.batch) or 0) for p in mine]
        macs = [(x, float(p.macs)) for x, p in zip(at, mine, strict=True)]
        if len(batches) > 1:
            lines.append(Curve(f"batch {batch}", macs))
            continue
        law = next((law for law in result.laws if law.variable == ("size" if by_size else "batch")), None)
        lines.append(Curve("MACs", macs, law.path(law.macs, max(at)) if law else ()))
        if any(p.attention_macs for p in mine):
            attention = [(x, float(p.attention_macs)) for x, p in zip(at, mine, strict=True)]
            lines.append(Curve("of which attention", attention, law.path(law.attention_macs, max(at)) if law else ()))
    x = "size of the input" if by_size else "batch"
    atomic_write(path, curves(lines, f"{result.model}: MACs of a forward pass", x, "MACs"), force=force)
    return replace(result, plot=str(path))
