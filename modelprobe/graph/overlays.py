"""Colours of a graph from other answers: times of `profile`, differences of `compare`, `diverge` and `diff`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelprobe.errors import BadInput
from modelprobe.graph.graph import GraphNode, GraphOverlay, ModelGraph
from modelprobe.report.units import scaled, seconds

MAX_BYTES = 256 << 20
NOT_PARTS = 0.05
"""How different a module is at least that was changed, on a scale where 1 is another module altogether."""

Found = Mapping[str, tuple[float, str]]
"""Path of a module -> a value, and what it says in words."""


def overlay_from(graph: ModelGraph, path: Path) -> GraphOverlay:
    """What a JSON report says of the graph's boxes. Raises BadInput for a file that says nothing of them."""
    data = json_report(path)
    reader = COLOURED_BY.get(str(data.get("schema", "")).rpartition("/")[0])
    if reader is None:
        raise BadInput(
            f"{path} is no report that colors a graph",
            "give what `profile --by layer`, `compare --by layer`, `diverge` or `diff` print with -f json",
        )
    try:
        overlay = reader(graph, data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is damaged: {type(error).__name__}: {error}", "make it again with -f json") from error
    if all(value is None for value in overlay.values):
        raise BadInput(f"{path} says nothing of the modules of {graph.model}", "was it made of the same model?")
    return overlay


def json_report(path: Path) -> Mapping[str, Any]:
    """What a command printed with `-f json`. Raises BadInput for a file that cannot be read, or is no JSON."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path} is too large for a report", "give the JSON of `profile` or `compare`")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}", "give a JSON report") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no JSON", "give what `profile --by layer -f json` prints") from error
    return data if isinstance(data, dict) else {}


def _layer_times(graph: ModelGraph, data: Mapping[str, Any]) -> GraphOverlay:
    """Seconds of one call: of a module its own, of an operator the mean of its name."""
    measured = data.get("layers")
    if not measured:
        raise BadInput("the times are of the whole model", "make them with `profile --by layer -f json`")
    modules = {
        row["path"]: (row["inclusive_s"] / max(1, row["calls"]), f"{row['share']:.1%} of the pass")
        for row in measured["layers"]
    }
    operators = {row["name"]: row["seconds"] / max(1, row["calls"]) for row in measured["operators"]}
    values: list[float | None] = []
    texts: list[str] = []
    for node in graph.nodes:
        if node.kind == "operator":
            mean = operators.get(node.cls, operators.get(node.cls.rpartition(".")[0]))
            values.append(mean)
            texts.append("" if mean is None else f"{seconds(mean)}, mean of this operator")
            continue
        known = [modules[path] for path in (node.path, *node.folded) if node.kind == "module" and path in modules]
        values.append(sum(value for value, _ in known) / len(known) if known else None)
        each = " each" if node.copies > 1 else ""
        texts.append(f"{seconds(values[-1] or 0.0)}{each}, {known[0][1]}" if known else "")
    return GraphOverlay("time", "time", tuple(values), tuple(texts))


def _layer_differences(graph: ModelGraph, data: Mapping[str, Any]) -> GraphOverlay:
    if not data["layers"]:
        raise BadInput("the comparison is of whole models", "make it with `compare A B --by layer -f json`")
    found: dict[str, tuple[float, str]] = {}
    for row in data["layers"]:
        pairs = (("MACs", *row["macs"]), ("parameters", *row["parameters"]))
        if row["change"] == "same":
            found[row["name"]] = (0.0, "the same")
        elif row["change"] == "changed":
            found[row["name"]] = changed_by(pairs)
        else:
            found[row["name"]] = (1.0, row["change"])
    return _of_modules(graph, found, "differences")


def changed_by(pairs: Iterable[tuple[str, int, int]]) -> tuple[float, str]:
    """How far figures of a module in two models are apart, from `NOT_PARTS` to 1, and in words."""
    most, words = NOT_PARTS, []
    for name, one, other in pairs:
        if one != other:
            most = max(most, abs(one - other) / max(one, other))
            words.append(f"{name} {scaled(one)} | {scaled(other)}")
    return most, ", ".join(words) or "another class"


def _diverging(graph: ModelGraph, data: Mapping[str, Any]) -> GraphOverlay:
    """The largest relative difference below each module; what differs of itself is all red."""
    worst: dict[str, tuple[float, str]] = {}
    for row in data["drift"]:
        value = row["largest"]
        said = (1.0, "not finite on one side") if value is None else (value, f"{value:.3g} of the RMS")
        for path in _with_parents(row["path_a"]):
            worst[path] = max(worst.get(path, (0.0, "equal")), said, key=lambda one: one[0])
    for culprit in [data["culprit"], *data["others"]]:
        if culprit is not None:
            top = max((value for value, _ in worst.values()), default=0.0)
            for path in _with_parents(culprit["path_a"]):
                worst[path] = (max(top, 1.0), f"{culprit['operator']} {culprit['reason']}")
    return _of_modules(graph, worst, "drift", logarithmic=True)


def _weight_differences(graph: ModelGraph, data: Mapping[str, Any]) -> GraphOverlay:
    """The largest relative change of the tensors in each module of two weight files."""
    worst: dict[str, tuple[float, str]] = {}
    for row in data["tensors"]:
        name = row["name"] or row["other"]
        values = row["values"]
        relative = float(values["max_rel"]) if values else 1.0
        value = 0.0 if row["status"] == "identical" else relative
        for path in _with_parents(name.rpartition(".")[0]):
            worst[path] = max(worst.get(path, (0.0, "identical")), (value, f"{name}: {row['status']}"))
    return _of_modules(graph, worst, "differences of weights", logarithmic=True)


COLOURED_BY: Mapping[str, Callable[[ModelGraph, Mapping[str, Any]], GraphOverlay]] = {
    "modelprobe.profile": _layer_times, "modelprobe.compare": _layer_differences, "modelprobe.divergence": _diverging,
    "modelprobe.diff": _weight_differences,
}  # fmt: skip
"""Schema of a report -> what it says of a graph."""


def _with_parents(path: str) -> list[str]:
    """`a.b.c`, `a.b`, `a` and the root."""
    parts = path.split(".") if path else []
    return [".".join(parts[:end]) for end in range(len(parts), -1, -1)]


def _of_modules(graph: ModelGraph, found: Found, title: str, logarithmic: bool = False) -> GraphOverlay:
    """The largest value of each box and of the blocks that it stands for; of operators that of their module's own."""

    def at(node: GraphNode) -> tuple[float | None, str]:
        if node.kind not in ("module", "operator"):
            return None, ""
        known = [found[path] for path in (node.path, *node.folded) if path in found]
        return max(known, key=lambda one: one[0]) if known else (None, "")

    values = [at(node) for node in graph.nodes]
    return GraphOverlay(
        title.split()[0], title, tuple(value for value, _ in values), tuple(text for _, text in values), logarithmic
    )


def pairs_of(first: ModelGraph, second: ModelGraph) -> dict[int, int]:
    """Box of one graph -> the box of the other that stands at the same place, by path and order."""
    places = [_places_of_boxes(graph.nodes) for graph in (first, second)]
    found: dict[int, int] = {}
    for place, number in places[0].items():
        other = places[1].get(place)
        if other is not None:
            found.setdefault(number, other)
    return found


def in_common(first: ModelGraph, second: ModelGraph) -> int:
    """How many modules and operators inside of modules stand at the same place of both."""
    return sum(bool(first.nodes[number].path) for number in pairs_of(first, second))


def _places_of_boxes(nodes: Sequence[GraphNode]) -> dict[tuple[object, ...], int]:
    """What names a box in any graph: its kind, a path, its operator, and which one of those it is."""
    count: dict[tuple[str, str, str], int] = {}
    places: dict[tuple[object, ...], int] = {}
    for node in nodes:
        name = node.name if node.kind in ("input", "output") else "" if node.kind == "module" else node.cls
        for path in (node.path, *node.folded):
            key = (node.kind, path, name)
            count[key] = count.get(key, 0) + 1
            places[key, count[key]] = node.id
    return places


def differences_between(first: ModelGraph, second: ModelGraph, pairs: Mapping[int, int]) -> GraphOverlay:
    """How far each box of `first` is from its counterpart: 0 the same, 1 without one."""
    values: list[float | None] = []
    texts: list[str] = []
    for node in first.nodes:
        other = second.nodes[pairs[node.id]] if node.id in pairs else None
        if other is None:
            value, text = 1.0, "only here"
        else:
            same = (node.macs, node.parameters, node.outputs, node.arguments, node.copies)
            if same == (other.macs, other.parameters, other.outputs, other.arguments, other.copies):
                value, text = 0.0, "the same in both"
            else:
                figures = (("MACs", node.macs, other.macs), ("parameters", node.parameters, other.parameters))
                value, text = changed_by((*figures, ("copies", node.copies, other.copies)))
                text = text if text != "another class" else "other shapes or arguments"
        values.append(value)
        texts.append(text)
    return GraphOverlay("differences", "differences", tuple(values), tuple(texts))
