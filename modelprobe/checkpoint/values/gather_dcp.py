"""Tensors of a distributed checkpoint, put together from their chunks one at a time."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.bytes.directory import member
from modelprobe.checkpoint.bytes.source import FileSource, Span
from modelprobe.checkpoint.limits import DEFAULT_LIMITS
from modelprobe.checkpoint.open import read_source
from modelprobe.checkpoint.pickle.nodes import PickleNode, attributes, integers, is_mapping, pairs, value_at
from modelprobe.checkpoint.pickle.scalars import key_text
from modelprobe.checkpoint.records import Checkpoint, TensorEntry
from modelprobe.checkpoint.values.gather import Gathered
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.extras import ExtraEntries, NotKept, extra_entries
from modelprobe.checkpoint.write.tensor import TensorToWrite
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    import torch

ItemPath = tuple[str, int, int]
"""File, offset and length of one stored item."""


class _DcpItems:
    """The items of a distributed checkpoint by name."""

    def __init__(self, found: Checkpoint) -> None:
        self.folder = Path(found.path)
        self.size = found.size
        state = attributes(found.root)
        self.places: dict[str, list[tuple[tuple[int, ...], ItemPath]]] = {}
        for key, value in pairs(value_at(state, "storage_data")):
            where, info = attributes(key), attributes(value)
            name, start = value_at(where, "fqn"), integers(value_at(where, "offset"))
            place = value_at(info, "relative_path"), value_at(info, "offset"), value_at(info, "length")
            if type(name) is not str or type(place[1]) is not int or type(place[2]) is not int:
                raise BadInput(f"{found.path} is a damaged distributed checkpoint: an item has no place")
            if value_at(info, "transform_descriptors"):
                raise BadInput(f"{found.path} gives no state_dict: its items are compressed, as {name}")
            self.places.setdefault(name, []).append((start or (), place))
        planner = value_at(state, "planner_data")
        self.paths: dict[str, tuple[Any, ...]] = {}
        for key, value in pairs(planner) if is_mapping(planner) else ():
            if type(key) is str and type(value) in (tuple, list) and all(type(part) in (str, int) for part in value):
                self.paths[key] = tuple(value)

    def open(self, place: ItemPath) -> Checkpoint:
        """The listing of one item: a small file within a file."""
        if place[1] < 0:
            raise BadInput(f"{self.folder} is a damaged distributed checkpoint: an item lies outside its file")
        path = member(self.folder, place[0], str(self.folder))
        with closing(FileSource(path)) as source:
            return read_source(Span(source, place[1], place[2]), DEFAULT_LIMITS)

    def load(self, name: str, entry: TensorEntry) -> torch.Tensor:
        """A whole tensor from its chunks. Raises BadInput when they do not fill it exactly."""
        import torch

        if entry.nbytes > self.size:
            raise BadInput(f"{name} is incomplete: it has more elements than the whole directory has bytes for")
        whole = torch.empty(entry.shape, dtype=getattr(torch, entry.dtype))
        filled = 0
        for start, place in self.places.get(name, []):
            part = self.open(place)
            if len(part.tensors) != 1:
                raise BadInput(f"{name} is damaged: an item of it holds {len(part.tensors)} tensors")
            with TensorReader(part) as reader:
                chunk = reader.load(part.tensors[0])
            region = whole
            inside = len(start) == chunk.dim() == whole.dim()
            for dim, (begin, size) in enumerate(zip(start, chunk.shape, strict=False) if inside else ()):
                inside = inside and 0 <= begin <= begin + size <= whole.shape[dim]
                region = region.narrow(dim, begin, size) if inside else region
            if not inside or region.shape != chunk.shape or chunk.dtype != whole.dtype:
                raise BadInput(f"{name} is damaged: a chunk of it lies outside")
            region.copy_(chunk)
            filled += chunk.numel()
        if filled != whole.numel():
            raise BadInput(f"{name} is incomplete: its chunks hold {filled:,} of {whole.numel():,} elements")
        return whole


def gather_distributed(found: Checkpoint, stack: ExitStack, name: str | None, keep_others: bool) -> Gathered:
    """The tensors of a distributed checkpoint and, with `keep_others`, its nesting and its other values."""
    folder = _DcpItems(found)
    branch = chosen_branch(found, name)
    names = {path: key for key, path in ((key, tuple(map(key_text, path))) for key, path in folder.paths.items())}
    made: dict[tuple[str, ...], TensorToWrite] = {}
    for entry in found.tensors:
        odd = [flag for flag in entry.flags if flag not in ("flat-slice", "by-name", "attributes")]
        if odd:
            raise BadInput(f"{entry.name} cannot be put together: {odd[0]}")
        made[entry.path] = _whole_tensor(folder, names.get(entry.path, entry.name), entry)
    if keep_others and name is None:
        return Gathered(branch, (), _nested_entries(folder, made, names, stack), whole=True, keeps=True)
    start = len(branch.path)
    tensors = [
        TensorToWrite(".".join(path[start:]), out.shape, out.dtype, out.load)
        for path, out in made.items()
        if path[:start] == branch.path
    ]
    return Gathered(branch, tuple(tensors), ExtraEntries())


def _whole_tensor(folder: _DcpItems, name: str, entry: TensorEntry) -> TensorToWrite:
    return TensorToWrite(entry.name, entry.shape, entry.dtype, lambda: folder.load(name, entry))


def _nested_entries(
    folder: _DcpItems, made: dict[tuple[str, ...], TensorToWrite], names: dict[tuple[str, ...], str], stack: ExitStack
) -> ExtraEntries:
    """The values in the places they had before they were flattened."""
    root: dict[Any, Any] = {}
    changed: list[str] = []
    dropped: list[NotKept] = []
    tensors = {names.get(path, ".".join(path)): out for path, out in made.items()}
    for name, places in folder.places.items():
        value: PickleNode = tensors.get(name)
        if value is None:
            part = folder.open(places[0][1])
            found = extra_entries(part, stack.enter_context(TensorReader(part)), None)
            changed += [f"{name}: {text}" for text in found.changed]
            dropped += [NotKept(f"{name} {entry.path}".strip(), entry.why) for entry in found.dropped]
            if any(not entry.path for entry in found.dropped):
                continue
            value = found.extras
        _put(root, folder.paths.get(name, (name,)), value)
    return ExtraEntries(_lists(root), None, tuple(changed), tuple(dropped))


def _put(root: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    for part in path[:-1]:
        root = root.setdefault(part, _Level())
        if type(root) is not _Level:
            raise BadInput(f"a damaged distributed checkpoint: {'.'.join(map(str, path))} stands within a value")
    root[path[-1]] = value


class _Level(dict[Any, Any]):
    """A container being rebuilt. Flattening made the keys of dictionaries texts: integers are places in a list."""


def _lists(value: Any) -> Any:
    if type(value) is not _Level and type(value) is not dict:
        return value
    inner = {key: _lists(item) if type(item) is _Level else item for key, item in value.items()}
    if inner and all(type(key) is int for key in inner):
        return [inner[key] for key in sorted(inner)]
    return inner
