"""Class activation and attribution maps: where an image speaks for a class.

To add a method:
1. Write a function that computes the map and say its source: of what stands at a layer and its gradients
   `(activation, gradient) -> [B, h, w]`, or of the image `(Scene, target) -> [H, W]`.
2. Register it in `AT_LAYER` or `OF_IMAGE`.
3. Say what it is in the guide's chapter on vision.

Those at a layer are arithmetic on one forward pass for a batch; captum does the others, one image at a time.
"""

from __future__ import annotations

import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.restore import mode_set, restored
from modelprobe.vision.cam.gradients import never_off, with_gradients
from modelprobe.vision.cam.layer import LayerGradients
from modelprobe.vision.positions.grid import Box
from modelprobe.vision.scores import Reading

STEPS = 32
"""Points on the way from the baseline, of integrated gradients."""

WINDOWS = 8
"""Occluding windows in the shorter side; they overlap by half."""

LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
"""How maps over so many dimensions are enlarged, by torch's name."""

MASKS_AT_ONCE = 16
"""Masked images in one forward pass, of Score-CAM."""


@dataclass(frozen=True)
class ScoreTarget:
    """What a map is made for: class `index`, `against` it where the lower value is wanted."""

    index: int
    against: bool = False
    asked: bool = field(default=False, compare=False)
    """Whether the command line named it: one that scores highest nowhere is a mistake there."""

    @property
    def sign(self) -> int:
        """Of the score whose gradient is taken."""
        return -1 if self.against else 1


@dataclass(frozen=True)
class ClassMap:
    """Where an image speaks for a class.

    `map` [H, W] ([L] of a signal, [T, H, W] of a video) is a float32 tensor on the CPU, as large as the input,
    not negative: the larger, the more a pixel speaks for class `target` (`against` it where the lower value was asked
    for). `raw` [h, w] is the map as the method gives it, signed where the method is, at the resolution of the layer (of
    the input for methods without a layer). `score` is the class's score as the model puts it out, `probability` what it
    stands for, None where it has none. `layer` and `reason` are empty for methods without one.
    """

    method: str
    target: int
    score: float
    probability: float | None
    map: Tensor
    raw: Tensor
    layer: str = ""
    reason: str = ""
    remarks: tuple[str, ...] = ()
    against: bool = False

    def __repr__(self) -> str:
        size = "x".join(map(str, self.map.shape))
        where = f", layer {self.layer}" if self.layer else ""
        return f"<ClassMap {self.method} for class {self.target}: {size}, score {self.score:.4g}{where}>"

    def _repr_html_(self) -> str:
        """How a notebook shows it: with its picture where it is of an image."""
        shown = f"<p>{escape(repr(self))}</p>"
        if self.map.dim() != 2:
            return shown
        from modelprobe.vision.pictures.heat import heat_map

        out = BytesIO()
        heat_map(self.map.numpy(), f"{self.method}, class {self.target}").save(out, "PNG")
        return f'{shown}<img alt="class map" src="data:image/png;base64,{b64encode(out.getvalue()).decode()}">'


class Scorer(nn.Module):
    """A model as captum wants one: an image in, scores [B, classes] out, gradients everywhere."""

    def __init__(self, model: nn.Module, read: Reading) -> None:
        super().__init__()
        self.model, self._read = model, read

    def forward(self, images: Tensor) -> Tensor:
        with never_off():
            # a new tensor: some models write to their input, which captum may not let them
            return self._read(self.model(images * 1))

    def plain(self, images: Tensor) -> Tensor:
        """The same with no graph kept."""
        with torch.no_grad():
            return self._read(self.model(images * 1))


@dataclass(frozen=True)
class Scene:
    """Everything a method looks at: the scorer, the image [1, C, H, W], what stands at the layer, the class's score.

    What a method has to say of its result goes into `remarks`.
    """

    scorer: Scorer
    image: Tensor
    known: LayerGradients | None
    score: float
    remarks: list[str]


