"""Which operator feeds which, read from the values and memories of a recorded run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from modelprobe.tracing.records import TensorRef, Trace

INPUT, OUTPUT = -1, -2
"""In place of an operator's index: the model's inputs, its outputs."""


class Flow(NamedTuple):
    """A value that goes from one operator to another: `source` and `target`, indices in `Trace.ops`, or INPUT, OUTPUT.

    `given` is the number of the model's input that it comes from, `result` that of its output.
    """

    source: int
    target: int
    tensor: TensorRef
    given: int = -1
    result: int = -1


def flows(trace: Trace) -> Iterator[Flow]:
    """Every use of a value that an operator made or the model was given, in the order of the run.

    Parameters and buffers are no flow. What an operator wrote into the memory of a value since that was made is one, so
    that a write through a view reaches whoever reads the whole.
    """
    made: dict[int, int] = {}
    written: dict[int, int] = {}
    given = {ref.value: number for number, ref in enumerate(trace.inputs)}

    def sources(ref: TensorRef) -> Iterator[tuple[int, int]]:
        maker = made.get(ref.value)
        if maker is not None:
            yield maker, -1
        elif ref.value in given:
            yield INPUT, given[ref.value]
        writer = written.get(ref.storage)
        if writer is not None and writer != maker and (maker is None or writer > maker):
            yield writer, -1

    for index, op in enumerate(trace.ops):
        for ref in dict.fromkeys(op.inputs):
            for source, number in sources(ref):
                yield Flow(source, index, ref, number)
        storages = {ref.storage for ref in op.inputs[:1]}
        in_place = op.name.split(".")[1].endswith("_") if "." in op.name else op.name.endswith("_")
        for ref in op.outputs:
            made[ref.value] = index
            if in_place and ref.storage in storages:
                written[ref.storage] = index
        if not op.outputs and op.inputs:
            written[op.inputs[0].storage] = index
    for result, ref in enumerate(trace.outputs):
        for source, number in sources(ref):
            yield Flow(source, OUTPUT, ref, number, result)
