"""What would this pickle build? All opcodes (protocols 0 to 5) are read; nothing is imported and nothing is called."""

from __future__ import annotations

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.limits import DEFAULT_LIMITS, ReadLimits
from modelprobe.checkpoint.pickle import opcodes
from modelprobe.checkpoint.pickle import value_opcodes as opvalues
from modelprobe.checkpoint.pickle.nodes import PickleNode
from modelprobe.checkpoint.pickle.reader import BrokenPickle, PickleReader

__all__ = ["BrokenPickle", "Pickled", "opcodes", "opvalues", "read_pickle"]


class Pickled:
    """What one pickle holds: its root node, the globals, remarks, and where it ends."""

    __slots__ = ("blobs", "end", "findings", "globals", "persistent", "protocol", "root")

    def __init__(self, reader: PickleReader, root: PickleNode) -> None:
        self.root = root
        self.globals = tuple(reader.globals.values())
        self.findings = tuple(reader.findings)
        self.blobs = reader.blobs
        self.persistent = reader.persistent
        self.protocol = reader.protocol
        self.end = reader.end


def read_pickle(feed: ByteSource, start: int = 0, limits: ReadLimits = DEFAULT_LIMITS) -> Pickled:
    """Read one pickle from `start`. Raises `BrokenPickle`."""
    reader = PickleReader(feed, start, limits)
    root = reader.run()
    if reader.stack or reader.marks:
        reader.findings["the pickle leaves values on its stack"] = None
    return Pickled(reader, root)
