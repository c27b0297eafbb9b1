"""How torchinfo counts "mult-adds": parameters times positions, per call of a module without children.

Facts: torchinfo 1.8.0, `torchinfo/layer_info.py`, `model_statistics.py`. A parameter called `weight` or `bias` counts
once per sample, in a class with `Conv` in its name once per sample and position; other names that contain `weight` or
`bias` (recurrent layers) once per element of the first two dimensions. Operators in no such module are not seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelprobe.cost.conventions.convention import Convention, CountedItem
from modelprobe.cost.conventions.modules import children, parameters, seen
from modelprobe.tracing.records import Shape, Trace, numel

_EMPTY_IS_FALSE = frozenset({"Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"})


def torchinfo_items(trace: Trace) -> Iterator[CountedItem]:
    """torchinfo's mult-adds."""
    below, own = children(trace), parameters(trace)
    # An empty container is false, so a module with nothing but such children passes for a leaf.
    inner = {
        path
        for path, nodes in below.items()
        if any(node.path in below or node.path in own or node.cls not in _EMPTY_IS_FALSE for node in nodes)
    }
    for call in seen(trace):
        path = call.call.path
        if path not in inner and path in own:
            amount = sum(_mult_adds(call.node.cls, name, size, call.output) for name, size in own[path])
            if amount:
                yield from call.items(amount)


def _mult_adds(cls: str, name: str, size: int, output: Shape) -> int:
    if name in ("weight", "bias"):
        return size * numel((*output[:1], *output[2:])) if "Conv" in cls else size * output[0]
    return size * numel(output[:2]) if "weight" in name or "bias" in name else 0


CONVENTION = Convention(
    "torchinfo",
    "mult-adds",
    1,
    "torchinfo 1.8.0",
    "everything but modules with parameters and without children",
    torchinfo_items,
    reasons_more={
        "norm": "its parameters once",
        "conv": "biases",
        "transposed conv": "filter and bias per output position",
        "embedding": "the whole table",
        "rnn": "parameters x two sizes of the output",
        "matmul": "biases",
    },
    reasons_fewer={"matmul": "a layer's parameters once, whatever its positions"},
)
