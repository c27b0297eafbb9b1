"""Recording a target at several sizes and batches, for the table of points and the polynomial through them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelprobe.console import working
from modelprobe.cost.scaling.law import attention_macs, find_crossover, fit_polynomial
from modelprobe.cost.scaling.scaling import Scaling, ScalingPoint, point_of
from modelprobe.model.build import TargetRequest, fuse_model, load_model, record
from modelprobe.model.inputs.series import Series
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.records import Trace


@dataclass
class PointRecorder:
    """Records the target at any size and batch, each once."""

    request: TargetRequest
    series: Series
    fused: bool
    seen: dict[tuple[tuple[str, ...], int | None], Trace] = field(default_factory=dict)

    def __call__(self, inputs: tuple[str, ...], batch: int | None) -> Trace:
        """The recorded forward pass."""
        key = (inputs, batch)
        if key not in self.seen:
            loaded = load_model(replace(self.request, inputs=inputs, batch=batch))
            self.seen[key] = record(fuse_model(loaded) if self.fused else loaded)
        return self.seen[key]

    @property
    def on_meta(self) -> bool:
        """Whether every recording so far was of shapes alone."""
        return all(trace.env.get("device") == "meta" for trace in self.seen.values())


def measure_scaling(request: TargetRequest, series: Series, batches: Sequence[int], *, fused: bool = False) -> Scaling:
    """Every point that was asked for, and the polynomials that a few more recordings verify."""
    recorder = PointRecorder(request, series, fused)
    with working(f"recording {request.target} at {len(series.points) * max(1, len(batches))} sizes"):
        points = tuple(_recorded_points(recorder, series, batches))
        first = next(iter(recorder.seen.values()))
        laws, crossover, notes = _fitted_laws(recorder, series, batches)
    model = str(first.env.get("model", first.tree.cls))
    return Scaling(model, points, laws, crossover, (*_notes_of_all(recorder), *notes), env=first.env)


def _recorded_points(recorder: PointRecorder, series: Series, batches: Sequence[int]) -> Iterator[ScalingPoint]:
    for index, inputs in enumerate(series.points):
        for batch in batches or (None,):
            yield point_of(recorder(inputs, batch), series.sizes[index] if series.sizes else None, batch)


def _fitted_laws(recorder: PointRecorder, series: Series, batches: Sequence[int]) -> tuple[Any, Any, list[Note]]:
    if not recorder.on_meta:
        return (), None, [Note("No polynomial was fitted: the model needs values, so every size is computed for real.")]
    first = batches[0] if batches else None
    notes, laws, crossover = [], [], None
    by_size = _measure_macs(lambda size: recorder(series.at(size), first))
    by_batch = _measure_macs(lambda batch: recorder(series.points[0], batch))
    if series.sizes:
        law = fit_polynomial("size", {size: by_size(size) for size in series.sizes}, by_size)
        crossover = find_crossover(law, by_size) if law else None
        laws += [law] if law else []
        notes += [] if law else [_no_polynomial("size")]
    elif len(series.points) > 1:
        notes.append(Note("No polynomial was fitted: the inputs differ in more than one number."))
    if len(batches) > 1:
        law = fit_polynomial("batch", {batch: by_batch(batch) for batch in batches}, by_batch)
        laws += [law] if law else []
        notes += [] if law else [_no_polynomial("batch")]
    return tuple(laws), crossover, notes


def _no_polynomial(variable: str) -> Note:
    return Note(f"MACs are no polynomial of degree 4 or less in the {variable}, or sizes between these points failed.")


def _measure_macs(recorded: Callable[[int], Trace]) -> Callable[[int], tuple[int, int]]:
    def measure(size: int) -> tuple[int, int]:
        trace = recorded(size)
        return trace.macs, attention_macs(trace)

    return measure


def _notes_of_all(recorder: PointRecorder) -> list[Note]:
    """The notes of the first point, and those of the others that stand against an answer."""
    first, *others = recorder.seen.values()
    more = [note for trace in others for note in trace.notes if note.level is not Level.INFO]
    return list(dict.fromkeys((*first.notes, *more)))
