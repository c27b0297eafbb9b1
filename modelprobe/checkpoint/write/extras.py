"""The entries around the model that can be written again: plain values and tensors. What needs a class is named."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from modelprobe.checkpoint.pickle.modules import is_module
from modelprobe.checkpoint.pickle.nodes import (
    Blob,
    Dict,
    Global,
    PendingCall,
    PickleNode,
    SetNode,
    attributes,
    called,
    integers,
    is_mapping,
    last_part,
    members,
    object_class,
    pairs,
    value_at,
)  # fmt: skip
from modelprobe.checkpoint.pickle.rebuild import dtype_name
from modelprobe.checkpoint.pickle.scalars import scalar, spelled_keys
from modelprobe.checkpoint.records import FLAG_TEXT, Branch, Checkpoint, TensorEntry
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.tensor import to_write
from modelprobe.checkpoint.write.torch import STATE_PLACE, StatePlace
from modelprobe.errors import BadInput

PICKLED_FORMATS = ("torch zip", "torch legacy", "pickle")
"""Formats whose root can be rebuilt from its nodes."""

ONE_TENSOR = "tensor"
"""The name of a tensor that is the whole of a file."""

MAX_EXTRA_DEPTH = 60
MAX_EXTRA_VALUES = 1_000_000


@dataclass(frozen=True, slots=True)
class NotKept:
    """An entry that cannot be written, and why not. An empty path is the root."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class ExtraEntries:
    """What `write` takes as `extras` and `versions`, and what could not be taken over as it was."""

    extras: Any = STATE_PLACE
    versions: Mapping[str, Any] | None = None
    changed: tuple[str, ...] = ()
    dropped: tuple[NotKept, ...] = ()


class NotWritable(Exception):
    """A value that cannot be written."""


def extra_entries(found: Checkpoint, reader: TensorReader, branch: Branch | None) -> ExtraEntries:
    """Everything in a pickled checkpoint but the tensors of `branch`, which are written anew; None keeps them too.

    The tensors among the rest become `Outgoing`, read when they are written. Formats without other entries give none.
    """
    if found.format not in PICKLED_FORMATS or found.root is None:
        return ExtraEntries()
    builder = _Builder(found, reader, branch)
    try:
        root = builder.value(found.root, ())
    except NotWritable as gone:
        return ExtraEntries(dropped=(*builder.dropped, NotKept("", str(gone))))
    if branch is not None and not builder.placed:
        builder.dropped.append(NotKept("", f"{branch.name} stands in an object, not in a dictionary"))
        root = STATE_PLACE
    return ExtraEntries(root, builder.versions, tuple(builder.changed), tuple(builder.dropped))


