"""Asking every question of one model: one recorded forward pass for costs and graph, one that follows memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelprobe.cost.buffers import buffers_of
from modelprobe.cost.flops import FlopsResult, flops_of
from modelprobe.cost.memory.estimate import MemoryResult
from modelprobe.cost.params import parameters_of
from modelprobe.cost.rollup import ALL_ROWS
from modelprobe.cost.summary import summary_of
from modelprobe.environment import describe_machine
from modelprobe.errors import BadInput, ProbeError
from modelprobe.graph.build import graph_of
from modelprobe.graph.graph import GraphOverlay, ModelGraph
from modelprobe.graph.of_target import forward_lines
from modelprobe.graph.overlays import overlay_from
from modelprobe.graph.overview.times import times_from
from modelprobe.model.build import LoadedModel, TargetRequest, load_model, record
from modelprobe.report.blocks import Block, Fact, Facts, Figure, Level, Note, Report, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.records import Trace

MOST_LAYERS = 8
"""Outermost layers whose activations are shown."""

SAID_ELSEWHERE: Mapping[str, Sequence[str] | None] = {
    "summary": None, "operators": None, "memory": ("Input",), "cam": ("Written",), "features": ("Written",),
}  # fmt: skip
"""Facts of a section that the headline has, or that say nothing here; None: all of them."""


@dataclass(frozen=True)
class OverviewSection:
    """The answer of one command under a title of its own."""

    key: str
    title: str
    result: Result


@dataclass(frozen=True)
class Overview(Result):
    """The answers to every question, in the order in which they are read; the graph and the memory among them.

    `memory` is None where it could not be followed; a note then says why.
    """

    model: str
    flops: FlopsResult
    graph: ModelGraph
    memory: MemoryResult | None
    sections: tuple[OverviewSection, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)
    overlays: tuple[GraphOverlay, ...] = field(repr=False, default=())

    def headline(self) -> Facts:
        """What a forward pass costs, and the peak of its memory."""
        facts = self.flops.report().blocks[0]
        assert isinstance(facts, Facts)
        more = [Fact("Operators", self.flops.operators, Unit.COUNT)]
        if self.memory is not None:  # with what kernels take, so the figure without is left out
            facts = replace(facts, items=tuple(fact for fact in facts.items if fact.label != "Peak memory"))
            where = self.memory.peak_module or self.memory.peak_operator
            more.append(
                Fact("Peak memory", self.memory.peak_bytes, Unit.BYTES, f"inference, weights included; {where}")
            )
        return Facts((*facts.items, *more))

    def blocks_of(self, section: OverviewSection) -> tuple[Block, ...]:
        """What a section shows: its own facts, tables and pictures, and the notes that the headline has not."""
        left_out = SAID_ELSEWHERE.get(section.key, ())
        return tuple(
            _without_facts(block, left_out)
            for block in section.result.report().blocks
            if block not in self.notes and not (isinstance(block, Facts) and left_out is None)
        )

    def to_dict(self) -> dict[str, Any]:
        """Each answer as its command prints it, under the section's key."""
        answers = {section.key: section.result.report().data for section in self.sections}
        return {"model": self.model, "flops": self.flops.to_dict(), **answers, "graph": self.graph.to_dict()}

    def report(self) -> Report:
        """The headline, then every section; the graph is in the page and in JSON."""
        blocks: list[Block] = [self.headline()]
        for section in self.sections:
            # The pictures are in a directory that does not stay: the page alone embeds them.
            found = [block for block in self.blocks_of(section) if not isinstance(block, Figure)]
            blocks += [_titled(found[0], section.title), *found[1:]]
        return self.blocks_report(
            f"{self.model}: report", "modelprobe.report/1", *dict.fromkeys((*blocks, *self.notes))
        )


def _without_facts(block: Block, labels: Sequence[str] | None) -> Block:
    if not isinstance(block, Facts) or not labels:
        return block
    return replace(block, items=tuple(fact for fact in block.items if fact.label not in labels))


def _titled(block: Block, title: str) -> Block:
    if not isinstance(block, (Facts, Table)):
        return block
    return replace(block, title=f"{title}: {block.title}" if block.title else title)


def overview_of_target(request: TargetRequest, train: bool = False) -> Overview:
    """Every answer about a target. Raises what loading and running it raise."""
    from modelprobe.tracing.module_tree import saved_names

    loaded = load_model(request)
    trace = record(loaded, train=train)
    memory, notes = _memory_of(loaded)
    return overview_of(trace, memory, forward_lines(loaded.model), saved_names(loaded.model), notes)


