"""torch_geometric: node features and edges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from modelprobe.model.inputs.spec import InputSpec

_NODES, _EDGES = 10, 20


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """A graph of 10 nodes and 20 edges between the first two of them; with features or types of edges where needed."""
    some: Any = model
    channels = some.in_channels
    width = channels[0] if isinstance(channels, (tuple, list)) else channels
    width = width if width > 0 else 16
    graph = {"x": InputSpec(None, (_NODES, width)), "edge_index": InputSpec(None, (2, _EDGES), "int64")}
    features = InputSpec(None, (_EDGES, getattr(some, "edge_dim", None) or 1))
    kinds = InputSpec(None, (_EDGES,), "int64")
    yield graph
    yield {**graph, "edge_attr": features}
    yield {**graph, "edge_type": kinds}
    yield {**graph, "edge_weight": InputSpec(None, (_EDGES,))}
    yield {**graph, "batch": InputSpec(None, (_NODES,), "int64")}