class _Builder:
    """Turns nodes into values, each container once."""

    def __init__(self, found: Checkpoint, reader: TensorReader, branch: Branch | None) -> None:
        self.entries = {entry.path: entry for entry in found.tensors}
        self.holders = {entry.path[:depth] for entry in found.tensors for depth in range(len(entry.path))}
        self.reader = reader
        self.branch = branch
        self.placed = False
        self.versions: Mapping[str, Any] | None = None
        self.changed: list[str] = []
        self.dropped: list[NotKept] = []
        self._done: dict[int, Any] = {}
        self._beside = Dict()
        self._count = 0

    def value(self, node: PickleNode, path: tuple[str, ...]) -> Any:
        """The value of a node. Raises NotWritable."""
        self._count += 1
        if len(path) > MAX_EXTRA_DEPTH or self._count > MAX_EXTRA_VALUES:
            raise NotWritable(
                "nested too deep" if len(path) > MAX_EXTRA_DEPTH else f"beyond the first {MAX_EXTRA_VALUES:,} values"
            )
        if id(node) in self._done and type(node) not in (str, int, float, bool, type(None)):
            return self._done[id(node)]
        if self.branch is not None and path == self.branch.path:
            self._done[id(node)] = self._state(node, path)
            return self._done[id(node)]
        if path in self.entries:
            if last_part(called(node)) in ("_reconstruct", "_frombuffer"):
                self._change(path, "a numpy array became a tensor")
            return self._tensor(self.entries[path])
        if is_module(node):
            raise NotWritable(f"a whole module of class {object_class(node)}")
        if type(node) is Dict or (type(node) is PendingCall and is_mapping(node)):
            return self._mapping(node, path)
        if type(node) is list:
            return self._list(node, path)
        if type(node) is tuple:
            made: Any = tuple(self.value(item, (*path, str(index))) for index, item in enumerate(node))
        else:
            made = self._plain(node, path)
        self._done[id(node)] = made
        return made

    def _state(self, node: PickleNode, path: tuple[str, ...]) -> StatePlace:
        """The place of the state dict, with the values in it that are no tensors."""
        self.placed = True
        if path in self.entries:
            self._change(path, f"a tensor without a name is called {ONE_TENSOR}")
            return STATE_PLACE
        if is_module(node) or not is_mapping(node):
            if type(node) is PendingCall:
                what = "a module" if is_module(node) else "an object"
                became = "its state_dict" if is_module(node) else "a dict of its tensors"
                self._change(path, f"{what} of class {object_class(node)} became {became}")
            return STATE_PLACE
        self.versions = self._versions(node)
        others = self._beside
        for text, key, item in _spelled_pairs(node):
            child = (*path, text)
            if child not in self.entries and child not in self.holders:
                others.pairs += (key, item)
        return StatePlace(self._mapping(others, path)) if others.pairs else STATE_PLACE

    def _tensor(self, entry: TensorEntry) -> Any:
        if "quantised" in entry.flags:
            raise NotWritable(FLAG_TEXT["quantised"])
        try:
            self.reader.check(entry)
        except BadInput as error:
            raise NotWritable(error.message.removeprefix(f"{entry.name} ")) from None
        return to_write(self.reader, entry)

    def _mapping(self, node: PickleNode, path: tuple[str, ...]) -> Any:
        ordered = last_part(called(node)) == "OrderedDict"
        made: dict[Any, Any] = OrderedDict() if ordered else {}
        self._done[id(node)] = made
        if type(node) is PendingCall and not ordered and called(node) not in ("builtins.dict", "__builtin__.dict"):
            self._change(path, f"{object_class(node)} became a dict")
        for text, key, item in _spelled_pairs(node):
            child = (*path, text)
            try:
                made[self._key(key)] = self.value(item, child)
            except NotWritable as gone:
                self.dropped.append(NotKept(".".join(child), str(gone)))
        versions = self._versions(node)
        if ordered and versions is not None:
            made._metadata = versions  # type: ignore[attr-defined]
        return made

    def _key(self, key: PickleNode) -> Any:
        if type(key) is tuple:
            return tuple(self._key(part) for part in key)
        if key is None or type(key) in (str, int, float, bool):
            return key
        if type(key) is Blob and key.data is not None and key.kind == "bytes":
            return bytes(key.data)
        raise NotWritable("a key that is no plain value")

    def _versions(self, node: PickleNode) -> Mapping[str, Any] | None:
        """The `_metadata` that `state_dict()` hangs on its result."""
        found = value_at(node.state, "_metadata") if type(node) is PendingCall and is_mapping(node.state) else None
        return self._mapping(found, ()) if is_mapping(found) else None

    def _list(self, node: list[PickleNode], path: tuple[str, ...]) -> list[Any]:
        made: list[Any] = []
        self._done[id(node)] = made
        try:
            made.extend(self.value(item, (*path, str(index))) for index, item in enumerate(node))
        except NotWritable:
            del self._done[id(node)]
            raise
        return made

    def _plain(self, node: PickleNode, path: tuple[str, ...]) -> Any:
        """A value that holds no tensors."""
        if node is None or type(node) in (str, int, float, bool):
            return node
        if type(node) is Global:
            return self._named(node)
        if type(node) is SetNode or last_part(called(node)) in ("set", "frozenset"):
            return {self._key(item) for item in members(node)}
        raw = _bytes(node)
        if raw is not None:
            return raw
        if type(node) is not PendingCall:
            raise NotWritable(f"a value of kind {scalar(node)[0]}")
        return self._called(node, path)

    def _named(self, node: Global) -> Any:
        name = dtype_name(node)
        if not name:
            raise NotWritable(f"the class or function {node.spelled}")
        import torch

        return getattr(torch, name)

    def _called(self, node: PendingCall, path: tuple[str, ...]) -> Any:
        kind, value, spelled = scalar(node)
        if spelled == "torch.device" and isinstance(value, str):
            import torch

            return torch.device(value) if _is_device(value) else value
        if kind == "shape":
            import torch

            return torch.Size(integers(node) or ())
        if kind in ("int", "float", "bool", "str") and value is not None:
            self._change(path, f"{spelled} became a plain {kind}")
            return value
        if called(node) in ("builtins.complex", "__builtin__.complex") and all(type(a) is float for a in node.args):
            return complex(*node.args[:2])
        state = attributes(node)
        if object_class(node) in ("argparse.Namespace", "types.SimpleNamespace") and state is not None:
            self._change(path, f"{object_class(node)} became a dict")
            return self._mapping(state, path)
        raise NotWritable(f"an object of class {object_class(node)}")

    def _change(self, path: tuple[str, ...], what: str) -> None:
        self.changed.append(f"{'.'.join(path) or 'the root'}: {what}")


def _spelled_pairs(node: PickleNode) -> Iterator[tuple[str, PickleNode, PickleNode]]:
    """The key as a part of a name, the key and the value of each pair of a mapping."""
    found = list(pairs(node))
    texts = spelled_keys([key for key, _ in found])
    return ((text, key, item) for text, (key, item) in zip(texts, found, strict=True))


def _is_device(text: str) -> bool:
    kind, _, index = text.partition(":")
    return kind in ("cpu", "cuda", "mps", "meta", "xpu", "xla", "hpu") and (not index or index.isdigit())


def _bytes(node: PickleNode) -> bytes | None:
    """The bytes a node stands for, when they were kept."""
    if type(node) is Blob and node.kind == "bytes" and node.data is not None:
        return bytes(node.data)
    if type(node) is PendingCall and type(node.args) is tuple and node.args:
        first = node.args[0]
        if called(node) == "_codecs.encode" and type(first) is str and node.args[1:2] in (("latin1",), ("latin-1",)):
            try:
                return first.encode("latin-1")
            except UnicodeEncodeError:
                return None
        if last_part(called(node)) in ("bytearray", "bytes"):
            return _bytes(first)
    return None
