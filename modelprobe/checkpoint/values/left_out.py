"""What of a checkpoint does not go into a new file: the entries around a model, and in it what a state dict has not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from modelprobe.checkpoint.file_names import Format
from modelprobe.checkpoint.records import ATTRIBUTE, FLAG_TEXT, Branch, Checkpoint, Item, TensorEntry
from modelprobe.checkpoint.write.extras import NotKept

MAX_NAMED_STORAGES = 5
NO_NUMBERS = frozenset({"code-payload", "no-numbers"})
NO_PLACE = frozenset({"quantised", "sparse", "nested", "no-storage"}) | NO_NUMBERS
"""Flags of tensors that are named and left out, while all others are written."""

FORMAL = frozenset({"format"})
"""Metadata that say nothing of the model: the library that wrote the file."""


def not_saved(found: Checkpoint, branch: Branch) -> list[TensorEntry]:
    """The tensors of a branch that its `state_dict()` would not have."""
    return [e for e in found.tensors_in(branch) if e.role == ATTRIBUTE or "non-persistent" in e.flags]


def not_written(found: Checkpoint, branch: Branch) -> list[TensorEntry]:
    """These, and those for which a new file has no place: quantized, sparse and nested ones, views and meta tensors."""
    gone = {id(entry) for entry in not_saved(found, branch)}
    return [e for e in found.tensors_in(branch) if id(e) in gone or NO_PLACE & set(e.flags)]


def left_in_model(found: Checkpoint, branch: Branch) -> tuple[NotKept, ...]:
    """The tensors of a branch that its state dict leaves out, each by its name, and the storages that nothing uses.

    A second name of a tensor that the state dict has is no loss.
    """
    gone = not_written(found, branch)
    ids = {id(entry) for entry in gone}
    kept = {entry.identity for entry in found.tensors_in(branch) if id(entry) not in ids and entry.storage}
    made = [NotKept(entry.name, _reason(entry)) for entry in gone if entry.identity not in kept]
    return (*made, *unlisted_storages(found))


def _reason(entry: TensorEntry) -> str:
    if "quantised" in entry.flags and entry.role != ATTRIBUTE:
        return f"{FLAG_TEXT['quantised']}, which a new file has no place for"
    if "quantised" in entry.flags:
        return f"a packed weight, {FLAG_TEXT['quantised']}; state_dict() holds no tensor of it"
    odd = next((flag for flag in entry.flags if flag in NO_PLACE), "")
    if odd and entry.role != ATTRIBUTE:
        return FLAG_TEXT[odd]
    if "non-persistent" in entry.flags:
        return "a buffer that state_dict() leaves out"
    if entry.path[0] == "CONSTANTS":
        return "a constant of the code, in no state_dict()"
    return "an attribute, which state_dict() leaves out"


def unlisted_storages(found: Checkpoint) -> tuple[NotKept, ...]:
    """The storages that no listed tensor uses, as one entry."""
    if not found.unlisted:
        return ()
    keys = [key for key, _ in found.unlisted[:MAX_NAMED_STORAGES]]
    more = ", …" if len(found.unlisted) > MAX_NAMED_STORAGES else ""
    total = sum(size for _, size in found.unlisted)
    text = f"{len(found.unlisted):,} of {total:,} bytes that belong to no tensor: {', '.join(keys)}{more}"
    return (NotKept("storages", text),)


def left_behind(found: Checkpoint, branch: Branch, target: Format) -> tuple[NotKept, ...]:
    """The entries outside a branch, and in it those that are no tensors, for a file that holds nothing else.

    A torch file keeps the versions of the modules all the same.
    """
    versions = ".".join((*branch.path, "_metadata"))
    made = [entry for entry in _beside(found.tree, branch) if target != "pt" or entry.path != versions]
    named = {entry.path for entry in made}
    for entry in found.tensors:  # of very long files the tree of entries shows a part
        inside = entry.path[: len(branch.path)] == branch.path
        if not inside and not any(".".join(entry.path[:depth]) in named for depth in range(1, len(entry.path) + 1)):
            made.append(NotKept(entry.name, f"a tensor, outside {branch.name}"))
    return tuple(made)


def _beside(tree: Item, branch: Branch) -> Iterator[NotKept]:
    item, above = tree, tuple[str, ...]()
    for inside in branch.path:
        for child in item.children:
            if child.key != inside:
                yield NotKept(".".join((*above, child.key)), f"{_entry_in_words(child)}, outside {branch.name}")
        following = item.child(inside)
        if following is None:
            return
        item, above = following, (*above, following.key)
    for path, child in _no_tensors(item, above):
        yield NotKept(".".join(path), f"{_entry_in_words(child)}, no tensor")


def _no_tensors(item: Item, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Item]]:
    """The entries at any depth that hold no tensors, each whole."""
    stack = [(above, item)]
    while stack:
        path, holder = stack.pop()
        for child in holder.children:
            where = (*path, child.key)
            if not child.tensors and child.kind != "tensor":
                yield where, child
            elif child.kind != "tensor":
                stack.append((where, child))


def _entry_in_words(child: Item) -> str:
    if child.kind == "opaque":
        return str(child.value)
    if child.kind == "same":
        return f"the same as {child.value or 'the root'}"
    if child.tensors:
        return "1 tensor" if child.tensors == 1 else f"{child.tensors:,} tensors"
    return child.type or child.kind


def header_texts(found: Checkpoint, target: Format) -> tuple[NotKept, ...]:
    """What a safetensors or GGUF header says beside its tensors. Only safetensors has a place for it, and for texts."""
    said = kept_metadata(found) if found.format == "safetensors" else found.metadata if found.format == "GGUF" else None
    texts = sorted(key for key in said or () if key not in FORMAL)
    if not texts or (found.format == target == "safetensors"):
        return ()
    more = f" and {len(texts) - 3:,} more" if len(texts) > 3 else ""
    name = "__metadata__" if found.format == "safetensors" else "the key-value block"
    kind = "torch" if target == "pt" else "safetensors"
    return (NotKept(name, f"{len(texts):,} values that a {kind} file has no place for: {', '.join(texts[:3])}{more}"),)


def kept_metadata(found: Checkpoint) -> dict[str, str] | None:
    """The metadata of a safetensors file without the records of tied tensors, which are made anew."""
    if found.format != "safetensors":
        return None
    names = {entry.name for entry in found.tensors}
    return {key: value for key, value in found.metadata.items() if isinstance(value, str) and value not in names}


def with_tensor_counts(found: Checkpoint, entries: Iterable[NotKept]) -> tuple[NotKept, ...]:
    """The same, each with the number of tensors that are lost with it."""
    made = []
    for entry in entries:
        start = f"{entry.path}." if entry.path else ""
        held = sum(1 for tensor in found.tensors if tensor.name.startswith(start) and tensor.name != entry.path)
        lost = "" if not held else ", with 1 tensor" if held == 1 else f", with {held:,} tensors"
        made.append(NotKept(entry.path, f"{entry.why}{lost}"))
    return tuple(made)
