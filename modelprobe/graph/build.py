"""Making the graph of a run: a tree of module calls and operators, folded, cut at a depth, with edges on top."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from modelprobe.cost.folding import FoldedBranch, fold_equal, range_of_names
from modelprobe.cost.rollup import input_texts, model_name, parameters_inside
from modelprobe.graph.dataflow import INPUT, OUTPUT, Flow, flows
from modelprobe.graph.graph import FAILED_INSIDE, WHOLE_MODEL, GraphEdge, GraphNode, ModelGraph
from modelprobe.report.blocks import Level, Note
from modelprobe.report.units import printable
from modelprobe.tracing.records import OpCall, TensorRef, Trace

MOST_NODES = 20_000
"""More boxes than this are not drawn: then what lies in the deepest modules is left out, and that is said."""

SINGLE_LEAVES = 40
"""Equal neighbours without modules in them fold only where more than this many stand side by side: three projections
of one attention are drawn as three, a thousand layers in a row are not."""


@dataclass
class _Item:
    """A call of a module or of an operator in the tree of the run. `below` are the items directly inside."""

    node: GraphNode
    below: list[_Item] = field(default_factory=list)
    place: int = -1

    def signature(self) -> Hashable:
        node = self.node
        return (node.kind, node.cls, node.arguments, node.inputs, node.outputs, self.place)


def graph_of(
    trace: Trace,
    *,
    depth: int | None = None,
    fold: bool = True,
    sources: Mapping[str, str] | None = None,
    failure: str = "",
) -> ModelGraph:
    """The graph of a run. `depth` is how many levels of modules are opened, all without; `sources` maps a module's path
    to where its class stands. `failure` is what
    was raised in the end: the operator that raised it, else the last module's own code, is marked."""
    root, ops = _tree_of(trace, sources or {})
    notes = list(trace.notes)
    if failure:
        _mark_failure(root, failure)
    into = _folded_into(root) if fold else {}
    _keep_paths(root, into)
    nodes, shown = _numbered(root, into, depth)
    if len(nodes) > MOST_NODES:
        deepest = _depth_that_fits(root, into)
        nodes, shown = _numbered(root, into, deepest)
        notes.append(Note(f"{len(trace.ops):,} operators: modules below depth {deepest} are drawn closed.", Level.INFO))
    links = flows(trace)
    ends, edges = _edges(trace, links, ops, shown, into, len(nodes))
    many = [node.copies for node in nodes if node.copies > 1]
    if many:
        notes.append(_folded_note(len(many), sum(many)))
    return ModelGraph(
        model_name(trace), tuple(input_texts(trace)), len(trace.ops), (*nodes, *ends), edges, failure, tuple(notes),
        trace.env,
    )  # fmt: skip


def _folded_note(boxes: int, copies: int) -> Note:
    stand = "1 box stands" if boxes == 1 else f"{boxes} boxes stand"
    return Note(f"{stand} for {copies} equal blocks; --no-fold draws them all.", Level.INFO)


def shape_label(ref: TensorRef) -> str:
    """`1x64x56x56`, with the dtype unless it is float32."""
    text = "x".join(map(str, ref.shape)) or "scalar"
    return text if ref.dtype == "float32" else f"{text} {ref.dtype}"


def _tree_of(trace: Trace, sources: Mapping[str, str]) -> tuple[_Item, list[_Item]]:
    """The items of all calls under the model, and those of the operators."""
    extra = {node.path: node.extra for node in trace.tree.modules}
    parameters = parameters_inside(trace.tree)
    top = next((at for at, call in enumerate(trace.calls) if call.parent < 0 and not call.path), -1)
    root = _Item(_module_node(trace, top, "", trace.tree.cls, extra, parameters, sources))
    items: dict[int, _Item] = {-1: root, top: root}
    order: list[tuple[int, int, int, _Item]] = []
    for at, call in enumerate(trace.calls):
        if at != top:
            items[at] = _Item(_module_node(trace, at, call.path, call.cls, extra, parameters, sources))
            order.append((call.first_op, 0, at, items[at]))
    ops = [_Item(_operator_node(op)) for op in trace.ops]
    order += [(at, 1, trace.ops[at].call, item) for at, item in enumerate(ops)]
    for _, is_op, call_number, item in sorted(order, key=lambda entry: (entry[0], entry[1], entry[2])):
        items[call_number if is_op else trace.calls[call_number].parent].below.append(item)
    _set_places(root)
    _add_costs(root)
    return root, ops


