"""How fvcore counts: one FLOP per multiply-accumulate, over the operators of a `torch.jit` trace.

Facts: fvcore 0.1.5.post20221221, `fvcore/nn/flop_count.py`, `jit_handles.py`, `activation_count.py`. The trace shows
operators as the model wrote them; what does not reach the result is not in it. Operators without a handler are 0:
fused attention, recurrent networks, `baddbmm`, convolutions whose padding is a word, every activation function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from modelprobe.cost.conventions.convention import Convention, CountedItem, ToolCount, counted_call
from modelprobe.cost.conventions.einsum import contraction_macs
from modelprobe.cost.conventions.lowering import ATTENTION, CELL_GATES, CELLS
from modelprobe.tracing.records import Composite, OpCall, Trace, numel

OperatorRule = Callable[[OpCall], float]
Names = Mapping[int, str]


def _convolution_macs(op: OpCall) -> float:
    """Products alone. `padding="same"` becomes an operator that has no handler."""
    return 0 if _padded_by_word(op) else op.macs


def _padded_by_word(op: OpCall) -> bool:
    return len(op.arguments) > 4 and isinstance(op.arguments[4], str)


def _products(op: OpCall) -> float:
    """Every element of the first operand meets the columns of the second: what a broadcast repeats is not counted."""
    first, second = op.inputs[0].shape, op.inputs[1].shape
    return numel(first) * second[-1] if len(first) > 1 and len(second) > 1 else 0


def _batch_norm(op: OpCall, named: Names) -> float:
    """2 per element with a weight, 1 without; with the statistics of the batch 5 and 4."""
    training = len(op.arguments) > 5 and bool(op.arguments[5])
    # Absent arguments leave no trace among the inputs: x, weight, bias, mean, variance. Eval mode needs the statistics.
    statistics = sum("running_" in named.get(ref.value, "") for ref in op.inputs[1:]) if training else 2
    affine = len(op.inputs) - 1 > statistics
    return op.inputs[0].numel * (4 + affine if training else 1 + affine)


def _norm(op: OpCall) -> float:
    """5 per element with a weight, 4 without."""
    return op.inputs[0].numel * (5 if len(op.inputs) > 1 else 4)


def _instance_norm(op: OpCall, named: Names) -> float:
    """The same; running statistics are no weight."""
    affine = any("running_" not in named.get(ref.value, "") for ref in op.inputs[1:])
    return op.inputs[0].numel * (5 if affine else 4)


def _times_outputs(factor: int) -> OperatorRule:
    return lambda op: factor * op.outputs[0].numel


def _macs(op: OpCall) -> float:
    return op.macs


_OPERATOR_RULES: dict[str, OperatorRule] = {
    **dict.fromkeys((f"aten.conv{dims}d" for dims in (1, 2, 3)), _convolution_macs),
    **dict.fromkeys((f"aten.conv_transpose{dims}d" for dims in (1, 2, 3)), _macs),
    **dict.fromkeys(("aten.convolution", "aten._convolution"), _macs),
    **dict.fromkeys(("aten.linear", "aten.addmm", "aten.bmm"), _macs),
    # Cells are taken apart into two linear operators before the tracer looks.
    **dict.fromkeys(CELLS, _macs),
    "aten.matmul": _products,
    "aten.mm": _products,
    "aten.group_norm": _norm,
    "aten.layer_norm": _norm,
    "aten.upsample_nearest2d": _times_outputs(1),
    "aten.upsample_bilinear2d": _times_outputs(4),
    "aten.adaptive_avg_pool2d": lambda op: op.inputs[0].numel,
    "aten.grid_sampler": _times_outputs(4),
}

_RULES_BY_BUFFERS: dict[str, Callable[[OpCall, Names], float]] = {
    "aten.batch_norm": _batch_norm,
    "aten.instance_norm": _instance_norm,
}
"""Rules that have to know which operands are buffers."""

_ACTIVATIONS = frozenset(
    name
    for name in _OPERATOR_RULES
    if name.startswith("aten.conv")
    or name in ("aten._convolution", "aten.linear", "aten.addmm", "aten.bmm", "aten.matmul")
)

# Composites that the tracer takes apart as the ledger does, or knows under the name of what they become.
_SEEN_THROUGH = frozenset({"aten.linalg_matmul", "higher_order.cond"})


def fvcore_items(trace: Trace) -> Iterator[CountedItem]:
    """fvcore's FLOPs and activations.

    timm's own models are counted as their authors publish them, with fused attention switched off: the scores and the
    weighted sum are two matrix products there.
    """
    homes = {node.path: node.home for node in trace.tree.modules}
    live = _live_operators(trace)
    seen: set[int] = set()
    weighted: set[tuple[int, int]] = set()
    for index, op in enumerate(trace.ops):
        if index not in live:
            continue
        composite = trace.composites[op.composite] if op.composite >= 0 else None
        if composite is not None and composite.name not in _SEEN_THROUGH:
            if composite.name == "aten.einsum" and op.composite not in seen:
                seen.add(op.composite)
                yield _einsum(index, op, composite)
            continue
        if op.name == ATTENTION and homes.get(op.module, "").startswith("timm."):
            yield _unfused(index, op, weighted)
        elif op.name in _RULES_BY_BUFFERS:
            yield counted_call(index, op, _RULES_BY_BUFFERS[op.name](op, trace.named))
        elif op.name in _OPERATOR_RULES:
            yield counted_call(index, op, _OPERATOR_RULES[op.name](op), _activations(op))


def fvcore_items_as_installed(trace: Trace) -> Iterator[CountedItem]:
    """fvcore's FLOPs of a model as it was built: fused attention is not seen, in timm's models either."""
    return (item for item in fvcore_items(trace) if item.name != ATTENTION)


def _unfused_note(trace: Trace, found: ToolCount) -> list[str]:
    fused = sum(item.amount for item in found.items if item.name == ATTENTION)
    if not fused:
        return []
    text = (
        "Attention is counted as two matrix products, as in timm's published figures (fused attention off, "
        f"TIMM_FUSED_ATTN=0). With it on, fvcore sees none of it: {found.total - int(fused):,}."
    )
    return [text]


def _activations(op: OpCall) -> int:
    """Output elements of convolutions and matrix products (`mm` has no handler there)."""
    if op.name in CELLS:
        return 2 * CELL_GATES[op.name] * op.outputs[0].numel
    return op.outputs[0].numel if op.name in _ACTIVATIONS and not _padded_by_word(op) else 0


def _einsum(index: int, op: OpCall, composite: Composite) -> CountedItem:
    equation: Any = composite.arguments[0]
    amount = contraction_macs(str(equation), [ref.shape for ref in composite.inputs])
    made = composite.outputs[0].numel if composite.outputs else 0
    return CountedItem(composite.name, "matmul", op.module, op.call, index, amount, made)


def _unfused(index: int, op: OpCall, weighted: set[tuple[int, int]]) -> CountedItem:
    """softmax(Q K^T) V as two products, Q [.., L, E], K [.., S, E], V [.., S, Ev].

    Differential attention subtracts the scores of two queries first and weighs the values, which both share, once.
    """
    query, key, value = (ref.shape for ref in op.inputs[:3])
    rows = numel(query[:-1])
    scores = rows * key[-2]
    shared = (op.call, op.inputs[2].value)
    width = 0 if shared in weighted else value[-1]
    weighted.add(shared)
    return counted_call(index, op, scores * (query[-1] + width), scores + rows * width)


CONVENTION = Convention(
    "fvcore",
    "FLOPs",
    1,
    "fvcore 0.1.5.post20221221",
    "activation functions, recurrent layers, most pooling, and fused attention outside timm",
    fvcore_items,
    activations=True,
    reasons_more={
        "norm": "batch norm 2, layer norm 5 per element",
        "pooling": "1 per element",
        "interpolation": "bilinear 4 per element",
    },
    reasons_fewer={"attention": "the fused kernel has no handler", "rnn": "recurrent layers have no handler"},
    notes=_unfused_note,
    as_installed=fvcore_items_as_installed,
)


def _live_operators(trace: Trace) -> frozenset[int]:
    """Indices of the operators whose result reaches an output of the model, directly or through memory written to."""
    values = {ref.value for ref in trace.outputs}
    storages = {ref.storage for ref in trace.outputs}
    live: set[int] = set()
    for index in range(len(trace.ops) - 1, -1, -1):
        op = trace.ops[index]
        used = any(ref.value in values for ref in op.outputs)
        if used or (_writes_memory(op) and any(ref.storage in storages for ref in (*op.outputs, *op.inputs[:1]))):
            live.add(index)
            values.update(ref.value for ref in op.inputs)
            storages.update(ref.storage for ref in op.inputs)
    return frozenset(live)


def _writes_memory(op: OpCall) -> bool:
    """Whether an operator changes memory that somebody else may read: by name, or because it returns nothing."""
    return op.name.endswith("_") or not op.outputs
