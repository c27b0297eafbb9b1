"""Reader of TorchScript archives (`torch.jit.save`, mobile `.ptl`): code is read as text, never compiled."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice

from modelprobe.checkpoint.bytes.zip import ZipDirectory
from modelprobe.checkpoint.formats.pickled import global_entries, remarks
from modelprobe.checkpoint.formats.torch_zip import checksum, locator, version_and_findings, with_unlisted
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.modules import MAX_MODULE_DEPTH, MAX_MODULES
from modelprobe.checkpoint.pickle.nodes import Dict, PendingCall, PickleNode, attributes, called, pairs
from modelprobe.checkpoint.pickle.reader import read_pickle
from modelprobe.checkpoint.pickle.storages import StorageTable
from modelprobe.checkpoint.pickle.walk import TreeWalk
from modelprobe.checkpoint.records import ATTRIBUTE, BUFFER, PARAMETER, Checkpoint, Finding, Item, ModuleEntry

CODE_BYTES = 16 << 20

_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n"
    r"(?:  __parameters__ = \[([^\]\n]*)\]\n)?"
    r"(  __buffers__ = \[([^\]\n]*)\])?",  # absent before torch 1.4: every other tensor was a buffer
    re.MULTILINE,
)
_NAME = re.compile(r'"([^"]*)"')


class Roles:
    """Which attributes of a class are parameters and which buffers, from the archive's code, one file at a time.

    A class without a line of buffers has them all under the empty name.
    """

    def __init__(self, archive: ZipDirectory, root: str) -> None:
        self._archive = archive
        self._root = root
        self._read: dict[str, dict[str, dict[str, str]]] = {}
        self._left = CODE_BYTES

    def of(self, spelled: str) -> dict[str, str]:
        """Attribute name to role, for a class such as `__torch__.torch.nn.modules.conv.Conv2d`."""
        package, _, name = spelled.rpartition(".")
        if package not in self._read:
            self._read[package] = self._classes(f"{self._root}/code/{package.replace('.', '/')}.py")
        return self._read[package].get(name, {})

    def _classes(self, member_name: str) -> dict[str, dict[str, str]]:
        member = self._archive.get(member_name)
        if member is None or member.size > self._left:
            return {}
        self._left -= member.size
        text = self._archive.open(member).read(0, member.size).decode("utf-8", "replace")
        found = {}
        for name, parameters, line, buffers in _CLASS.findall(text):
            found[name] = dict.fromkeys(_NAME.findall(parameters), PARAMETER)
            found[name] |= dict.fromkeys(_NAME.findall(buffers), BUFFER) if line else {"": BUFFER}
        return found


def read_torchscript(archive: ZipDirectory, root: str, limits: ReadLimits) -> Checkpoint:
    """List the tensors of a TorchScript archive under the names of its modules."""
    source = archive.source
    member = archive.members[f"{root}/data.pkl"]
    version, findings = version_and_findings(archive, root)
    pickled = read_pickle(archive.open(member, limits.pickle_bytes), 0, limits)
    findings.extend(checksum(archive, member))
    data = f"{root}/data/" if any(name.startswith(f"{root}/data/") for name in archive.members) else f"{root}/tensors/"
    walk = TreeWalk(StorageTable(locator(archive, data), limits), limits)
    modules = _walk(walk, pickled.root, Roles(archive, root))
    constants = _constants(archive, root, limits)
    code = sum(member.size for name, member in archive.members.items() if name.startswith(f"{root}/code/"))
    mobile = f"{root}/bytecode.pkl" in archive.members
    tensors = (*walk.tensors, *constants.tensors)
    nbytes = sum(entry.nbytes for entry in tensors)
    found = Checkpoint(
        path=source.name, format="TorchScript mobile" if mobile else "TorchScript", version=version, size=source.size,
        tensors=tensors, storages={**walk.table.storages, **constants.table.storages},
        tree=Item("", "module", None, called(pickled.root), len(modules), len(tensors), nbytes),
        modules=modules,
        globals=tuple(g for g in global_entries(pickled.globals, "data.pkl") if not g.module.startswith("__torch__")),
        findings=(*findings, *remarks(pickled), *walk.findings, *constants.findings), metadata={"code_bytes": code},
        files=(source.name,), code=f"{code:,} bytes of TorchScript code", root=pickled.root,
    )  # fmt: skip
    found = with_unlisted(archive, data, found)
    return replace(found, findings=(*found.findings, *(Finding(text, True) for text in archive.findings)))


def _constants(archive: ZipDirectory, root: str, limits: ReadLimits) -> TreeWalk:
    """The tensors of `constants.pkl`, as the code calls them: those of a frozen module are all there."""
    walk = TreeWalk(StorageTable(locator(archive, f"{root}/constants/"), limits, "constants/"), limits)
    member = archive.get(f"{root}/constants.pkl")
    if member is not None and member.size:
        values = read_pickle(archive.open(member, limits.pickle_bytes), 0, limits).root
        for index, value in enumerate(values if type(values) in (tuple, list) else ()):
            walk.add_below(("CONSTANTS", f"c{index}"), value)
    return walk


def is_object(node: PickleNode) -> bool:
    """Whether a node is an object of a class that the archive's own code defines."""
    return type(node) is PendingCall and called(node).startswith("__torch__") and attributes(node) is not None


def _walk(walk: TreeWalk, root: PickleNode, roles: Roles) -> tuple[ModuleEntry, ...]:
    """Add every tensor below `root`. A module that hangs in two places is listed in both, as `state_dict()` does."""
    modules: list[ModuleEntry] = []
    stack: list[tuple[PickleNode, tuple[str, ...], tuple[int, ...]]] = [(root, (), ())] if is_object(root) else []
    while stack and len(modules) < MAX_MODULES:
        node, path, above = stack.pop()
        kind = called(node)
        modules.append(ModuleEntry(path, kind))
        known = roles.of(kind)
        below = []
        for name, value in islice(pairs(attributes(node)), MAX_MODULES - len(stack)):
            if type(name) is not str or type(value) not in (PendingCall, Dict, list, tuple):
                continue
            if walk.add((*path, name), value, known.get(name, known.get("", ATTRIBUTE))):
                continue
            if not is_object(value):
                walk.add_below((*path, name), value)
            elif id(value) not in above and len(above) < MAX_MODULE_DEPTH:
                below.append((value, (*path, name), (*above, id(node))))
        stack.extend(reversed(below))
    return tuple(modules)
