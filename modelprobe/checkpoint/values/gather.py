"""What a checkpoint of whatever format gives for a new file (tensors, values), and what is left behind."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.dtypes import BITS
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.placeholders import mostly_placeholders, where_weights_are
from modelprobe.checkpoint.records import DISTRIBUTED, FLAG_TEXT, Branch, Checkpoint, TensorEntry
from modelprobe.checkpoint.values.left_out import NO_PLACE, kept_metadata, not_written
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.write.extras import ONE_TENSOR, PICKLED_FORMATS, ExtraEntries, extra_entries
from modelprobe.checkpoint.write.tensor import TensorToWrite, to_write
from modelprobe.errors import BadInput

ZERO = "DeepSpeed ZeRO"
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
        error.hint = error.hint or f"`modelprobe summary {shlex.quote(str(path))}` lists its contents"
        raise


def gather(found: Checkpoint, stack: ExitStack, name: str | None = None, keep_others: bool = False) -> Gathered:
    """Everything that goes into a new file; its tensors are readable until `stack` is closed.

    With `keep_others` and no branch asked for, the other entries are kept. Raises BadInput for a file that is damaged
    or incomplete, and when a tensor of the model cannot be read.
    """
    refuse_unusable(found)
    if found.format == DISTRIBUTED:
        from modelprobe.checkpoint.values.gather_dcp import gather_distributed

        return gather_distributed(found, stack, name, keep_others)
    if found.format == ZERO:
        from modelprobe.checkpoint.values.gather_zero import gather_zero

        return gather_zero(found, stack)
    branch = chosen_branch(found, name)
    empty = mostly_placeholders(entry.shape for entry in found.tensors_in(branch))
    if empty:
        raise BadInput(*where_weights_are(found.path, empty))
    reader = stack.enter_context(TensorReader(found))
    tensors = (*model_tensors(found, branch, reader), *tied_before(found, branch, reader))
    if not tensors:
        raise BadInput(*_nothing_saved(found, branch))
    keeps = keep_others and name is None and found.format in PICKLED_FORMATS and found.tree.kind != "module"
    if keeps and branch.kind != "module":
        others = extra_entries(found, reader, None)
        if not any(entry.path == "" for entry in others.dropped):
            return Gathered(branch, tensors, others, whole=True, keeps=True)
        keeps = False  # the root itself cannot be written: its tensors can
    others = extra_entries(found, reader, branch)
    if not keeps:  # the versions of the branch belong to it; everything around it stays behind
        place = f"{branch.name or 'the root'}: "
        changed = tuple(text for text in others.changed if text.startswith(place))
        others = ExtraEntries(versions=others.versions, changed=changed)
    return Gathered(branch, tensors, others, keeps=keeps, metadata=kept_metadata(found))


def refuse_unusable(found: Checkpoint) -> None:
    """Raise BadInput for a file that is damaged or incomplete, and for a format without a state dict."""
    serious = next((finding.text for finding in found.findings if finding.serious), "")
    look = f"`modelprobe summary {shlex.quote(found.path)}`"
    if serious:
        raise BadInput(f"{found.path} is damaged or incomplete: {serious}", f"{look} lists what is wrong")
    if found.format in REFUSED:
        raise BadInput(f"{found.path} gives no state_dict: {REFUSED[found.format]}", f"{look} lists it")


def _nothing_saved(found: Checkpoint, branch: Branch) -> tuple[str, str]:
    """What to say of a model without a state dict: its tensors are constants, attributes or quantized weights."""
    first = next(iter(found.tensors_in(branch)))
    named = f"such as {first.name}" if branch.tensors > 1 else first.name
    text = f"no tensor of {branch.name or found.path} is in a state_dict: {branch.tensors:,} are constants, attributes"
    look = f"`modelprobe summary {shlex.quote(found.path)}` lists them; nothing was written"
    odd = next((flag for flag in first.flags if flag in NO_PLACE - {"quantised"}), "")
    if odd:
        return f"no tensor of {branch.name or found.path} can be written: {first.name} is {FLAG_TEXT[odd]}", look
    return f"{text} or quantized weights, {named}", look


def model_tensors(found: Checkpoint, branch: Branch, reader: TensorReader) -> list[TensorToWrite]:
    """The tensors that `state_dict()` of the branch would have, by their names in it."""
    start, made = len(branch.path), []
    gone = {id(entry) for entry in not_written(found, branch)}
    for listed in found.tensors_in(branch):
        if id(listed) in gone:
            continue
        entry = readable(found, listed)
        reader.check(entry)
        made.append(to_write(reader, entry, ".".join(entry.path[start:]) or ONE_TENSOR))
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


def tied_before(found: Checkpoint, branch: Branch, reader: TensorReader) -> list[TensorToWrite]:
    """The tied tensors that a safetensors file records by name in its metadata."""
    if "safetensors" not in found.format or branch.path:
        return []
    entries = {entry.name: entry for entry in found.tensors}
    return [
        to_write(reader, entries[first], name)
        for name, first in found.metadata.items()
        if isinstance(first, str) and first in entries and name not in entries
    ]
