"""Which operators contribute to the result of a forward pass? Tools that read a graph see no others."""

from __future__ import annotations

from modelprobe.tracing.records import OpCall, Trace


def live_operators(trace: Trace) -> frozenset[int]:
    """Indices of the operators whose result reaches an output of the model, directly or through memory written to."""
    values = {ref.value for ref in trace.outputs}
    storages = {ref.storage for ref in trace.outputs}
    live: set[int] = set()
    for index in range(len(trace.ops) - 1, -1, -1):
        op = trace.ops[index]
        used = any(ref.value in values for ref in op.outputs)
        if used or (_writes(op) and any(ref.storage in storages for ref in (*op.outputs, *op.inputs[:1]))):
            live.add(index)
            values.update(ref.value for ref in op.inputs)
            storages.update(ref.storage for ref in op.inputs)
    return frozenset(live)


def _writes(op: OpCall) -> bool:
    """Whether an operator changes memory that somebody else may read: by name, or because it returns nothing."""
    return op.name.endswith("_") or not op.outputs
