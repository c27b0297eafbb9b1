"""The graph of a recorded run: modules as nested boxes, operators in them, equal blocks folded, edges by value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelprobe.report.blocks import Column, Fact, Facts, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

WHOLE_MODEL = 0
"""The number of the node that is the model itself."""


FAILED_INSIDE = "did not end"
"""How the remark of a module begins in which a run stopped."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A box: `kind` is module, operator, input, output or failed; `parent` the one that it lies in, -1 for none.

    `copies` equal neighbours are drawn as this one. `inputs` and `outputs` are texts of shapes; costs are of one copy,
    with all that lies inside: `bytes_moved` read and written, `activation_bytes` what its operators put out.
    `folded` are the paths of the copies that are not drawn. `source` is the Python module and line of the class's
    forward. `remark` says of a shared or repeated module, of a failure, or that what is inside is not listed.
    """

    id: int
    parent: int
    kind: str
    name: str
    path: str
    cls: str
    copies: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    arguments: str
    parameters: int
    macs: int
    flops: int
    bytes_moved: int
    activation_bytes: int
    operators: int
    source: str = ""
    remark: str = ""
    folded: tuple[str, ...] = field(repr=False, default=())


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """A value from one box without boxes inside to another. `repeats`: it leads back to the next copy of a pattern."""

    source: int
    target: int
    shape: str
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class GraphOverlay:
    """A value for each node of a graph that colours it, None where nothing is known, and what it says in words.

    With `logarithmic` the colours follow the magnitude.
    """

    key: str
    title: str
    values: tuple[float | None, ...]
    texts: tuple[str, ...]
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class ModelGraph(Result):
    """Nodes in pre-order, the model itself first, and the edges between those that have no other inside."""

    model: str
    inputs: tuple[str, ...]
    operators: int
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    failure: str
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def children(self) -> dict[int, list[int]]:
        """Node -> the nodes directly inside it, in the order in which they ran."""
        found: dict[int, list[int]] = {}
        for node in self.nodes[1:]:
            found.setdefault(node.parent, []).append(node.id)
        return found

    def report(self) -> Report:
        """A row for each module and operator; the edges are in the JSON."""
        columns = (
            Column("name", "Box"), Column("cls", "Class"), Column("path", "Path", priority=3),
            Column("outputs", "Outputs"), Column("parameters", "Params", Unit.COUNT, priority=1),
            Column("macs", "MACs", Unit.MACS), Column("remark", "Remark", priority=2),
        )  # fmt: skip
        depth: dict[int, int] = {-1: -1}
        rows: list[Row] = []
        for node in self.nodes:
            depth[node.id] = depth[node.parent] + 1
            rows.append(
                Row(
                    (node.name, node.cls, node.path, ", ".join(node.outputs), node.parameters, node.macs, node.remark),
                    depth[node.id], f"x{node.copies}" if node.copies > 1 else "", node.kind != "module",
                )
            )  # fmt: skip
        facts = [
            Fact("Input", ", ".join(self.inputs) or "none"),
            Fact("Operators", self.operators, Unit.COUNT),
            Fact("Boxes", len(self.nodes), Unit.COUNT),
            Fact("Edges", len(self.edges), Unit.COUNT),
        ]
        if self.failure:
            facts.append(Fact("Failed", self.failure))
        return self.blocks_report(
            f"{self.model}: graph", "modelprobe.graph/1", Facts(tuple(facts)),
            Table(columns, tuple(rows), tree=True, key="nodes"), *self.notes,
        )  # fmt: skip
