"""The tensors and other values below the root of a pickle: a walk without recursion, each container once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from modelprobe.checkpoint.dtypes import BITS, element_count
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.modules import MAX_MODULES, is_module, own_attributes, tensors_of
from modelprobe.checkpoint.pickle.nodes import (
    Dict,
    Opaque,
    PendingCall,
    PickleNode,
    SetNode,
    attributes,
    is_mapping,
    object_class,
    pairs,
)
from modelprobe.checkpoint.pickle.rebuild import TensorView, scheme_of, view_of
from modelprobe.checkpoint.pickle.scalars import key_text, scalar, spelled_keys
from modelprobe.checkpoint.pickle.storages import StorageTable
from modelprobe.checkpoint.records import ATTRIBUTE, Finding, Item, ModuleEntry, TensorEntry, new_tensor

Child = tuple[str, PickleNode]


class OpenContainer:
    """A container whose children are being visited."""

    __slots__ = ("beside", "children", "key", "kind", "length", "nbytes", "path", "rest", "tensors", "type")

    def __init__(
        self, key: str, path: tuple[str, ...], kind: str, type_: str, length: int, rest: Iterator[Child]
    ) -> None:
        self.key = key
        self.path = path
        self.kind = kind
        self.type = type_
        self.length = length
        self.rest = rest
        self.children: list[Item] = []
        self.tensors = 0
        self.nbytes = 0
        self.beside = False  # reached through an attribute of a module: state_dict() has nothing of it

    def item(self) -> Item:
        """The finished record."""
        shown = tuple(self.children)
        return Item(self.key, self.kind, None, self.type, self.length, self.tensors, self.nbytes, shown)


class TreeWalk:
    """Collects the tensors, the modules and the tree of everything else under one root."""

    def __init__(self, table: StorageTable, limits: ReadLimits) -> None:
        self.table = table
        self.limits = limits
        self.tensors: list[TensorEntry] = []
        self.modules: list[ModuleEntry] = []
        self.notes: dict[str, bool] = {}
        self._seen: dict[int, tuple[str, ...]] = {}
        self._items = 0
        self._steps = 0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was odd on the way."""
        return tuple(Finding(text, serious) for text, serious in self.notes.items())

    def build(self, root: PickleNode, path: tuple[str, ...] = ()) -> Item:
        """Walk everything under `root`, which stands at `path`."""
        key = path[-1] if path else ""
        if self.add(path, root):
            entry = self.tensors[-1]
            return Item(key, "tensor", None, "", 1, 1, entry.nbytes)
        if not is_container(root):
            return self._leaf(key, root)
        stack = [self._open(key, path, root)]
        while True:
            top = stack[-1]
            child = next(top.rest, None)
            self._steps += 1
            if child is not None and self._steps > self.limits.steps:
                self.notes[f"only the first {self.limits.steps:,} values are listed"] = True
            elif child is not None:
                self._visit(stack, top, *child)
                continue
            stack.pop()
            item = top.item()
            if not stack:
                return item
            stack[-1].tensors += item.tensors
            stack[-1].nbytes += item.nbytes
            self._show(stack[-1], item)

    def _visit(self, stack: list[OpenContainer], top: OpenContainer, key: str, node: PickleNode) -> None:
        path = (*top.path, key)
        beside = top.beside or top.kind == "module"
        if type(node) is PendingCall and self.add(path, node, ATTRIBUTE if beside else None):
            top.tensors += 1
            top.nbytes += self.tensors[-1].nbytes
        elif not is_container(node):
            if self._room(top):
                self._show(top, self._leaf(key, node))
        elif id(node) in self._seen:
            self._show(top, Item(key, "same", ".".join(self._seen[id(node)]), "", 0))
        elif len(stack) >= self.limits.depth:
            self.notes[f"values nested more than {self.limits.depth} deep are not listed"] = True
            self._show(top, Item(key, "deep"))
        else:
            stack.append(self._open(key, path, node, beside))

    def _show(self, holder: OpenContainer, item: Item) -> None:
        # What holds tensors is always listed: totals and branches are read from it.
        if self._room(holder) or (item.tensors and len(holder.children) < self.limits.children * 10):
            self._items += 1
            holder.children.append(item)

    def _room(self, holder: OpenContainer) -> bool:
        return len(holder.children) < self.limits.children and self._items < self.limits.items

    def _leaf(self, key: str, node: PickleNode) -> Item:
        kind, value, type_ = scalar(node)
        return Item(key, kind, value, type_)

    def _open(self, key: str, path: tuple[str, ...], node: PickleNode, beside: bool = False) -> OpenContainer:
        self._seen[id(node)] = path
        if is_module(node):
            opened = self._module(key, path, node, beside)
        else:
            kind, type_ = kind_of(node)
            length, children = self._children(node, path)
            opened = OpenContainer(key, path, kind, type_, length, children)
        opened.beside = beside
        return opened

    def _module(self, key: str, path: tuple[str, ...], node: PickleNode, beside: bool) -> OpenContainer:
        rest: Iterator[Child] = ((key_text(name), value) for name, value in own_attributes(node))
        holder = OpenContainer(key, path, "module", object_class(node), 0, rest)
        modules = 0
        first = len(self.tensors)
        for found in tensors_of(node, path):
            role = ATTRIBUTE if beside else found.role
            if found.node is None:
                self.modules.append(ModuleEntry(found.path, found.type))
                modules += 1
            elif self.add(found.path, found.node, role, () if found.persistent else ("non-persistent",)):
                self._seen[id(found.node)] = found.path
            elif len(found.path) > len(path) + 1:  # the root's own are walked as its children
                self.add_below(found.path, found.node)
        holder.tensors = len(self.tensors) - first
        holder.nbytes = sum(entry.nbytes for entry in self.tensors[first:])
        if modules >= MAX_MODULES:
            self.notes[f"only the first {MAX_MODULES:,} modules are listed"] = True
        holder.length = modules
        taken = (
            {entry.path for entry in self.tensors[len(self.tensors) - holder.tensors :]} if holder.tensors else set()
        )
        holder.rest = (child for child in holder.rest if (*path, child[0]) not in taken)
        return holder

    def _children(self, node: PickleNode, path: tuple[str, ...]) -> tuple[int, Iterator[Child]]:
        if type(node) in (list, tuple):
            return len(node), ((str(index), value) for index, value in enumerate(node))
        if type(node) is SetNode:
            return len(node.items), ((str(index), value) for index, value in enumerate(node.items))
        if is_mapping(node):
            found = self._unique(list(pairs(node)), path)
            extra: list[Child] = []
            if type(node) is PendingCall and is_mapping(node.state):
                extra = [(key_text(key), _versions_in_words(key, value)) for key, value in pairs(node.state)]
            return len(found), chain(found, extra)
        return self._object(node)

    def _object(self, node: PendingCall) -> tuple[int, Iterator[Child]]:
        state = attributes(node)
        if state is not None:
            found = [(key_text(key), value) for key, value in pairs(state)]
            return len(found), chain(found, _numbered_children(node.items or ()))
        given = [*(node.args if type(node.args) is tuple else ()), *([node.state] if node.state is not None else ())]
        return len(given), chain(_numbered_children(given), _numbered_children(node.items or ()))

    def _unique(self, found: list[tuple[PickleNode, PickleNode]], path: tuple[str, ...]) -> list[Child]:
        """Of two equal keys the last counts, as it does in Python."""
        children = [(key if type(key) is str else key_text(key), value) for key, value in found]
        if len({key for key, _ in children}) == len(children):
            return children
        texts = spelled_keys([key for key, _ in found])
        children = [(text, value) for text, (_, value) in zip(texts, found, strict=True)]
        if len({key for key, _ in children}) == len(children):
            return children
        last = dict(children)
        twice = next(key for index, (key, value) in enumerate(children) if last[key] is not value or index >= len(last))
        where = ".".join(path) or "the root"
        self.notes[f"a key occurs more than once in {where}: {twice}; the last one is used"] = True
        return list(last.items())

    def add(
        self,
        path: tuple[str, ...],
        node: PickleNode,
        role: str | None = None,
        flags: tuple[str, ...] = (),
        deep: bool = True,
    ) -> bool:
        """Record the tensor that `node` stands for and, if `deep`, those of its quantizer; False for anything else."""
        if len(self.tensors) >= self.limits.tensors:
            self.notes[f"only the first {self.limits.tensors:,} tensors are listed"] = True
            return type(node) is PendingCall
        view = view_of(self.table, node)
        if view is None:
            return False
        self.tensors.append(tensor_entry(self.table, path, view, role or view.role, flags))
        if view.quantizer and deep:  # tensors where each channel has its own scale
            self.add_below((*path, "quantizer"), scheme_of(node))
        return True

    def add_below(self, path: tuple[str, ...], node: PickleNode) -> None:
        """Record the tensors in a value that hangs on a submodule, which no state_dict has."""
        stack = [(path, node)]
        while stack:
            where, value = stack.pop()
            self._steps += 1
            if self._steps > self.limits.steps:
                self.notes[f"only the first {self.limits.steps:,} values are listed"] = True
                return
            if type(value) is PendingCall and self.add(where, value, ATTRIBUTE, deep=False):
                stack.append(((*where, "quantizer"), scheme_of(value)))
                continue
            if not is_container(value):
                continue
            if id(value) in self._seen or len(where) - len(path) >= self.limits.depth:
                continue
            self._seen[id(value)] = where
            if is_module(value):
                parts = [(part.path, part.node) for part in tensors_of(value, where) if part.node is not None]
                stack.extend(reversed(parts))
            else:
                _, children = self._children(value, where)
                stack.extend(reversed([((*where, key), child) for key, child in children]))


