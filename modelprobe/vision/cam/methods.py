"""Class activation and attribution maps: where an image speaks for a class.

To add a method:
1. Write a function `(Scene, target) -> Tensor` [h, w] that computes the map; say its source.
2. Register it in `CAM_METHODS`; `LAYERED` names those that are taken at a layer.
3. Say what it is in the guide's chapter on vision.

Grad-CAM and Layer-CAM are arithmetic on gradients that the choice of the layer has computed already; captum does the
others, and these two where there are no such gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import (
    GuidedBackprop,
    IntegratedGradients,
    LayerAttribution,
    LayerGradCam,
    Occlusion,
    Saliency,
)
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.hooks import forward_hooks
from modelprobe.tracing.restore import mode_set, restored
from modelprobe.vision.cam.gradients import never_off, with_gradients
from modelprobe.vision.cam.layer import Choice, LayerGradients, MapLayer, first_tensor
from modelprobe.vision.logits import logits_of

STEPS = 32
"""Points on the way from the baseline, of integrated gradients."""

WINDOWS = 8
"""Occluding windows in the shorter side; they overlap by half."""


@dataclass(frozen=True)
class ClassMap:
    """Where an image speaks for a class.

    `map` [H, W] is a float32 tensor on the CPU, of the size of the model's input, not negative: the larger, the more a
    pixel speaks for class `target`. `raw` [h, w] is the map as the method gives it, signed where the method is, at the
    resolution of the layer (of the input for methods without a layer). `score` is the class's score (logit) and
    `probability` its softmax (the sigmoid of a single score). `layer` and `reason` are empty for methods without one.
    """

    method: str
    target: int
    score: float
    probability: float
    map: Tensor
    raw: Tensor
    layer: str = ""
    reason: str = ""
    remarks: tuple[str, ...] = ()


class Scorer(nn.Module):
    """A model as captum wants one: an image in, scores [B, classes] out, gradients everywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        with never_off():
            # a new tensor: some models write to their input, which captum may not let them
            return logits_of(self.model(image * 1), self.model)


@dataclass(frozen=True)
class Scene:
    """Everything a method looks at: the scorer, the image [1, C, H, W], the tap at the chosen layer, the class's score.

    What a method has to say of its result goes into `remarks`.
    """

    scorer: Scorer
    image: Tensor
    tap: nn.Module | None
    score: float
    remarks: list[str]


@contextmanager
def tapped(model: nn.Module, layer: MapLayer) -> Iterator[nn.Module]:
    """A module that sees the layer's output as [1, C, h, w], whatever its layout. To be used inside `restored`.

    Its output is put back into the layer's by a copy, so that later work in place does not change what it saw.
    """
    tap = nn.Identity()

    def through(_path: str, call: int, out: Any) -> Any:
        found = first_tensor(out)
        if found is None or call != layer.call or tuple(found.shape) != layer.grid.shape:
            return None
        image = tap(layer.grid.gather(found)[None])
        return _replaced(out, layer.grid.scatter(found, image[0]))

    with forward_hooks(model, through, paths=[layer.path]):
        yield tap


@contextmanager
def quiet() -> Iterator[None]:
    """captum warns that it does what it was asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _replaced(out: Any, new: Tensor) -> Any:
    """`out` with `new` in the place of its first tensor."""
    if isinstance(out, Tensor):
        return new
    keys = list(out) if isinstance(out, dict) else range(len(out))
    place = next(key for key in keys if first_tensor(out[key]) is not None)
    if isinstance(out, dict):
        return {**out, place: _replaced(out[place], new)}
    items = [_replaced(item, new) if index == place else item for index, item in enumerate(out)]
    return type(out)(*items) if hasattr(out, "_fields") else type(out)(items)


def scores(model: nn.Module, image: Tensor) -> Tensor:
    """The scores [classes] of `image` [1, C, H, W]. Raises BadInput when the model is no classifier."""
    with restored(model), mode_set(model, False), torch.no_grad(), model_errors():
        return logits_of(model(image.clone()), model)[0].float().cpu()


def probabilities(logits: Tensor) -> Tensor:
    """Softmax of the scores of one image; the sigmoid of a single score."""
    return logits.sigmoid() if len(logits) == 1 else logits.softmax(0)


def class_map(
    model: nn.Module,
    image: Tensor,
    target: int,
    method: str,
    choice: Choice | None,
    logits: Tensor,
    known: LayerGradients | None = None,
) -> ClassMap:
    """The map of `method` for class `target` on `image` [1, C, H, W]; `choice` for the methods that want a layer.

    `known` gradients of this very image at the layer spare a forward pass.
    """
    if method not in CAM_METHODS:
        raise BadInput(f"there is no method {method!r}", f"choose of {', '.join(CAM_METHODS)}")
    layered = method in LAYERED
    remarks: list[str] = []
    raw: Tensor

    def compute() -> Tensor:
        remarks.clear()
        with ExitStack() as stack:
            stack.enter_context(restored(model))
            stack.enter_context(mode_set(model, False))
            scorer, tap = Scorer(model).eval(), None
            if layered and choice is not None:
                tap = stack.enter_context(tapped(model, choice.layer))
            return CAM_METHODS[method](
                Scene(scorer, image.detach().clone(), tap, float(logits[target]), remarks), target
            )

    if choice is not None and known is not None and target in known.of_class and method in FROM_GRADIENTS:
        grid = choice.layer.grid
        raw = FROM_GRADIENTS[method](grid.gather(known.activation), grid.gather(known.of_class[target]))
    else:
        with model_errors(), quiet():
            raw = with_gradients(model, compute)
    raw = raw.detach().float().cpu()
    positive = raw.clamp(min=0) if method in CLIPPED else raw.abs()
    fine = positive if positive.shape == image.shape[-2:] else _enlarged(positive, image.shape)
    probability = float(probabilities(logits)[target])
    told = (choice.layer.path, choice.reason) if layered and choice is not None else ("", "")
    return ClassMap(method, target, float(logits[target]), probability, fine, raw, *told, tuple(remarks))


def _enlarged(small: Tensor, shape: torch.Size) -> Tensor:
    return nn.functional.interpolate(
        small[None, None], size=(shape[-2], shape[-1]), mode="bilinear", align_corners=False
    )[0, 0]


# Methods


def gradcam(scene: Scene, target: int) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): channels weighted by their mean gradient. [h, w], signed."""
    found: Any = LayerGradCam(scene.scorer, scene.tap).attribute(scene.image, target)
    return found[0, 0]  # type: ignore[no-any-return]


