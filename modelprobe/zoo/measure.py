"""What the index says of one network: counted on `meta`, and read from its library's own records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelprobe.errors import ProbeError
from modelprobe.model.build import LoadedModel, TargetRequest, load_model, record
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo.names import TIMM, TORCHVISION
from modelprobe.tracing.meta_results import shared_results

if TYPE_CHECKING:
    from modelprobe.tracing.records import Trace

STRIDES = (2, 4, 8, 16, 32, 64)
MAX_FEATURE_DEPTH = 2
"""How deep in the tree of modules a feature map is looked for, where the library does not list them."""

OTHER_TASKS = ("detection", "segmentation", "video", "optical_flow")
CLASSIFICATION = "classification"
KINDS = {"quantization": "quantized ", "video": "video "}
"""Folders of torchvision whose families have the names of others."""


@shared_results()
def measure_network(spec: str) -> dict[str, Any]:
    """One row of the index as plain values. Raises ProbeError when the network cannot be built.

    `state` are the names and shapes of its state_dict. A network of another package that does not run on the input that
    it declares, or that is guessed, has no costs; one of torchvision or timm raises ProbeError.
    """
    loaded = load_model(TargetRequest(spec))
    origin, _, name = spec.partition(":")
    of_zoo = origin in (TORCHVISION, TIMM)
    try:
        trace: Trace | None = record(loaded)
    except ProbeError:
        if of_zoo:
            raise
        trace = None
    tree = loaded.tree
    return {
        "name": name,
        "origin": origin,
        **_kinship(loaded),
        "input": [list(ref.shape) for ref in trace.inputs] if trace else [],
        "parameters": tree.parameter_count(),
        "macs": trace.macs if trace else None,
        "flops": trace.flops if trace else None,
        "activations": sum(op.activations for op in trace.ops) if trace else None,
        "uncounted": len(trace.uncounted) if trace else 0,
        "memory": trace.peak_bytes if trace else None,
        "weights": _weights(loaded),
        "features": _feature_maps(loaded, trace) if trace else [],
        "state": {entry.path: list(entry.shape) for entry in tree.state if entry.persistent},
    }


def _kinship(loaded: LoadedModel) -> dict[str, str]:
    """The module of the library that a network stands in, and what it is for."""
    if loaded.target.origin == TORCHVISION:
        builder = libraries.torchvision_models().get_model_builder(loaded.target.name)
        *above, family = builder.__module__.removeprefix("torchvision.models.").split(".")
        task = next((part for part in above if part in OTHER_TASKS), CLASSIFICATION)
        kind = next((word for part, word in KINDS.items() if part in above), "")
        return {"family": f"{kind}{family}", "task": task}
    if loaded.target.origin == TIMM:
        entrypoint = libraries.timm().models.model_entrypoint(loaded.target.name)
        return {"family": entrypoint.__module__.rpartition(".")[2], "task": CLASSIFICATION}
    return {"family": type(loaded.model).__name__, "task": ""}


def _weights(loaded: LoadedModel) -> list[list[Any]]:
    """Name, licence, top-1 accuracy in percent and side of the image of every published weight file; None if unsaid."""
    if loaded.target.origin == TORCHVISION:
        try:
            entries = list(libraries.torchvision_models().get_model_weights(loaded.target.name))
        except ValueError:
            return []
        return [_torchvision_weights(entry) for entry in entries]
    if loaded.target.origin == TIMM:
        models = libraries.timm().models
        tagged = models.list_pretrained(f"{loaded.target.name}.*")
        names = tagged or models.list_pretrained(loaded.target.name)
        configs = {name: models.get_pretrained_cfg(name) for name in names}
        return [
            [name.partition(".")[2], getattr(cfg, "license", None), None, cfg.input_size[-1]]
            for name, cfg in configs.items()
        ]
    return []


def _torchvision_weights(entry: Any) -> list[Any]:
    crop = getattr(entry.transforms, "keywords", {}).get("crop_size")
    side = crop if isinstance(crop, int) else None
    return [entry.name, entry.meta.get("license"), _top1(entry.meta.get("_metrics", {})), side]


def _top1(metrics: Mapping[str, Any]) -> float | None:
    found = [data["acc@1"] for data in metrics.values() if isinstance(data, Mapping) and "acc@1" in data]
    return float(found[0]) if found else None


def _feature_maps(loaded: LoadedModel, trace: Trace) -> list[list[int]]:
    """Stride and channels of the feature maps: timm's `feature_info`; else of the last output at each stride.

    Only networks of one image have any. Outputs are NCHW or NHWC; where sizes do not tell, there is none.
    """
    info: Any = getattr(loaded.model, "feature_info", None)
    listed = info.get_dicts() if hasattr(info, "get_dicts") else info
    if loaded.target.origin == TIMM and isinstance(listed, list) and listed:
        return [[int(item["reduction"]), int(item["num_chs"])] for item in listed]
    if loaded.target.origin != TORCHVISION or len(trace.inputs) != 1 or len(trace.inputs[0].shape) != 4:
        return []
    height, width = trace.inputs[0].shape[-2:]
    found: dict[int, int] = {}
    for call in trace.calls:
        if not call.path or call.path.count(".") >= MAX_FEATURE_DEPTH or len(call.outputs) != 1:
            continue
        shape = call.outputs[0]
        for stride in STRIDES if len(shape) == 4 else ():
            grid = (-(-height // stride), -(-width // stride))
            first, last = shape[2:] == grid, shape[1:3] == grid
            if first != last:
                found[stride] = shape[1] if first else shape[3]
    return [[stride, found[stride]] for stride in sorted(found)]