def overview_of_file(path: str) -> Overview:
    """Every answer that a recorded run holds. Raises BadInput for a file without a forward pass."""
    from modelprobe.cost.memory.of_target import estimated
    from modelprobe.cost.traces.saved import load_forward, load_memory

    trace, _ = load_forward(path)
    try:
        memory: MemoryResult | None = estimated(load_memory(path), 0)
        notes: tuple[Note, ...] = ()
    except ProbeError:
        memory, notes = None, (Note("The recorded run holds no memory; `modelprobe memory` records it.", Level.INFO),)
    return overview_of(trace, memory, notes=notes)


def _memory_of(loaded: LoadedModel) -> tuple[MemoryResult | None, tuple[Note, ...]]:
    from modelprobe.cost.memory.of_target import MemoryRequest, memory_of_target

    try:
        return memory_of_target(loaded, MemoryRequest()), ()
    except ProbeError as error:
        return None, (Note(f"Memory could not be followed: {error.message}", Level.WARNING),)


def overview_of(
    trace: Trace,
    memory: MemoryResult | None = None,
    sources: Mapping[str, str] | None = None,
    saved: frozenset[str] | None = None,
    notes: Sequence[Note] = (),
) -> Overview:
    """Every answer that a recorded forward pass gives."""
    flops = flops_of(trace, depth=ALL_ROWS)
    name = flops.model
    sections = [
        OverviewSection("summary", "Layers", summary_of(trace, depth=ALL_ROWS)),
        OverviewSection("operators", "Operators", flops_of(trace, by="operator")),
        *([OverviewSection("memory", "Memory", memory)] if memory is not None else []),
        OverviewSection("params", "Parameters", parameters_of(trace.tree, model=name, depth=ALL_ROWS)),
    ]
    if any(entry.role == "buffer" for entry in trace.tree.state):
        found = buffers_of(trace.tree, saved=saved, model=name, show_all=False)
        sections.append(OverviewSection("buffers", "Buffers", found))
    sections.append(OverviewSection("environment", "Environment", describe_machine()))
    said = tuple(dict.fromkeys((*flops.report().notes, *notes)))
    return Overview(name, flops, graph_of(trace, sources=sources), memory, tuple(sections), said, trace.env)


def with_scaling(overview: Overview, request: TargetRequest, sizes: str) -> Overview:
    """The same with MACs at other input sizes: `sizes` as `--input` of `scaling` takes them."""
    from modelprobe.cost.scaling.points import measure_scaling
    from modelprobe.model.inputs.series import parse_series

    series = parse_series([sizes])
    if len(series.points) < 2:
        raise BadInput(f"--sizes {sizes} is one size", "list several: --sizes 224,256,288")
    return _before_environment(overview, OverviewSection("scaling", "Scaling", measure_scaling(request, series, ())))


def with_times(overview: Overview, path: Path) -> Overview:
    """The same with the times that `profile --by layer` measured, in the graph too. Raises BadInput for other files."""
    times = times_from(path)
    overlay = overlay_from(overview.graph, path)
    found = _before_environment(overview, OverviewSection("times", "Time and roofline", times))
    return replace(found, overlays=(*overview.overlays, overlay))


def with_images(overview: Overview, request: TargetRequest, images: Sequence[str], place: Path | None) -> Overview:
    """The same with class maps of these images, or else what the outermost layers put out for them.

    Pictures go to the directory `place`, if one is given.
    """
    from modelprobe.vision.cam.cam import CamOptions, cam_of_files
    from modelprobe.vision.features.run import FeaturesOptions, run_features
    from modelprobe.vision.image_model import ImageModelRequest
    from modelprobe.vision.preprocessing.overrides import PreprocessingOverrides

    model = ImageModelRequest(request, PreprocessingOverrides(), None, "cpu", 1, None)
    try:
        maps = cam_of_files(model, CamOptions(("gradcam",), (), (), "jet"), images, place, True)
    except BadInput as error:
        layers = [row.path for row in overview.flops.rows if row.depth == 1 and row.calls and row.path][:MOST_LAYERS]
        if not layers:
            raise
        seen = run_features(FeaturesOptions(model, images, layers, directory=place, force=True))
        said = Note(f"Class activation maps: {error.message}. The outermost layers are shown instead.", Level.INFO)
        found = _before_environment(overview, OverviewSection("features", "Layer activations", seen))
        return replace(found, notes=(*found.notes, said))
    return _before_environment(overview, OverviewSection("cam", "Class activation maps", maps))


def _before_environment(overview: Overview, section: OverviewSection) -> Overview:
    return replace(overview, sections=(*overview.sections[:-1], section, overview.sections[-1]))
