"""`health` of a target that a command was given, on inputs by shape, from a function, or already made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.checkpoint.file_names import names_weights
from modelprobe.console import stdout_kept, working
from modelprobe.errors import BadInput
from modelprobe.inside.health.batch_health import BatchHealthResult, batch_health
from modelprobe.model.build import LoadedModel, TargetRequest, load_model, record_with
from modelprobe.model.weights.chosen import AS_BUILT, PRETRAINED
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.failures import LoneValueError

ENOUGH = 8
"""Examples in a batch that nobody asked for: dead units are those that are zero for all of them."""


@stdout_kept()
def health_of_target(
    request: TargetRequest,
    *,
    loss: Callable[..., Any] | None = None,
    rate: float | None = None,
    optimizer: str = "sgd",
    show_layers: bool = False,
) -> BatchHealthResult:
    """One step of the target. Raises ProbeError for what stands in the way."""
    if request.weights is None:
        own = names_weights(request.target)
        request = replace(request, weights=PRETRAINED if own else AS_BUILT)
    made_up = request.inputs_from is None
    if made_up and request.batch is None and not request.inputs:
        request = replace(request, batch=ENOUGH)
    loaded = load_model(request)
    text = "The input is random numbers: what depends on data (dead and saturated units) may differ on yours."
    said = (Note(text, Level.ASSUMED),) if made_up else ()

    def recording(
        model: nn.Module, /, *args: Any, kwargs: Mapping[str, Any], device: str, notes: Sequence[Note], env: Any
    ) -> BatchHealthResult:
        return batch_health(
            model, args, kwargs, name=loaded.target.name, loss=loss, rate=rate, optimizer=optimizer,
            seed=request.seed, notes=(*notes, *said), env=env, show_layers=show_layers,
        )  # fmt: skip

    with working(f"running {loaded.target.name}"):
        return _with_two_examples(loaded, recording)


def _with_two_examples(loaded: LoadedModel, recording: Any) -> BatchHealthResult:
    """The run; of two examples where batch norm refuses to train on the one that an input's shape has."""
    try:
        found: BatchHealthResult = record_with(loaded, recording, "train")
    except LoneValueError:
        if loaded.request.batch is not None or loaded.request.inputs_from is not None:
            raise
        text = "A batch of 2 was assumed: batch norm cannot train on the single values of one example."
        pair = replace(loaded.request, batch=2)
        loaded = replace(loaded, request=pair, notes=(*loaded.notes, Note(text, Level.ASSUMED)))
        found = record_with(loaded, recording, "train")
    return found


@stdout_kept()
def health_of_images(
    loaded: LoadedModel,
    images: Sequence[Tensor],
    notes: Sequence[Note],
    *,
    loss: Callable[..., Any] | None = None,
    rate: float | None = None,
    optimizer: str = "sgd",
    show_layers: bool = False,
) -> BatchHealthResult:
    """One step on images [1, C, H, W] that were prepared already. Raises BadInput for images of several sizes."""
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) > 1:
        raise BadInput("the images have several sizes, and make no batch", "give images that are prepared to one size")
    return batch_health(
        loaded.model, (torch.cat(list(images)),), {}, name=loaded.target.name, loss=loss, rate=rate,
        optimizer=optimizer, seed=loaded.request.seed, notes=notes, env={**loaded.env, "images": len(images)},
        show_layers=show_layers,
    )  # fmt: skip
