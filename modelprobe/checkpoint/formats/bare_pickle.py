"""What is in a plain pickle: Detectron's `.pkl`, a dictionary of numpy arrays, tensors pickled without `torch.save`?

How to add a reader: 1. recognise the content in `recognise.py`; 2. write a function to a `Checkpoint` in a file of its
own; 3. enter it in the table of `reader.py` and add a seed to `tests/checkpoint/seeds.py`.
"""

from __future__ import annotations

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.formats.pickled import checkpoint_of, nowhere
from modelprobe.checkpoint.formats.torch_legacy import LEGACY_MAGIC, read_torch_legacy
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.read import read_pickle
from modelprobe.checkpoint.records import Checkpoint, Finding


def read_any_pickle(source: ByteSource, limits: ReadLimits) -> Checkpoint:
    """List a file that begins with a pickle: torch's legacy format when that pickle is its magic number."""
    pickled = read_pickle(source, 0, limits)
    if pickled.root == LEGACY_MAGIC and type(pickled.root) is int:
        return read_torch_legacy(source, limits)
    spare = source.size - pickled.end
    findings = [Finding(f"{spare:,} bytes follow the pickle", serious=True)] if spare else []
    return checkpoint_of(
        pickled, nowhere, limits, path=source.name, kind="pickle", version=f"protocol {pickled.protocol}",
        size=source.size, findings=findings,
    )  # fmt: skip
