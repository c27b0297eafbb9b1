"""Where formats of weights hold their numbers, and what an ONNX file has beside them: other files, operators."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.formats.gguf import read_gguf
from modelprobe.checkpoint.formats.numpy_files import NPY_MAGIC, read_npy
from modelprobe.checkpoint.formats.onnx import read_onnx
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.scan.tails import MAX_HEADER, OFFSETS
from modelprobe.errors import BadInput

MAX_NODES_READ = 16 << 20
"""Bytes of an ONNX file that are searched for operators, from its begin and from its end."""

GGUF_STARTS = (b"GGUF", b"FUGG")
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


def tensor_places(source: ByteSource, head: bytes, limits: ReadLimits) -> list[int]:
    """Where the bytes of each tensor of a safetensors, GGUF or numpy file begin; none where that is not known."""
    if head[8:9] == b"{":
        base = 8 + int.from_bytes(head[:8], "little")
        header = source.read(8, min(base - 8, MAX_HEADER))
        return [base + int(match[1]) for match in OFFSETS.finditer(header)]
    read = read_gguf if head[:4] in GGUF_STARTS else read_npy if head[:6] == NPY_MAGIC else None
    with suppress(BadInput):
        storages = read(source, limits).storages.values() if read else ()
        return [storage.position - (source.origin or 0) for storage in storages]
    return []
