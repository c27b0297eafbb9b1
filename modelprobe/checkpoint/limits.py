"""How much of a file the reader believes: every bound in one record, so that a caller can raise one of them."""

from __future__ import annotations

from dataclasses import dataclass, field


class UnpackBudget:
    """Bytes that may still be inflated and decoded in one file, however many packed parts it has."""

    __slots__ = ("held", "left", "said")

    def __init__(self, size: int) -> None:
        self.left = size
        self.held = 0
        """Bytes of archives that are in memory while what is in them is read."""
        self.said = False

    def spend(self, size: int) -> bool:
        """Whether there was anything left; the last part may take more than that."""
        enough = self.left > 0
        self.left -= size
        return enough


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds on what is read and built. A file beyond one is refused with the bound named, never half read in silence.

    The memory bounds hold for the worst case (a file made of nothing but empty lists), a real file of 200,000 tensors
    stays below all of them.
    """

    pickle_bytes: int = 256 << 20  # inflated bytes of one pickle that are looked at
    opcodes: int = 12_000_000
    nodes: int = 2_000_000  # containers, calls and strings of one pickle
    globals: int = 20_000  # different names that one pickle imports
    stack: int = 1_000_000
    text: int = 16 << 20  # one string that is kept
    header: int = 25 << 20  # safetensors header and other JSON; the Hub's own bound
    members: int = 2_000_000  # entries of a zip directory
    tensors: int = 300_000
    steps: int = 1_000_000  # values visited under one root
    items: int = 20_000  # non-tensor entries that are listed
    children: int = 1_000  # of them under one parent
    depth: int = 60
    nested: int = 3  # pickles inside pickles
    shards: int = 10_000
    budget: UnpackBudget | None = field(default=None, compare=False)  # of a scan, over all that is packed in a file


DEFAULT_LIMITS = ReadLimits()
