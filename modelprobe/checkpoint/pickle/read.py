"""What would this pickle build? All opcodes (protocols 0 to 5) are read; nothing is imported and nothing is called."""

from __future__ import annotations

from modelprobe.checkpoint.bytes.source import Source
from modelprobe.checkpoint.limits import DEFAULT, Limits
from modelprobe.checkpoint.pickle import opcodes
from modelprobe.checkpoint.pickle import value_opcodes as opvalues
from modelprobe.checkpoint.pickle.machine import BrokenPickle, Machine
from modelprobe.checkpoint.pickle.nodes import Node

__all__ = ["BrokenPickle", "Pickled", "opcodes", "opvalues", "read_pickle"]


class Pickled:
    """What one pickle holds: its root node, the globals, remarks, and where it ends."""

    __slots__ = ("blobs", "end", "findings", "globals", "persistent", "protocol", "root")

    def __init__(self, machine: Machine, root: Node) -> None:
        self.root = root
        self.globals = tuple(machine.globals.values())
        self.findings = tuple(machine.findings)
        self.blobs = machine.blobs
        self.persistent = machine.persistent
        self.protocol = machine.protocol
        self.end = machine.end


def read_pickle(feed: Source, start: int = 0, limits: Limits = DEFAULT) -> Pickled:
    """Read one pickle from `start`. Raises `BrokenPickle`."""
    machine = Machine(feed, start, limits)
    root = machine.run()
    if machine.stack or machine.marks:
        machine.findings["the pickle leaves values on its stack"] = None
    return Pickled(machine, root)