def tensor_entry(
    table: StorageTable, path: tuple[str, ...], view: TensorView, role: str | None, flags: tuple[str, ...]
) -> TensorEntry:
    """The record of a view, checked against its storage."""
    found = [*view.flags, *flags]
    if view.storage in table.flags:
        found += table.flags[view.storage]
    numel = element_count(view.shape, view.dtype)
    bits = BITS.get(view.dtype, 0)
    length = table.length(view.storage)
    if numel is None or (view.strides is not None and len(view.strides) != len(view.shape)):
        found.append("impossible-shape")
        numel = 0
    elif not bits:
        found.append("unknown-dtype")
    elif view.strides is not None and numel and "no-storage" not in found:
        found += _bounds(view, view.strides, length * 8 // bits)
    nbytes = view.extra or (numel * bits + 7) // 8
    if found:
        found = list(dict.fromkeys(found))
    return new_tensor(
        path=path, shape=view.shape, dtype=view.dtype or "?", strides=view.strides, offset=view.offset * bits // 8,
        nbytes=0 if "no-storage" in found else nbytes, numel=numel, storage=view.storage, storage_nbytes=length,
        device=view.device, role=role, requires_grad=view.requires_grad, flags=tuple(found), quantizer=view.quantizer,
    )  # fmt: skip


def _bounds(view: TensorView, strides: tuple[int, ...], available: int) -> tuple[str, ...]:
    """Whether a view stays inside its storage; all in elements."""
    if not view.storage:
        return ("missing-storage",)
    if view.offset < 0:
        return ("negative-view",)
    end = view.offset + 1
    for dim, step in zip(view.shape, strides, strict=True):
        if step < 0:
            return ("negative-view",)
        end += (dim - 1) * step
    return ("beyond-storage",) if end > available else ()


def _versions_in_words(key: PickleNode, value: PickleNode) -> PickleNode:
    """What `state_dict()` hangs on its result: one version per module, not worth a line each."""
    if key == "_metadata" and is_mapping(value):
        return Opaque(f"versions of {sum(1 for _ in pairs(value)):,} modules")
    return value


def is_container(node: PickleNode) -> bool:
    """Whether a node has children worth a visit."""
    if type(node) in (Dict, list, tuple, SetNode):
        return True
    return type(node) is PendingCall and scalar(node)[0] == "object"


def kind_of(node: PickleNode) -> tuple[str, str]:
    """The kind of a container, and the class it names."""
    if type(node) is PendingCall:
        return ("dict" if is_mapping(node) else "object"), object_class(node)
    if type(node) is SetNode:
        return ("frozenset" if node.frozen else "set"), ""
    return {Dict: "dict", list: "list", tuple: "tuple"}[type(node)], ""


def _numbered_children(values: list[PickleNode] | tuple[PickleNode, ...]) -> Iterator[Child]:
    return ((str(index), value) for index, value in enumerate(values))
