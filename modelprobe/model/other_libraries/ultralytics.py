"""ultralytics: an image of 640 x 640."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from modelprobe.errors import BadInput
from modelprobe.model.inputs.spec import InputSpec
from modelprobe.model.zoo import libraries

_TASKS = {"-cls": "ClassificationModel", "-seg": "SegmentationModel", "-pose": "PoseModel", "-obb": "OBBModel"}
"""Part of a YAML's name -> the class that it describes; any other is a detector."""


def named(name: str) -> Callable[..., nn.Module] | None:
    """What builds the network of `yolov8n.yaml`; None for a name that is no YAML's."""
    if not name.endswith((".yaml", ".yml")):
        return None
    return partial(_from_yaml, name)


def _from_yaml(name: str, **given: Any) -> nn.Module:
    tasks = libraries.optional("ultralytics.nn.tasks")
    kind = next((kind for part, kind in _TASKS.items() if part in name), "DetectionModel")
    if "rtdetr" in name:
        kind = "RTDETRDetectionModel"
    try:
        config = tasks.yaml_model_load(name)
    except (FileNotFoundError, OSError) as error:
        raise BadInput(f"ultralytics has no {name}", "such as ultralytics:yolov8n.yaml") from error
    made: nn.Module = getattr(tasks, kind)({**config, **given}, verbose=False)
    return made


def inputs(model: nn.Module) -> Iterator[Mapping[str, Any]]:
    """One image with the channels of the model's YAML; 224 x 224 for a classifier."""
    some: Any = model
    channels = (getattr(some, "yaml", None) or {}).get("channels", 3)
    side = 224 if "Classif" in type(model).__name__ else 640
    yield {"x": InputSpec(None, (1, channels, side, side))}
