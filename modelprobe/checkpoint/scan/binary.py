"""What formats of weights hold beside numbers: places of other files and operators of ONNX, the texts of GGUF."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.formats.gguf import read_gguf
from modelprobe.checkpoint.formats.onnx import read_onnx
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.errors import BadInput

MAX_NODES_READ = 16 << 20
"""Bytes of an ONNX file that are searched for operators, from its begin and from its end."""

_PYTHON_OPERATOR = re.compile(rb"\x22[\x04-\x0a](PyOp|PyCustomOp|PythonOp)(?=[^A-Za-z0-9_])")
"""Operators that call Python, of onnxruntime's extensions and of its training, as a node spells its type."""


def onnx_findings(source: ByteSource, limits: ReadLimits) -> Iterator[str]:
    """What a runtime would open or call beside the model."""
    with suppress(BadInput):  # what is damaged is said elsewhere
        yield from (found.text for found in read_onnx(source, limits).findings if found.serious)
    for start in {0, max(0, source.size - MAX_NODES_READ)}:
        found = _PYTHON_OPERATOR.search(source.read(start, MAX_NODES_READ))
        if found is not None:
            yield f"an operator that calls Python: {found[1].decode()}"
            return


def end_of_metadata(source: ByteSource, limits: ReadLimits) -> int:
    """Where the numbers of a GGUF file begin; its end where that is not known."""
    with suppress(BadInput):
        places = [storage.position for storage in read_gguf(source, limits).storages.values()]
        return min((place for place in places if 0 < place < source.size), default=source.size)
    return source.size