def _weighted_channels(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM of an activation and its gradient, both [C, h, w]."""
    return (gradient.mean((1, 2), keepdim=True) * activation).sum(0)


def _weighted_places(activation: Tensor, gradient: Tensor) -> Tensor:
    """Layer-CAM of an activation and its gradient, both [C, h, w]."""
    return (gradient.clamp(min=0) * activation).sum(0)


FROM_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": _weighted_channels,
    "layercam": _weighted_places,
}
"""Methods that need no more than the activation and its gradient."""


def layercam(scene: Scene, target: int) -> Tensor:
    """Layer-CAM (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943): each place by its own positive gradient. [h, w]."""
    seen: list[Tensor] = []
    assert scene.tap is not None
    handle = scene.tap.register_forward_hook(lambda _module, _args, out: seen.append(out))
    try:
        score = scene.scorer(scene.image.requires_grad_())[0, target]
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(score, seen)
    return _weighted_places(seen[0][0], gradient[0])


def guided_gradcam(scene: Scene, target: int) -> Tensor:
    """Guided Grad-CAM (arXiv:1610.02391): guided backpropagation times Grad-CAM. [H, W], the largest channel's size."""
    if not any(isinstance(module, nn.ReLU) for module in scene.scorer.modules()):
        scene.remarks.append("the model has no nn.ReLU to guide: the gradient is the plain one")
    for module in scene.scorer.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # or its gradient cannot be changed; put back with the rest
    with torch.no_grad():
        score = float(scene.scorer(scene.image)[0, target])
    if abs(score - scene.score) > 1e-4 * max(1.0, abs(scene.score)):
        raise BadInput("the model needs its ReLUs to work in place, which guided Grad-CAM cannot", "--method gradcam")
    coarse = gradcam(scene, target).clamp(min=0)
    fine = LayerAttribution.interpolate(coarse[None, None], tuple(scene.image.shape[-2:]), "bilinear")
    guided: Any = GuidedBackprop(scene.scorer).attribute(scene.image, target)
    return (guided * fine)[0].abs().amax(0)  # type: ignore[no-any-return]


def integrated_gradients(scene: Scene, target: int) -> Tensor:
    """Integrated gradients (arXiv:1703.01365) from an image of zeros, the mean color. [H, W], summed over channels."""
    found, gap = IntegratedGradients(scene.scorer).attribute(
        scene.image, target=target, n_steps=STEPS, internal_batch_size=4, return_convergence_delta=True
    )
    total = float(found.sum())
    if abs(float(gap)) > 0.1 * max(abs(total), 1e-6):
        scene.remarks.append(f"the {STEPS} steps miss {float(gap):.3g} of {total:.3g}: the attribution is rough")
    values: Tensor = found[0].sum(0)
    return values


def saliency(scene: Scene, target: int) -> Tensor:
    """The gradient's size at each pixel, of the largest channel (arXiv:1312.6034). [H, W]."""
    found: Any = Saliency(scene.scorer).attribute(scene.image, target)
    return found[0].amax(0)  # type: ignore[no-any-return]


def occlusion(scene: Scene, target: int) -> Tensor:
    """How far the score falls when a window is set to zero, the mean color (arXiv:1311.2901). [H, W], signed."""
    channels, height, width = scene.image.shape[1:]
    side = max(2, min(height, width) // WINDOWS)
    step = max(1, side // 2)
    with torch.no_grad():
        found: Any = Occlusion(_plain_image(scene.scorer)).attribute(
            scene.image,
            (channels, side, side),
            (channels, step, step),
            baselines=0,
            target=target,
            perturbations_per_eval=8,
        )
    return found[0].mean(0)  # type: ignore[no-any-return]


def _plain_image(scorer: Scorer) -> Callable[[Tensor], Tensor]:
    """The scores with no graph kept."""

    def score(image: Tensor) -> Tensor:
        return logits_of(scorer.model(image * 1), scorer.model)

    return score


Method = Callable[[Scene, int], Tensor]

CAM_METHODS: dict[str, Method] = {
    "gradcam": gradcam,
    "layercam": layercam,
    "guided-gradcam": guided_gradcam,
    "integrated-gradients": integrated_gradients,
    "saliency": saliency,
    "occlusion": occlusion,
}
"""The name on the command line -> the function."""

LAYERED = frozenset({"gradcam", "layercam", "guided-gradcam"})
"""Methods that are taken at a layer."""

CLIPPED = frozenset({"gradcam", "layercam", "occlusion"})
"""Signed methods of which what speaks for the class is wanted; of the others the size."""
