"""The edges of `torch.export`, and those of a recorded run in the same words."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch import nn

from modelprobe import trace
from modelprobe.graph.dataflow import flows

WRITES_A_NUMBER = {"fill_", "copy_", "lift_fresh_copy", "scalar_tensor", "_assert_tensor_metadata"}
"""`x[:2] = 1.0` is fill_ to torch.export and copy_ of an expanded scalar when it runs; export also adds asserts."""

Edges = Counter[tuple[str, str]]


def exported_edges(model: nn.Module, *inputs: torch.Tensor) -> Edges:
    """(operator, operator) of every value that one passes to another, as torch.export has them."""

    def maker(node: Any) -> Any:
        while node.op == "call_function" and node.target is operator.getitem:
            node = node.args[0]
        return node

    def is_operator(node: Any) -> bool:
        return node.op == "call_function" and hasattr(node.target, "_schema")

    found: Edges = Counter()
    for node in torch.export.export(model, inputs).graph.nodes:
        if is_operator(node):
            for source in dict.fromkeys(map(maker, node.all_input_nodes)):
                if is_operator(source):
                    found[_word(str(source.target)), _word(str(node.target))] += 1
    return _compared(found)


def recorded_edges(model: nn.Module, *inputs: torch.Tensor) -> Edges:
    """The same of a recorded run."""
    run = trace(model, *inputs)
    pairs = {(flow.source, flow.target) for flow in flows(run) if flow.source >= 0 and flow.target >= 0}
    of_numbers = {at for at, op in enumerate(run.ops) if _word(op.name) == "scalar_tensor"}
    for source, target in sorted(pairs, key=lambda pair: pair[1]):
        if source in of_numbers and _word(run.ops[target].name) in ("view", "expand"):
            of_numbers.add(target)
    kept = [(a, b) for a, b in pairs if a not in of_numbers]
    return _compared(Counter((_word(run.ops[a].name), _word(run.ops[b].name)) for a, b in kept))


def _word(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def _compared(edges: Edges) -> Edges:
    return Counter({pair: many for pair, many in edges.items() if not WRITES_A_NUMBER & set(pair)})
