"""The nodes that a pickle is read into: inert stand-ins for what unpickling would import, call and fill."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

PickleNode = Any
"""None, bool, int, float, str, a tuple or list of nodes, or one of the classes below."""


class Global:
    """A name that unpickling would import."""

    __slots__ = ("called", "count", "module", "name", "reduced", "texts", "watched")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.count = 0
        self.called = False
        self.reduced = False
        """Whether it is called itself, and not the `__new__` of a class."""
        self.watched = True
        """Whether what it is called with matters: not of the rebuilders, which a file may call a million times."""
        self.texts: tuple[str, ...] = ()
        """Texts that it is called with."""

    @property
    def spelled(self) -> str:
        return f"{self.module}.{self.name}"


class PendingCall:
    """An object that unpickling would make by calling `func`; `state` is what it would be given afterwards."""

    __slots__ = ("_args", "func", "items", "kwargs", "pairs", "state")

    def __init__(self, func: PickleNode, args: PickleNode) -> None:
        self.func = func
        self._args = args
        self.kwargs: PickleNode = None
        self.state: PickleNode = None
        self.pairs: list[PickleNode] | None = None  # key, value, key, value, …
        self.items: list[PickleNode] | None = None

    @property
    def args(self) -> PickleNode:
        """What `func` would be called with."""
        return self._args if type(self._args) is not TensorRecord else self._args.nodes()[-1]

    @property
    def record(self) -> TensorRecord | None:
        """The arguments of a call that makes a tensor, where they came in their common spelling."""
        return self._args if type(self._args) is TensorRecord else None


class TensorRecord:
    """The arguments of `_rebuild_tensor_v2` without their nodes; those are made when somebody asks for them.

    They were remembered in the pickle from the index `base` on. `extra`: the storage has a sixth field, None.
    """

    __slots__ = (
        *("base", "device", "extra", "grad", "hooks", "key", "kind", "numel", "offset", "shape", "strides", "word"),
        "_nodes",
    )

    def __init__(
        self, base: int, storage: tuple[PickleNode, ...], place: tuple[PickleNode, ...], grad: bool, hooks: PickleNode
    ) -> None:
        self.base = base
        self.word, self.kind, self.key, self.device, self.numel, self.extra = storage
        self.offset, self.shape, self.strides = place
        self.grad = grad
        self.hooks = hooks
        self._nodes: tuple[PickleNode, ...] | None = None

    def nodes(self) -> tuple[PickleNode, ...]:
        """The nodes in the order in which the pickle remembers them; the last one is the tuple of arguments."""
        if self._nodes is None:
            extra = (None,) if self.extra else ()
            identity = (self.word, self.kind, self.key, self.device, self.numel, *extra)
            hooks = PendingCall(self.hooks, ())
            shape, strides = (*self.shape,), (*self.strides,)  # its own, as the pickle has them
            args = (PersistentId(identity), self.offset, shape, strides, self.grad, hooks)
            self._nodes = (self.key, identity, *(dims for dims in (shape, strides) if dims), hooks, args)
        return self._nodes


class Dict:
    """A dictionary as it was filled: key, value, key, value, … Nothing is hashed, duplicates are kept."""

    __slots__ = ("pairs",)

    def __init__(self) -> None:
        self.pairs: list[PickleNode] = []


class SetNode:
    """A set or frozenset, as it was filled."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[PickleNode], frozen: bool) -> None:
        self.items = items
        self.frozen = frozen


class PersistentId:
    """A reference to something outside the pickle: in a torch file a storage, as a tuple."""

    __slots__ = ("value",)

    def __init__(self, value: PickleNode) -> None:
        self.value = value


class Blob:
    """Bytes, or a string too long to keep, by their place in the stream. Short ones carry their data."""

    __slots__ = ("data", "feed", "kind", "length", "offset")

    def __init__(self, kind: str, feed: Any, offset: int, length: int, data: bytes | None) -> None:
        self.kind = kind
        self.feed = feed
        self.offset = offset
        self.length = length
        self.data = data


class Opaque:
    """A value that is named, not kept: an integer of thousands of digits, an out-of-band buffer."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what


MAPPINGS = frozenset({"OrderedDict", "defaultdict", "Counter", "dict", "EasyDict", "AttrDict", "ConfigDict"})
"""Class names (last part) whose calls are shown as dictionaries."""


def called(node: PickleNode) -> str:
    """`module.name` of the global that a call calls, or an empty text."""
    return node.func.spelled if type(node) is PendingCall and type(node.func) is Global else ""


def is_mapping(node: PickleNode) -> bool:
    """Whether the node would be a dictionary."""
    if type(node) is Dict:
        return True
    return type(node) is PendingCall and (node.pairs is not None or last_part(called(node)) in MAPPINGS)


def last_part(spelled: str) -> str:
    """`c` of `a.b.c`."""
    return spelled.rpartition(".")[2]


def pairs(node: PickleNode) -> Iterator[tuple[PickleNode, PickleNode]]:
    """Keys and values of a mapping in the order of filling. Python 2 gives an OrderedDict a list of pairs."""
    flat = node.pairs if type(node) in (Dict, PendingCall) else None
    if type(node) is PendingCall and type(node.args) is tuple and node.args and type(node.args[-1]) in (list, Dict):
        given = node.args[-1]
        if type(given) is Dict:
            yield from pairs(given)
        else:
            yield from ((pair[0], pair[1]) for pair in given if type(pair) in (list, tuple) and len(pair) == 2)
    if flat:
        yield from zip(flat[::2], flat[1::2], strict=False)


def value_at(node: PickleNode, key: str) -> PickleNode:
    """The value under a text key, the last one when there are several; None without."""
    found = None
    if is_mapping(node):
        for name, value in pairs(node):
            if type(name) is str and name == key:
                found = value
    return found


def attributes(node: PickleNode) -> PickleNode:
    """The mapping of an object's attributes: its state, or the first half of (`__dict__`, slots)."""
    state = node.state if type(node) is PendingCall else None
    if type(state) is tuple and len(state) == 2 and (is_mapping(state[0]) or state[0] is None):
        state = state[0] if state[0] is not None else state[1]
    return state if is_mapping(state) else None


def object_class(node: PickleNode) -> str:
    """The class an object would have, as the file spells it."""
    if type(node) is not PendingCall:
        return ""
    target = node.func
    if last_part(called(node)) in _MAKERS and type(node.args) is tuple and node.args:
        target = node.args[0]
    return target.spelled if type(target) is Global else "?"


_MAKERS = frozenset({"_reconstructor", "__newobj__", "__newobj_ex__"})


def members(node: PickleNode) -> list[PickleNode]:
    """What a set holds. Protocols below 4 make one by calling `set` with a list."""
    if type(node) is SetNode:
        return node.items
    if type(node) is PendingCall and last_part(called(node)) in ("set", "frozenset") and type(node.args) is tuple:
        return node.args[0] if node.args and type(node.args[0]) is list else []
    return []


MAX_DIMS = 64


def integers(node: PickleNode) -> tuple[int, ...] | None:
    """A tuple or list of integers (a size, a stride), through `torch.Size(...)`; None for anything else."""
    if (
        type(node) is PendingCall
        and type(node.args) is tuple
        and len(node.args) == 1
        and called(node).endswith("torch.Size")
    ):
        node = node.args[0]
    if type(node) not in (tuple, list) or len(node) > MAX_DIMS:
        return None
    for item in node:
        if type(item) is not int:
            return None
    return tuple(node)