def _module_node(
    trace: Trace, at: int, path: str, cls: str, extra: Mapping[str, str], parameters: Mapping[str, int],
    sources: Mapping[str, str],
) -> GraphNode:  # fmt: skip
    call = trace.calls[at] if at >= 0 else None
    inputs, outputs = (call.inputs, call.outputs) if call else ((), ())
    remark = f"call {call.number}" if call and call.number > 1 else ""
    others = sum(1 for first in trace.tree.aliases.values() if first == path)
    if others:
        remark = f"{remark}, shared under {others + 1} names".strip(", ")
    parent = trace.calls[call.parent].path if call and call.parent >= 0 else ""
    name = path[len(parent) + 1 :] if parent and path.startswith(parent + ".") else path
    return GraphNode(
        0, 0, "module", printable(name or cls), printable(path), printable(cls), 1,
        _shape_texts(inputs), _shape_texts(outputs), printable(extra.get(path, "")), parameters.get(path, 0),
        0, 0, 0, 0, 0, sources.get(path, ""), remark,
    )  # fmt: skip


def _shape_texts(shapes: tuple[tuple[int, ...], ...]) -> tuple[str, ...]:
    return tuple("x".join(map(str, shape)) or "scalar" for shape in shapes)


def _operator_node(op: OpCall) -> GraphNode:
    given = ", ".join("_" if value is None else str(value) for value in op.arguments)
    remark = "not counted" if op.status == "uncounted" else ""
    kind = "failed" if op.status == "failed" else "operator"
    return GraphNode(
        0, 0, kind, bare_name(op.name), printable(op.module), op.name, 1, tuple(map(shape_label, op.inputs)),
        tuple(map(shape_label, op.outputs)), printable(given, 200), 0, op.macs, op.flops,
        op.bytes_read + op.bytes_written, sum(ref.nbytes for ref in op.outputs), 1, "", remark,
    )  # fmt: skip


def bare_name(name: str) -> str:
    """`conv2d` of `aten.conv2d.default`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "aten" else name


def _set_places(item: _Item) -> None:
    stack = [item]
    while stack:
        here = stack.pop()
        leaves = [at for at, child in enumerate(here.below) if not any(c.node.kind == "module" for c in child.below)]
        if len(leaves) <= SINGLE_LEAVES:
            for at in leaves:
                here.below[at].place = at
        stack += here.below


def _add_costs(item: _Item) -> None:
    """Sums up what lies inside each module, from the innermost."""
    order, stack = [], [item]
    while stack:
        here = stack.pop()
        order.append(here)
        stack += here.below
    for here in reversed(order):
        if here.node.kind == "module":
            below = [child.node for child in here.below]
            here.node = replace(
                here.node,
                macs=sum(n.macs for n in below), flops=sum(n.flops for n in below),
                bytes_moved=sum(n.bytes_moved for n in below), operators=sum(n.operators for n in below),
                activation_bytes=sum(n.activation_bytes for n in below),
            )  # fmt: skip


def _mark_failure(root: _Item, said: str) -> None:
    """Marks the modules in which a run stopped, and adds a box where no operator of theirs raised."""
    item = root
    while True:
        item.node = replace(item.node, remark=f"{FAILED_INSIDE}, {item.node.remark}".rstrip(", "))
        last = item.below[-1] if item.below else None
        if last is None or last.node.kind != "module" or last.node.outputs:
            break
        item = last
    if last is None or last.node.kind != "failed":
        given = item.node.inputs
        item.below.append(
            _Item(GraphNode(0, 0, "failed", "its own code", item.node.path, "", 1, given, (), "", 0, 0, 0, 0, 0, 0))
        )
    item.below[-1].node = replace(item.below[-1].node, remark=printable(said))


def _folded_into(root: _Item) -> dict[int, _Item]:
    """id of an item -> the equal one that is drawn for it; and the drawn ones' `copies`."""

    def branch(item: _Item) -> FoldedBranch[_Item]:
        return FoldedBranch(item, [branch(child) for child in item.below])

    into: dict[int, _Item] = {}

    def merge(drawn: _Item, other: _Item) -> None:
        into[id(other)] = drawn
        for mine, theirs in zip(drawn.below, other.below, strict=False):
            merge(mine, theirs)

    def visit(branches: list[FoldedBranch[_Item]]) -> None:
        for found in branches:
            if found.copies:
                names = [copy.node.name for copy in found.copies[: found.run - 1]]
                name = range_of_names(found.item.node.name, names)
                found.item.node = replace(found.item.node, name=name, copies=found.count)
            for copy in found.copies:
                merge(found.item, copy)
            visit(found.children)

    visit(fold_equal([branch(child) for child in root.below], _Item.signature))
    return into


