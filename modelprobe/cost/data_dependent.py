"""Bounds of costs that depend on the data: heads of detectors, by proposals, and experts, by tokens routed to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from modelprobe.report.blocks import Column, Row, Table
from modelprobe.report.units import Unit
from modelprobe.tracing.records import ModuleCall, ModuleNode, Trace, numel, parents

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class CostBounds:
    """A part of the model that ran on `items` this time, and may run on none or on `most_items`.

    `macs` is what it cost this time; `most_macs` with the most items; with none it costs nothing. For experts,
    `parameters` are those of all and `active_parameters` those that one token meets on average.
    """

    stage: str
    unit: str
    items: int
    most_items: int
    macs: int
    most_macs: int
    parameters: int = 0
    active_parameters: int = 0


@dataclass(frozen=True, slots=True)
class VariableHead:
    """Modules that run on so many items at once, `most` per image. `item` is the shape of one, without its batch."""

    name: str
    unit: str
    modules: tuple[str, ...]
    most: int
    item: tuple[int, ...]


def cost_bounds(model: nn.Module, trace: Trace) -> tuple[CostBounds, ...]:
    """Every part of `model` whose cost in `trace` depended on the data."""
    images = sum(len(ref.shape) == 3 for ref in trace.inputs)
    regions = (_head_bounds(model, trace, stage, images) for stage in stages(model))
    return (*(found for found in regions if found is not None), *_experts(trace))


def _head_bounds(model: nn.Module, trace: Trace, stage: VariableHead, images: int) -> CostBounds | None:
    macs = sum(op.macs for op in trace.ops if _inside(op.module, stage.modules))
    items = next((call.inputs[0][0] for call in trace.calls if call.path == stage.modules[0] and call.inputs), 0)
    each, rest = divmod(macs, items) if items else (_macs_of_one(model, stage), 0)
    if rest:
        return None  # a custom head, whose cost is not proportional to the items
    most = stage.most * images
    return CostBounds(stage.name, stage.unit, items, most, macs, each * most)


def _inside(path: str, modules: Iterable[str]) -> bool:
    return any(path == module or path.startswith(module + ".") for module in modules)


def _macs_of_one(model: nn.Module, stage: VariableHead) -> int:
    """What a head costs for one item, recorded for itself: the image at hand gave it none."""
    import torch
    from torch import nn

    from modelprobe.tracing.recorder import trace as record

    heads = [model.get_submodule(path) for path in stage.modules]
    example = torch.empty(1, *stage.item, device="meta", dtype=next(model.parameters()).dtype)
    return record(nn.Sequential(*heads), example).macs


def _experts(trace: Trace) -> Iterator[CostBounds]:
    """Mixtures of experts: like members of one list, called on unlike numbers of rows, under a router.

    The router shows in an operator of the same block whose last dimension is the number of experts. A block in which
    every expert sees every row is not found: its cost does not depend on the data.
    """
    calls: dict[str, list[ModuleCall]] = {}
    for call in trace.calls:
        calls.setdefault(call.path, []).append(call)
    for members in _lists_of_equals(trace):
        ran = [call for path in members for call in calls.get(path, []) if call.inputs]
        number = ran[0].parent if ran else -1
        if number < 0 or not _uneven(members, ran) or not _routed(trace, number, len(members)):
            continue
        block = trace.calls[number]
        width = ran[0].inputs[0][-1]
        rows = sum(numel(call.inputs[0][:-1]) for call in ran)
        tokens = _tokens_at(calls[block.path], width)
        macs = sum(op.macs for op in trace.ops if _inside(op.module, members))
        if not rows or not tokens or macs % rows:
            continue
        yield _expert_bounds(trace, members, rows, tokens, macs)


def _expert_bounds(trace: Trace, members: Sequence[str], rows: int, tokens: int, macs: int) -> CostBounds:
    most = len(members) * tokens
    state = trace.tree.unique_state()
    held = sum(entry.numel for entry in state if entry.role == "parameter" and _inside(entry.path, members))
    name = members[0].rpartition(".")[0]
    return CostBounds(name, "tokens x experts", rows, most, macs, macs // rows * most, held, held * rows // most)


def _lists_of_equals(trace: Trace) -> Iterator[list[str]]:
    """The members of every module list of two or more, all of one class and size, by their paths."""
    sizes: dict[str, int] = {}
    for entry in trace.tree.state:
        for path in parents(entry.path):
            sizes[path] = sizes.get(path, 0) + entry.numel
    lists = {node.path for node in trace.tree.modules if node.cls == "ModuleList"}

    def home(node: ModuleNode) -> str:
        return node.path.rpartition(".")[0]

    members = sorted((n for n in trace.tree.modules if n.path and home(n) in lists), key=home)
    for _, group in groupby(members, key=home):
        nodes = list(group)
        if len(nodes) > 1 and len({(node.cls, sizes.get(node.path, 0)) for node in nodes}) == 1:
            yield [node.path for node in nodes]


def _uneven(members: Sequence[str], ran: Sequence[ModuleCall]) -> bool:
    return {call.path for call in ran} != set(members) or len({call.inputs[0][:-1] for call in ran}) > 1


def _routed(trace: Trace, block: int, experts: int) -> bool:
    return any(ref.shape[-1:] == (experts,) for op in trace.ops_of(block) if op.kind == "matmul" for ref in op.outputs)


def _tokens_at(blocks: Sequence[ModuleCall], width: int) -> int:
    """The rows that arrived at a block, over its calls."""
    return sum(numel(call.inputs[0][:-1]) for call in blocks if call.inputs and call.inputs[0][-1:] == (width,))


def bounds_table(found: Sequence[CostBounds]) -> Table:
    """Least, this time and most, part by part."""
    columns = (
        Column("stage", "Depends on the data"),
        Column("unit", "Items", priority=1),
        Column("items", "This time", Unit.COUNT),
        Column("most_items", "At most", Unit.COUNT),
        Column("macs", "MACs this time", Unit.MACS),
        Column("most_macs", "MACs at most", Unit.MACS),
    )
    rows = tuple(Row((r.stage, r.unit, r.items, r.most_items, r.macs, r.most_macs)) for r in found)
    return Table(columns, rows, key="ranges")


# The heads of two-stage detectors, which run as often as the data says, are known by their structure. To add a family:
# write a function from a model to its `VariableHead`s (none where the structure is another), and name it in `FAMILIES`.


def stages(model: nn.Module) -> tuple[VariableHead, ...]:
    """The stages of `model` whose cost depends on the data, in the order in which they run; none for most models."""
    return tuple(stage for family in FAMILIES for stage in family(model))


def _regions(model: nn.Module) -> Iterator[VariableHead]:
    """torchvision's GeneralizedRCNN and what is built on it: boxes for proposals, masks and keypoints for detections.

    At most `rpn_post_nms_top_n_test` proposals pass the region proposal network, `box_detections_per_img` detections
    the box head (Ren et al. 2015; He et al. 2017).
    """
    if not any(cls.__module__ == "torchvision.models.detection.generalized_rcnn" for cls in type(model).__mro__):
        return
    rpn, heads = getattr(model, "rpn", None), getattr(model, "roi_heads", None)
    limits, channels = getattr(rpn, "_post_nms_top_n", None), getattr(model.backbone, "out_channels", None)
    if not isinstance(limits, dict) or heads is None or not isinstance(channels, int):
        return
    for kind, unit, most in (
        ("box", "proposals", limits.get("testing", 0)),
        ("mask", "detections", heads.detections_per_img),
        ("keypoint", "detections", heads.detections_per_img),
    ):
        pool = getattr(heads, f"{kind}_roi_pool", None)
        if pool is not None and hasattr(pool, "output_size"):
            modules = (f"roi_heads.{kind}_head", f"roi_heads.{kind}_predictor")
            yield VariableHead(f"{kind} head", unit, modules, int(most), (channels, *map(int, pool.output_size)))


FAMILIES = (_regions,)
