"""Traces made of traces: without some modules (`--ignore`), and with causal attention counted exactly.

The ledger counts causal attention dense, as every published figure does. A causal kernel skips the scores above the
diagonal: query i sees the keys up to i, so L queries of S keys have sum(min(i + 1, S), i < L) scores instead of L x S
(for L = S: half of them and half a diagonal).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from modelprobe.cost.patterns import matching, split_patterns
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.records import OpCall, Trace

CAUSAL_ARGUMENT = {
    "aten.scaled_dot_product_attention": 5,
    "aten._scaled_dot_product_attention_math": 5,
    "aten._scaled_dot_product_attention_math_for_mps": 5,
    "aten._scaled_dot_product_fused_attention_overrideable": 5,
    "aten._scaled_dot_product_efficient_attention": 6,
    "aten._scaled_dot_product_cudnn_attention": 6,
    "aten._scaled_dot_product_flash_attention": 4,
    "aten._scaled_dot_product_flash_attention_for_cpu": 4,
}
"""Attention operators on [.., length, width] -> the place of `is_causal` among their arguments."""


def exactly_causal(trace: Trace) -> Trace:
    """The trace with the MACs and FLOPs of causal attention as a kernel that skips has them, and a note on it.

    Only calls that say `is_causal` are reduced. Attention under a mask tensor stays dense: kernels compute it dense,
    and the values of a mask are not in the ledger. Raises nothing; a trace without causal calls gets a note that
    says so.
    """
    ops = tuple(_exact(op) if _says_causal(op) else op for op in trace.ops)
    reduced = sum(_says_causal(op) for op in trace.ops)
    kept = sum(op.kind == "attention" and not _says_causal(op) for op in trace.ops)
    spared = trace.macs - sum(op.macs for op in ops)
    if reduced:
        calls = "1 call" if reduced == 1 else f"{reduced} calls"
        text = f"Causal attention without the masked scores, as a kernel computes it: {calls}, {spared:,} MACs fewer."
        if kept:
            text += f" Counted dense: {kept} other attention calls."
    else:
        text = "--causal exact changes nothing: no attention call sets is_causal=True."
    env = {**trace.env, "causal": "exact"}
    return replace(trace, ops=ops, notes=(*trace.notes, Note(text, Level.INFO)), env=env)


def causal_scores(queries: int, keys: int) -> int:
    """How many of queries x keys scores lie on or below the diagonal that starts at the first query and key."""
    full = min(queries, keys)  # from there on every query sees all keys
    return full * (full + 1) // 2 + (queries - full) * keys


def _says_causal(op: OpCall) -> bool:
    place = CAUSAL_ARGUMENT.get(op.name)
    return place is not None and len(op.arguments) > place and op.arguments[place] is True


def _exact(op: OpCall) -> OpCall:
    queries, keys = op.inputs[0].shape[-2], op.inputs[1].shape[-2]
    if not queries * keys:
        return op
    # MACs and FLOPs are both so much for each score: the division leaves nothing.
    scores, dense = causal_scores(queries, keys), queries * keys
    return op._replace(macs=op.macs * scores // dense, flops=op.flops * scores // dense)


def without_modules(trace: Trace, patterns: Sequence[str]) -> Trace:
    """The trace without the operators, parameters and rows of the modules that `patterns` name, and a note on it.

    Raises BadInput for a pattern that names no module.
    """
    paths = [node.path for node in trace.tree.modules if node.path]
    left_out = matching(paths, split_patterns(patterns))
    kept = [op.module not in left_out for op in trace.ops]
    before = [0, *accumulate(kept)]  # how many operators are left before each
    calls = tuple(call._replace(first_op=before[call.first_op], end_op=before[call.end_op]) for call in trace.calls)
    tree = replace(
        trace.tree,
        modules=tuple(node for node in trace.tree.modules if node.path not in left_out),
        state=tuple(entry for entry in trace.tree.state if entry.path.rpartition(".")[0] not in left_out),
    )
    ops = tuple(op for op, keep in zip(trace.ops, kept, strict=True) if keep)
    spared = trace.macs - sum(op.macs for op in ops)
    many = "1 module" if len(left_out) == 1 else f"{len(left_out)} modules"
    parameters = trace.tree.parameter_count() - tree.parameter_count()
    text = f"Left out by --ignore: {many} with {spared:,} MACs and {parameters:,} parameters."
    env = {**trace.env, "ignored": list(split_patterns(patterns))}
    notes = (*trace.notes, Note(text, Level.INFO))
    return replace(trace, tree=tree, ops=ops, calls=calls, notes=notes, env=env, storages=())