def _keep_paths(root: _Item, into: Mapping[int, _Item]) -> None:
    """Tells each drawn item the paths of those that it stands for."""
    found: dict[int, dict[str, None]] = {}
    drawn: dict[int, _Item] = {}
    stack = [root]
    while stack:
        item = stack.pop()
        stack += item.below
        shown = item
        while id(shown) in into:
            shown = into[id(shown)]
        if shown is not item:
            drawn[id(shown)] = shown
            found.setdefault(id(shown), {})[item.node.path] = None
    for number, item in drawn.items():
        item.node = replace(item.node, folded=tuple(path for path in found[number] if path != item.node.path))


def _walk_drawn(root: _Item, into: Mapping[int, _Item], depth: int | None) -> Iterator[tuple[_Item, int, int, bool]]:
    """(item, number of its parent, its own number, whether it is drawn); those not drawn have the number of the box
    that hides them."""
    count = 0
    stack: list[tuple[_Item, int, int, bool]] = [(root, -1, 0, True)]
    while stack:
        item, parent, level, drawn = stack.pop()
        number = parent
        if drawn:
            number, count = count, count + 1
        yield item, parent, number, drawn
        closed = not drawn or (depth is not None and level >= depth)
        for child in reversed(item.below):
            if id(child) not in into:
                stack.append((child, number, level + 1, not closed))


def _numbered(root: _Item, into: Mapping[int, _Item], depth: int | None) -> tuple[list[GraphNode], dict[int, int]]:
    """The boxes that are drawn, and id of an item -> number of the box that shows or hides it."""
    nodes: list[GraphNode] = []
    shown: dict[int, int] = {}
    for item, parent, number, drawn in _walk_drawn(root, into, depth):
        shown[id(item)] = number
        if drawn:
            nodes.append(replace(item.node, id=number, parent=parent))
    return nodes, shown


def _depth_that_fits(root: _Item, into: Mapping[int, _Item]) -> int:
    depth = 1
    while len(_numbered(root, into, depth + 1)[0]) <= MOST_NODES:
        depth += 1
    return depth


def _input_names(trace: Trace) -> list[str]:
    """`x`, as the forward calls it, where that is known; else how the recording calls it."""
    told = [text.partition(": ") for text in input_texts(trace)]
    if len(told) == len(trace.inputs) and all(colon for _, colon, _ in told):
        return [name for name, _, _ in told]
    return [trace.named.get(ref.value, "") for ref in trace.inputs]


def _edges(
    trace: Trace, links: Iterator[Flow], ops: list[_Item], shown: Mapping[int, int], into: Mapping[int, _Item],
    first: int,
) -> tuple[list[GraphNode], tuple[GraphEdge, ...]]:  # fmt: skip
    """The boxes of inputs and outputs, and every edge once."""
    ends: list[GraphNode] = []
    numbers: dict[tuple[int, int], int] = {}

    def end(kind: int, number: int, ref: TensorRef) -> int:
        at = numbers.setdefault((kind, number), first + len(ends))
        if at == first + len(ends):
            word, names = ("input", _input_names(trace)) if kind == INPUT else ("output", trace.output_names)
            name = names[number] if number < len(names) else ""
            text = printable(f"{word}{name}" if not name or name.startswith("[") else name)
            shape = (shape_label(ref),)
            ends.append(GraphNode(at, WHOLE_MODEL, word, text, "", "", 1, shape, shape, "", 0, 0, 0, 0, 0, 0))
        return at

    def box(op: int) -> int:
        item = ops[op]
        while id(item) in into:
            item = into[id(item)]
        return shown[id(item)]

    found: dict[GraphEdge, None] = {}
    for link in links:
        source = end(INPUT, link.given, link.tensor) if link.source == INPUT else box(link.source)
        target = end(OUTPUT, link.result, link.tensor) if link.target == OUTPUT else box(link.target)
        if source != target:
            back = link.source != INPUT and link.target != OUTPUT and source > target
            found[GraphEdge(source, target, shape_label(link.tensor), back)] = None
    return ends, tuple(found)
