"""The heads of two-stage detectors, which run as often as the data says, known by their structure.

To add a family: write a function from a model to its `VariableHead`s (none where the structure is another) and name it
in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, slots=True)
class VariableHead:
    """Modules that run on so many items at once, `most` per image. `item` is the shape of one, without its batch."""

    name: str
    unit: str
    modules: tuple[str, ...]
    most: int
    item: tuple[int, ...]


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
