"""A trace without some of its modules: `--ignore 'head,blocks.*.attn'`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from modelprobe.cost.patterns import matching, split_patterns
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.records import Trace


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
    return replace(trace, tree=tree, ops=ops, calls=calls, notes=(*trace.notes, Note(text, Level.INFO)), env=env)
