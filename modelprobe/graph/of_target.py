"""The graph of a target: recorded, with the lines where its classes stand; of a model that fails, what ran."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from modelprobe.errors import ModelRaised, ProbeError
from modelprobe.graph.build import graph_of
from modelprobe.graph.graph import ModelGraph
from modelprobe.model.build import LoadedModel, TargetRequest, load_model, record
from modelprobe.model.user_code.import_file import PRIVATE
from modelprobe.tracing.failures import NeedsValuesError, run_until
from modelprobe.tracing.module_tree import walk


def graph_of_target(request: TargetRequest, train: bool, depth: int | None, fold: bool) -> ModelGraph:
    """The graph of one forward pass. Raises what loading raises, and FailedRun where the model raised while it ran."""
    return graph_of_loaded(load_model(request), train, depth, fold)


def graph_of_loaded(loaded: LoadedModel, train: bool, depth: int | None, fold: bool) -> ModelGraph:
    """The graph of one forward pass of a model. Raises FailedRun where the model raised."""
    sources = forward_lines(loaded.model)
    try:
        trace = record(loaded, train=train)
    except (ModelRaised, NeedsValuesError) as raised:
        run = run_until(raised)
        if run is None:
            raise
        graph = graph_of(run, depth=depth, fold=fold, sources=sources, failure=raised.message)
        raise FailedRun(raised, graph) from raised.__cause__
    return graph_of(trace, depth=depth, fold=fold, sources=sources)


class FailedRun(ProbeError):
    """The model raised: what it said, and the `graph` of what ran until then."""

    def __init__(self, raised: ProbeError, graph: ModelGraph) -> None:
        super().__init__(raised.message, raised.hint)
        self.exit_code = raised.exit_code
        self.graph = graph


def forward_lines(model: nn.Module) -> Mapping[str, str]:
    """Path of a module -> the Python module and the line at which the forward of its class begins."""
    known: dict[type, str] = {}
    return {path: known.setdefault(type(module), _line_of(type(module))) for path, module in walk(model)}


def _line_of(cls: type) -> str:
    forward = getattr(cls, "forward", None)
    code = getattr(forward, "__code__", None)
    home = getattr(forward, "__module__", "")
    if code is None or not home:
        return ""
    # A user's file is imported under a name of ours: its own says more.
    private = any(part.startswith(PRIVATE) for part in home.split("."))
    return f"{Path(code.co_filename).name if private else home}:{code.co_firstlineno}"