@contextmanager
def quiet() -> Iterator[None]:
    """captum warns that it does what it was asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_method(name: str) -> None:
    """Raise BadInput for a method that there is not, with the nearest ones."""
    if name not in CAM_METHODS:
        import difflib

        close = difflib.get_close_matches(name, CAM_METHODS, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else f"choose of {', '.join(CAM_METHODS)}"
        raise BadInput(f"there is no method {name!r}", hint)


def maps_at_layer(method: str, known: LayerGradients, number: int) -> Tensor:
    """The maps [B, h, w] of a method of `AT_LAYER` for target `number` of each image."""
    return AT_LAYER[method](known.activation.float(), known.gradients[number].float()).detach()


def image_map(
    model: nn.Module,
    read: Reading,
    image: Tensor,
    target: ScoreTarget,
    method: str,
    score: float,
    known: LayerGradients | None,
) -> tuple[Tensor, tuple[str, ...]]:
    """The map of a method of `OF_IMAGE` for `image` [1, C, H, W], and its remarks."""
    remarks: list[str] = []

    def compute() -> Tensor:
        remarks.clear()
        with restored(model), mode_set(model, False):
            sign = target.sign
            scorer = Scorer(model, read if sign > 0 else lambda out: -read(out)).eval()
            return OF_IMAGE[method](Scene(scorer, image.detach().clone(), known, sign * score, remarks), target.index)

    with model_errors(), quiet():
        return with_gradients(model, compute).detach(), tuple(remarks)


def shown_part(method: str, raw: Tensor) -> Tensor:
    """What of a map is shown: what speaks for the class, of methods whose sign tells; of others the size."""
    return raw.clamp(min=0) if method in CLIPPED else raw.abs()


def enlarged(small: Tensor, size: Sequence[int], box: Box | None = None) -> Tensor:
    """A map [h, w] at the size of the image; [l] of a signal, [t, h, w] (or [h, w], of all frames) of a video.

    Of a part of the image, `box`, it is zero outside.
    """
    if box is not None and len(size) > 1:
        ends = [(round(first * whole), round(end * whole)) for (first, end), whole in zip(box, size[-2:], strict=True)]
        inner = (*size[:-2], *(max(1, end - first) for first, end in ends))
        whole = small.new_zeros(tuple(size))
        (top, _), (left, _) = ends
        whole[..., top : top + inner[-2], left : left + inner[-1]] = enlarged(small, inner)
        return whole
    if tuple(small.shape) == tuple(size):
        return small
    small = small if small.dim() == len(size) else small[None]
    mode = LINEAR[len(size)]
    return nn.functional.interpolate(small[None, None], size=tuple(size), mode=mode, align_corners=False)[0, 0]


def _behind_channels(tensor: Tensor) -> tuple[int, ...]:
    """The dimensions behind the batch and the channels."""
    return tuple(range(2, tensor.dim()))


# Methods at a layer: of activation and gradient [B, C, h, w]


def gradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): channels weighted by their mean gradient. Signed."""
    return (gradient.mean(_behind_channels(gradient), keepdim=True) * activation).sum(1)


