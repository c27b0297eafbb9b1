"""What a checkpoint of whatever format gives for a new file (tensors, values), and what is left behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.dtypes import BITS
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.records import ATTRIBUTE, FLAG_TEXT, Branch, Checkpoint, TensorEntry
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.extras import PICKLED_FORMATS, ExtraEntries, NotKept, extra_entries
from modelprobe.checkpoint.write.tensor import TensorToWrite, to_write
from modelprobe.errors import BadInput

DISTRIBUTED, ZERO = "torch distributed checkpoint", "DeepSpeed ZeRO"
REFUSED = {
    "ONNX": "the initializers of an ONNX graph are no state_dict: folding and export have renamed and changed them",
    "npy": "a single array without a name is not a state_dict",
}


@dataclass(frozen=True, slots=True)
class Gathered:
    """What a new file is made of: the model's tensors by their names in it, and (for pt) what stands around them.

    `whole` tells that `others` holds the tensors as well, in their places: the file is rebuilt as it was. `keeps` tells
    that the other entries go along.
    """

    branch: Branch
    tensors: tuple[TensorToWrite, ...]
    others: ExtraEntries
    whole: bool = False
    keeps: bool = False
    metadata: dict[str, str] | None = None


@contextmanager
def hinted(path: str | Path) -> Iterator[None]:
    """Errors of the body that say nothing about what to do next are told to look into the file."""
    try:
        yield
    except BadInput as error:
        error.hint = error.hint or f"`modelprobe summary {path}` lists its contents"
        raise


def gather(found: Checkpoint, stack: ExitStack, name: str | None = None, keep_others: bool = False) -> Gathered:
    """Everything that goes into a new file; its tensors are readable until `stack` is closed.

    With `keep_others` and no branch asked for, the other entries are kept. Raises BadInput for a file that is damaged
    or incomplete, and when a tensor of the model cannot be read.
    """
    serious = next((finding.text for finding in found.findings if finding.serious), "")
    if serious:
        raise BadInput(f"{found.path} is damaged or incomplete: {serious}", "`modelprobe summary` lists what is wrong")
    if found.format in REFUSED:
        raise BadInput(f"{found.path} gives no state_dict: {REFUSED[found.format]}", "`modelprobe summary` lists it")
    if found.format == DISTRIBUTED:
        from modelprobe.checkpoint.values.gather_dcp import gather_distributed

        return gather_distributed(found, stack, name, keep_others)
    if found.format == ZERO:
        from modelprobe.checkpoint.values.gather_zero import gather_zero

        return gather_zero(found, stack)
    branch = chosen_branch(found, name)
    reader = stack.enter_context(TensorReader(found))
    tensors = (*model_tensors(found, branch, reader), *_tied_before(found, branch, reader))
    keeps = keep_others and name is None and found.format in PICKLED_FORMATS and found.tree.kind != "module"
    if keeps and branch.kind != "module":
        return Gathered(branch, tensors, extra_entries(found, reader, None), whole=True, keeps=True)
    others = extra_entries(found, reader, branch)
    if not keeps:  # the versions of the branch belong to it; everything around it stays behind
        place = f"{branch.name or 'the root'}: "
        changed = tuple(text for text in others.changed if text.startswith(place))
        others = ExtraEntries(versions=others.versions, changed=changed)
    return Gathered(branch, tensors, others, keeps=keeps, metadata=kept_metadata(found))


def model_tensors(found: Checkpoint, branch: Branch, reader: TensorReader) -> list[TensorToWrite]:
    """The tensors that `state_dict()` of the branch would have, by their names in it."""
    start, made = len(branch.path), []
    for listed in found.tensors_in(branch):
        if listed.role == ATTRIBUTE or "non-persistent" in listed.flags:
            continue
        entry = readable(found, listed)
        if "quantised" in entry.flags:
            raise BadInput(f"{entry.name} cannot be taken over: {FLAG_TEXT['quantised']}")
        reader.check(entry)
        made.append(to_write(reader, entry, ".".join(entry.path[start:])))
    return made


def readable(found: Checkpoint, entry: TensorEntry) -> TensorEntry:
    """The entry with the strides that a GGUF file does not state. Raises BadInput for its block-quantized types."""
    if found.format != "GGUF":
        return entry
    if entry.dtype not in BITS:
        blocks = sum(1 for other in found.tensors if other.dtype not in BITS)
        raise BadInput(
            f"{blocks:,} tensors of {found.path} are quantized in blocks, as {entry.name} ({entry.dtype})",
            "only GGUF files of plain types (F32, F16, BF16) are converted: blocks would have to be computed anew",
        )
    return replace(entry, strides=packed_strides(entry.shape))


def _tied_before(found: Checkpoint, branch: Branch, reader: TensorReader) -> list[TensorToWrite]:
    """The tied tensors that a safetensors file records by name in its metadata."""
    if "safetensors" not in found.format or branch.path:
        return []
    entries = {entry.name: entry for entry in found.tensors}
    return [
        to_write(reader, entries[first], name)
        for name, first in found.metadata.items()
        if isinstance(first, str) and first in entries and name not in entries
    ]


def kept_metadata(found: Checkpoint) -> dict[str, str] | None:
    """The metadata of a safetensors file without the records of tied tensors, which are made anew."""
    if found.format != "safetensors":
        return None
    names = {entry.name for entry in found.tensors}
    return {key: value for key, value in found.metadata.items() if isinstance(value, str) and value not in names}


def left_behind(found: Checkpoint, branch: Branch) -> tuple[NotKept, ...]:
    """The entries outside a branch, for a file that holds nothing else: at the top, and beside it further down."""
    made: list[NotKept] = []
    above: tuple[str, ...] = ()
    item = found.tree
    for depth in range(len(branch.path) + 1):
        inside = branch.path[depth] if depth < len(branch.path) else None
        for child in item.children:
            path = ".".join((*above, child.key))
            if child.key != inside and (inside is not None or not child.tensors) and child.kind != "tensor":
                many = f"{child.tensors:,} tensors" if child.tensors else child.type or child.kind
                what = str(child.value) if child.kind == "opaque" else many
                made.append(NotKept(path, f"{what}, outside {branch.name}" if inside else f"{what}, no tensor"))
        following = item.child(inside) if inside is not None else None
        if following is None:
            break
        item, above = following, (*above, following.key)
    return tuple(made)


def skipped(found: Checkpoint, branch: Branch) -> Sequence[TensorEntry]:
    """The tensors of a branch that its `state_dict()` would not have."""
    return [e for e in found.tensors_in(branch) if e.role == ATTRIBUTE or "non-persistent" in e.flags]
