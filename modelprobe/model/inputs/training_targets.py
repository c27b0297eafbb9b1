"""What a model takes beside its input in training mode: torchvision's detectors take boxes and labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from modelprobe.model.inputs.example import ExampleInputs
from modelprobe.model.inputs.spec import InputSpec
from modelprobe.report.blocks import Level, Note


def with_targets(model: nn.Module, example: ExampleInputs) -> ExampleInputs:
    """`example` with a target for each image, for a detector that was given images alone; else as it is.

    A target is one box in the middle, a quarter of the image, of class 1, with a mask and keypoints where the model
    learns them. A note says so.
    """
    detector = type(model).__module__.startswith("torchvision.models.detection")
    alone = len(example.args) == 1 and isinstance(example.args[0], (list, tuple)) and "targets" not in example.kwargs
    if not detector or not alone:
        return example
    place = next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))
    targets = [
        {key: tensor.to(place) for key, tensor in _detection_target(model, image).items()} for image in example.args[0]
    ]
    kinds = ", ".join(targets[0]) if targets else "nothing"
    note = Note(
        f"The targets were made up: one box of class 1 per image, a quarter of its area ({kinds}). Losses, and "
        "whatever is sampled by overlap with boxes, depend on them: give images and targets with --inputs-from.",
        Level.ASSUMED,
    )
    return replace(
        example, args=(*example.args, targets), names=(*example.names[:1], "targets"), notes=(*example.notes, note)
    )


def _detection_target(model: nn.Module, image: InputSpec | torch.Tensor) -> dict[str, torch.Tensor]:
    """boxes [1, 4] as x, y, x, y; labels [1]; masks [1, H, W]; keypoints [1, K, 3], all visible in the middle."""
    height, width = image.shape[-2:]
    left, top, right, bottom = width // 4, height // 4, width - width // 4, height - height // 4
    found = {
        "boxes": torch.tensor([[left, top, right, bottom]], dtype=torch.float32),
        "labels": torch.ones(1, dtype=torch.int64),
    }
    heads: Any = getattr(model, "roi_heads", None)
    if heads is not None and heads.has_mask():
        mask = torch.zeros(1, height, width, dtype=torch.uint8)
        mask[:, top:bottom, left:right] = 1
        found["masks"] = mask
    if heads is not None and heads.has_keypoint():
        points = heads.keypoint_predictor.kps_score_lowres.out_channels
        middle = torch.tensor([width / 2, height / 2, 1.0])
        found["keypoints"] = middle.repeat(1, points, 1)
    return found
