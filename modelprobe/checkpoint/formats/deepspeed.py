"""Reader of DeepSpeed directories: names and shapes from the model states of rank 0; the values are flat shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from modelprobe.checkpoint.bytes.directory import file_names, plain_name
from modelprobe.checkpoint.bytes.source import FileSource
from modelprobe.checkpoint.dtypes import element_count, tensor_bytes
from modelprobe.checkpoint.formats.shards import OpenFile
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.nodes import PickleNode, integers, is_mapping, pairs, value_at
from modelprobe.checkpoint.pickle.rebuild import packed_strides
from modelprobe.checkpoint.pickle.scalars import key_text
from modelprobe.checkpoint.records import PARAMETER, Checkpoint, Finding, Item, TensorEntry
from modelprobe.errors import BadInput

MODEL_STATES = "model_states.pt"
OPTIM_STATES = "optim_states.pt"
SHAPES = "param_shapes"


def step_folder(folder: Path, names: list[str]) -> Path | None:
    """The folder of the newest step, if `folder` is a DeepSpeed checkpoint or holds one."""
    if any(name.endswith(MODEL_STATES) for name in names):
        return folder
    if "latest" not in names:
        return None
    with FileSource(folder / "latest") as source:
        tag = source.read(0, 256).decode("utf-8", "replace").strip()
    if not plain_name(tag) or not (folder / tag).is_dir():
        raise BadInput(f"{folder} names a newest step that is not there: {tag}")
    return folder / tag


def read_deepspeed(folder: Path, open_file: OpenFile, limits: ReadLimits) -> Checkpoint:
    """List one step: the module's own tensors, and the parameters whose values are spread over the optimizer shards."""
    names = file_names(folder)
    states = [name for name in names if name.endswith(MODEL_STATES)]
    shards = [name for name in names if name.endswith(OPTIM_STATES)]
    if not states:
        raise BadInput(f"{folder} holds no model states of DeepSpeed")
    found = open_file(folder / states[0])
    listed = {entry.path for entry in found.tensors}
    flat = [entry for entry in _shapes(found.root) if entry.path not in listed]
    world = value_at(found.root, "dp_world_size")
    findings = [*found.findings, Finding("the weights are flat shards: DeepSpeed's zero_to_fp32.py puts them together")]
    if type(world) is int and shards and len(shards) % max(world, 1):
        findings.append(Finding(f"{len(shards)} optimizer shards for {world} ranks: some are missing", serious=True))
    extra = Item(SHAPES, "dict", None, "", len(flat), len(flat), sum(entry.nbytes for entry in flat))
    tree = replace(found.tree, children=(extra, *(c for c in found.tree.children if c.key != SHAPES)))
    return replace(
        found, path=str(folder), format="DeepSpeed ZeRO",
        size=sum((folder / name).stat().st_size for name in (*states, *shards)), tensors=(*flat, *found.tensors),
        tree=tree if flat else found.tree, findings=tuple(findings),
        metadata={"ranks": world if type(world) is int else len(shards), "shards": len(shards)},
        files=tuple(str(folder / name) for name in (*states, *shards)),
    )  # fmt: skip


def _shapes(root: PickleNode) -> list[TensorEntry]:
    """`param_shapes`: a mapping, or one per parameter group, from name to size. The master copies are float32."""
    groups = value_at(root, SHAPES)
    entries = []
    for group in groups if type(groups) is list else [groups]:
        for key, value in pairs(group) if is_mapping(group) else ():
            shape = integers(value)
            numel = element_count(shape, "float32") if shape is not None else None
            if shape is None or numel is None:
                continue
            nbytes = tensor_bytes(numel, "float32")
            entry = TensorEntry(
                (SHAPES, key_text(key)), shape, "float32", packed_strides(shape), 0, nbytes, numel,
                role=PARAMETER, flags=("flat-slice",),
            )  # fmt: skip
            entries.append(entry)
    return entries