def gradcam_plus_plus(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063, eq. 19, of the score's exponential): positive gradients,

    each place of a channel by its share alpha = g^2 / (2 g^2 + sum(A) g^3). Signed.
    """
    square = gradient.square()
    below = 2 * square + activation.sum(_behind_channels(activation), keepdim=True) * square * gradient + 1e-6
    alpha = torch.where(gradient != 0, square / below, 0.0)
    return ((gradient.clamp(min=0) * alpha).sum(_behind_channels(alpha), keepdim=True) * activation).sum(1)


def layercam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Layer-CAM (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943): each place by its own positive gradient."""
    return (gradient.clamp(min=0) * activation).sum(1)


def hirescam(activation: Tensor, gradient: Tensor) -> Tensor:
    """HiRes-CAM (Draelos and Carin 2020, arXiv:2011.08891): each place by its own gradient. Signed."""
    return (gradient * activation).sum(1)


def eigencam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Eigen-CAM (Muhammad and Yeasin 2020, arXiv:2008.00299): the first principal component over places. Signed.

    It is of no class. The component's sign is free: the one is taken where strong activations are positive.
    """
    flat = activation.flatten(2).transpose(1, 2)
    centered = flat - flat.mean(1, keepdim=True)
    _, _, axes = torch.linalg.svd(centered, full_matrices=False)
    found = (centered @ axes[:, 0, :, None])[..., 0]
    strength = flat.norm(dim=2)
    sign = ((strength - strength.mean(1, keepdim=True)) * found).sum(1, keepdim=True).sign()
    oriented: Tensor = found * torch.where(sign == 0, 1.0, sign)
    return oriented.reshape(activation.shape[0], *activation.shape[2:])


# Methods of one image


def guided_gradcam(scene: Scene, target: int) -> Tensor:
    """Guided Grad-CAM (arXiv:1610.02391): guided backpropagation times Grad-CAM. [H, W], the largest channel's size."""
    from modelprobe.vision.cam.guided import GuidedReLUs

    assert scene.known is not None
    coarse = maps_at_layer("gradcam", scene.known, 0)[0].clamp(min=0)
    fine = enlarged(coarse, scene.image.shape[2:])
    image = scene.image.detach().clone().requires_grad_()
    with GuidedReLUs() as mode:
        score = scene.scorer(image)[0, target]
    if not mode.seen:
        scene.remarks.append("the model calls no ReLU that could be guided: the gradient is the plain one")
    (guided,) = torch.autograd.grad(score, image)
    return (guided[0].float() * fine).abs().amax(0)


def integrated_gradients(scene: Scene, target: int) -> Tensor:
    """Integrated gradients (arXiv:1703.01365) from an image of zeros. [H, W], summed over channels."""
    from captum.attr import IntegratedGradients

    found, gap = IntegratedGradients(scene.scorer).attribute(
        scene.image, target=target, n_steps=STEPS, internal_batch_size=4, return_convergence_delta=True
    )
    total = float(found.sum())
    if abs(float(gap)) > 0.1 * max(abs(total - float(gap)), 1e-6):
        scene.remarks.append(
            f"the attributions add up to {total:.3g}, the score changed by {total - float(gap):.3g}: {STEPS} steps are "
            "too few for this image, and the map is rough"
        )
    values: Tensor = found[0].sum(0)
    return values


def saliency(scene: Scene, target: int) -> Tensor:
    """The gradient's size at each pixel, of the largest channel (arXiv:1312.6034). [H, W]."""
    from captum.attr import Saliency

    found: Any = Saliency(scene.scorer).attribute(scene.image, target)
    return found[0].amax(0)  # type: ignore[no-any-return]


def occlusion(scene: Scene, target: int) -> Tensor:
    """How far the score falls when a window is set to zero (arXiv:1311.2901). [H, W], signed."""
    from captum.attr import Occlusion

    channels, *space = scene.image.shape[1:]
    side = max(2, min(space[-2:]) // WINDOWS)
    sides = [max(2, space[0] // WINDOWS), side, side] if len(space) == 3 else [side] * len(space)
    steps = [max(1, side // 2) for side in sides]
    found: Any = Occlusion(scene.scorer.plain).attribute(
        scene.image,
        (channels, *sides),
        (channels, *steps),
        baselines=0,
        target=target,
        perturbations_per_eval=8,
    )
    return found[0].mean(0)  # type: ignore[no-any-return]


def scorecam(scene: Scene, target: int) -> Tensor:
    """Score-CAM (Wang et al. 2020, arXiv:1910.01279): channels weighted by the softmax of the scores of the image

    masked by them, each enlarged (bilinear, corners aligned) and scaled to 0..1. [h, w]. One forward pass a channel.
    """
    assert scene.known is not None
    activation = scene.known.activation.float()
    size = tuple(scene.image.shape[2:])
    scores = []
    for first in range(0, activation.shape[1], MASKS_AT_ONCE):
        part = activation[0, first : first + MASKS_AT_ONCE]
        part = part if part.dim() > len(size) else part[:, None]  # all frames became one
        masks = nn.functional.interpolate(part[:, None], size=size, mode=LINEAR[len(size)], align_corners=True)
        low, high = (end(masks, _behind_channels(masks), keepdim=True) for end in (torch.amin, torch.amax))
        masks = (masks - low) / (high - low + 1e-8)
        scores.append(scene.scorer.plain(scene.image * masks.to(scene.image))[:, target])
    weights = torch.cat(scores).float().softmax(0)
    summed: Tensor = torch.tensordot(weights, activation[0], 1)
    return summed


AT_LAYER: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "layercam": layercam,
    "hirescam": hirescam,
    "eigencam": eigencam,
}
"""Methods of what stands at a layer and its gradients: name on the command line -> function."""

OF_IMAGE: dict[str, Callable[[Scene, int], Tensor]] = {
    "scorecam": scorecam,
    "guided-gradcam": guided_gradcam,
    "integrated-gradients": integrated_gradients,
    "saliency": saliency,
    "occlusion": occlusion,
}
"""Methods of one image: name on the command line -> function."""

CAM_METHODS = (*AT_LAYER, *OF_IMAGE)
"""All of them."""

LAYERED = frozenset({*AT_LAYER, "scorecam", "guided-gradcam"})
"""Methods that are taken at a layer."""

CLIPPED = frozenset({*AT_LAYER, "scorecam", "occlusion"})
"""Signed methods of which what speaks for the class is wanted; of the others the size."""
