"""The Python functions `extract_features`, `predict` and `attention`: of a module and of images as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.model.inputs.first_layer import without_wrappers
from modelprobe.tracing.capture import Captured, captured_until, check_captured, chosen_layers
from modelprobe.tracing.failures import model_errors
from modelprobe.tracing.module_tree import class_name
from modelprobe.tracing.restore import seeded_eval
from modelprobe.vision.attention.attention import AttentionOptions, attention_maps_of, attentions_of, heads_of
from modelprobe.vision.attention.maps import Attention, parse_query
from modelprobe.vision.cam.gradients import differentiable, never_off
from modelprobe.vision.images import as_batch
from modelprobe.vision.positions.follow import attention_weights
from modelprobe.vision.predict import guesses_of
from modelprobe.vision.scores import EMBEDDING, ScoreOptions, Scores
from modelprobe.vision.together import near, one_of_others


def extract_features(model: nn.Module, x: Any, layers: str | Sequence[str]) -> Captured:
    """What `layers` put out for `x`: a mapping from names to detached tensors, in the order in which they came.

    `layers` are names or wildcards (`"layer1,blocks.*.attn"`, or a list), `x` is what the model takes, a tuple for
    several arguments. The model runs once, in eval mode, where `x` is, and is left as it was. Raises BadInput for a
    layer that it does not have or that did not run, ModelRaised for what the model itself raises.
    """
    paths, exact = chosen_layers(model, layers)
    with seeded_eval(model) as draws, model_errors():
        found = captured_until(model, x if isinstance(x, tuple) else (x,), paths)
        draws.look()
    check_captured(model, found, exact)
    if not found:
        raise BadInput(f"no layer of {class_name(model)} ran where hooks see it", "take the model it was made from")
    return found


def predict(
    model: nn.Module,
    x: Tensor,
    top: int = 5,
    *,
    labels: Sequence[str] | None = None,
    output: str | int | None = None,
    scores: str | None = None,
) -> Any:
    """The `top` classes of an image, the best first: each has `.index`, `.label`, `.probability` and `.score`.

    `x` is one image as the model takes it, [C, H, W], or several, [B, C, H, W]: then a list with an entry for each is
    returned; or, for networks of these, signals [C, L] or [B, C, L] or volumes [C, D, H, W] or [B, C, D, H, W]. What is
    made of the scores is found as by the command; `scores` says it (softmax, sigmoid, exp, given,
    none), `output` names the output that holds them, `labels` the classes. For a score at every place `.area` is the
    share of places where a class wins.

    The model runs in eval mode, where `x` is, and is left as it was. Where what it says of an image depends on the
    others in `x`, images are looked at one by one; of random numbers that it draws a UserWarning tells. Raises BadInput
    for a model without scores, for scores that are not finite and for labels of another number, ModelRaised for what
    the model itself raises.
    """
    if top < 1:
        raise BadInput(f"top is {top}, and is how many classes are wanted", "top=1 is the best one")
    images = as_batch(x, "predict", model)
    how = Scores(model, ScoreOptions(scores, None if output is None else str(output)))

    def read(part: Tensor) -> Tensor:
        return how.read(model(part.detach().clone().requires_grad_() * 1), len(part)).detach().cpu()

    with seeded_eval(model), model_errors(), differentiable(model), never_off():
        rows = read(images)
        other = one_of_others(images)
        if other is not None and not near(rows[other], read(images[other : other + 1])[0]):
            rows = torch.cat([read(image) for image in torch.split(images, 1)])
    rows = rows.double()
    if how.kind == EMBEDDING:
        raise BadInput(
            f"{class_name(model)} is no classifier: it puts out an embedding of {rows.shape[1]} numbers",
            "extract_features shows any model; scores='softmax' takes the numbers for classes",
        )
    if labels is not None and len(labels) != rows.shape[1]:
        raise BadInput(f"{len(labels)} labels for {rows.shape[1]} classes", "give one for each")
    if not all(bool(row.isfinite().any()) for row in rows):
        raise BadInput("every score of an image is NaN or infinite", "look at the weights, and at the values in x")
    names = list(labels) if labels is not None else [f"class {index}" for index in range(rows.shape[1])]
    found = [guesses_of(row, how, names, top) for row in rows]
    return found if x.dim() == images.dim() else found[0]


def _same_attention(many: Sequence[Attention], one: Sequence[Attention]) -> bool:
    """Whether the attentions of an image in a batch are those of the image alone."""
    return len(many) == len(one) and all(
        near(attention_weights(a.source), attention_weights(b.source)) for a, b in zip(many, one, strict=True)
    )


def attention(
    model: nn.Module,
    x: Tensor,
    *,
    blocks: str | Sequence[str] = (),
    heads: str | None = None,
    query: str | None = None,
    rollout: bool = False,
) -> Any:
    """The attention maps of an image: one entry for each block, with `.block`, `.heads` and `.maps`, [h, w] for each
    head, on the CPU; `.elsewhere` is what each head gives to no place (the class token).

    `x` is one image as the model takes it, [C, H, W], or several, [B, C, H, W]: then a list with the entries of each is
    returned. `blocks` (`"0,-1"`, `"blocks.*"`, `"all"`; by default the last), `heads` (`"0,3,mean"`), `query` (`"cls"`,
    `"mean"`, `"7,7"`) and `rollout` are as for the command.

    The model runs in eval mode, where `x` is, and is left as it was. Raises BadInput for a model without attention over
    places, a block, head or query that it does not have, ModelRaised for what the model itself raises.
    """
    names = [blocks] if isinstance(blocks, str) else blocks
    chosen = tuple(part.strip() for text in names for part in text.split(",") if part.strip())
    place = None if query is None else parse_query(query)
    asked = AttentionOptions(chosen, *heads_of(heads), place, rollout)
    model = without_wrappers(model)
    images, name = as_batch(x, "attention", model), class_name(model)
    with seeded_eval(model):
        try:
            each = attentions_of(model, images, name)
            other = one_of_others(images)
            alone = other is None or _same_attention(
                each[other], attentions_of(model, images[other : other + 1], name)[0]
            )
        except BadInput:
            alone = False
        if not alone:
            each = [attentions_of(model, image, name)[0] for image in torch.split(images, 1)]
    found = [attention_maps_of(one, asked)[0] for one in each]
    return found if x.dim() == images.dim() else found[0]
