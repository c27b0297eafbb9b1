"""Outputs read as scores: which tensor of an output, what its numbers are, and the probabilities that they stand for.

One place for all commands. What an output is taken for is learnt from the first one: from the operator that made it
(a softmax, a sigmoid), from the library's own word (`config.problem_type`), from its numbers, in this order; `--scores`
and `--output-name` overrule. What was taken is said.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.tensors import leaves
from modelprobe.vision.cam.gradients import (
    is_of_probabilities,
    last_made,
    maker_of,
    needs_weights_after,
)

LOGITS, LABEL_LOGITS, LOGIT = "logits", "logits of several labels", "one logit"
SHARES, LOG_SHARES = "probabilities", "log-probabilities"
LABELS, SHARE = "probabilities of several labels", "one probability"
VALUES, EMBEDDING = "values", "an embedding"

SOFTMAX, SIGMOID, EXP, AS_GIVEN, NONE = "softmax", "sigmoid", "exp", "as given", "none"
RULE_OF = {
    LOGITS: SOFTMAX,
    LABEL_LOGITS: SIGMOID,
    LOGIT: SIGMOID,
    SHARES: AS_GIVEN,
    LOG_SHARES: EXP,
    LABELS: AS_GIVEN,
    SHARE: AS_GIVEN,
    VALUES: NONE,
    EMBEDDING: NONE,
}
"""What the numbers are -> how probabilities are made of them."""

ASKED = ("softmax", "sigmoid", "exp", "given", "none")
"""What `--scores` takes."""

MAIN = ("logits", "out")
"""Fields that win where an output has several: what transformers and torchvision's segmentation call the scores."""

QUERIES = ("class_queries_logits", "masks_queries_logits")
"""Classes and masks of MaskFormer's queries, of which its authors make a map of classes (arXiv:2107.06278, eq. 2)."""

EMBEDDINGS = ("embeds", "embedding", "embeddings", "pooler_output", "last_hidden_state")
"""Last words of the names that libraries give to outputs which are no scores."""

UNIT = 1e-3


@dataclass(frozen=True)
class ScoreOptions:
    """What the command line said: `--scores` and `--output-name`. None leaves it to the output."""

    rule: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        if self.rule is not None and self.rule not in ASKED:
            raise BadInput(f"--scores {self.rule!r} is not known", f"choose one of {', '.join(ASKED)}")


class Scores:
    """How the outputs of one model are read. It learns from the first output and reads all others alike."""

    def __init__(self, model: nn.Module, options: ScoreOptions = ScoreOptions()) -> None:
        self._model, self._options = model, options
        self.kind = ""
        """What the numbers are; empty before the first output."""
        self.output = ""
        """The name of the tensor among several; empty where it is the only one."""
        self.dense = False
        """Whether there is a score for every place: [B, classes, H, W]."""
        self.notes: list[Note] = []

    @property
    def rule(self) -> str:
        """How probabilities are made of the numbers."""
        return RULE_OF[self.kind]

    def describe(self) -> str:
        """What the output was taken for, in words."""
        of = f"of the output {self.output}: " if self.output not in ("", self.kind) else ""
        each = " of each place" if self.dense else ""
        made = {
            SOFTMAX: ", softmax gives probabilities",
            SIGMOID: ", sigmoid gives probabilities",
            EXP: ", exp gives probabilities",
        }
        return f"{of}{self.kind}{each}{made.get(self.rule, '')}"

    def read(self, out: Any, batch: int | None) -> Tensor:
        """The scores of an output for `batch` inputs: [batch, classes], or [batch, classes, H, W] where dense.

        Once the kind is known, None is any number of inputs. Raises BadInput where there are no scores, or several and
        none is the model's answer.
        """
        if not self.kind:
            assert batch is not None
            found = self._learn(out, batch)
        else:
            tensor = self._tensor(out)
            many = len(tensor) if batch is None and isinstance(tensor, Tensor) and tensor.dim() else batch
            found = None if many is None else _matrix(tensor, many)
        if found is None:
            raise self._no_classifier(out)
        return found

    def probabilities(self, scores: Tensor) -> Tensor | None:
        """Of scores [classes] or [classes, ..]; None for what has no probabilities."""
        if self.rule == NONE:
            return None
        if self.rule == SOFTMAX:
            return scores.softmax(0)
        return scores.sigmoid() if self.rule == SIGMOID else scores.exp() if self.rule == EXP else scores

    @property
    def threshold(self) -> float:
        """Above it a single class is there, at a place that has scores of its own."""
        return 0.5 if self.kind in (SHARE, LABELS, SHARES) else 0.0

    def probabilities_over(self, scores: Tensor, region: Tensor | None) -> Tensor | None:
        """Of scores [B, classes, H, W] the mean probability of each class over its region, [B, classes]."""
        region = highest(scores, self.threshold) if region is None else region
        shares = [self.probabilities(row) for row in scores]
        known = [share for share in shares if share is not None]
        return over_places(torch.stack(known), region) if known else None

    def _tensor(self, out: Any) -> Any:
        found = dict(leaves(out))
        if self.output == _QUERY_MAP:
            return _map_of_queries(found)
        if self.output:
            return found.get(self.output)
        return next(iter(found.values()), None) if len(found) != 1 or "" not in found else found[""]

    # Learning

    def _learn(self, out: Any, batch: int) -> Tensor | None:
        named = dict(leaves(out))
        if not named and isinstance(out, (list, tuple)):
            return None
        name, tensor = self._chosen(named, batch, out)
        found = None if tensor is None else _matrix(tensor, batch)
        if found is None:
            return None
        self.output = name if len(named) > 1 or name else ""
        self.dense = found.dim() == 4
        assert tensor is not None
        self.kind = self._kind(found, tensor, name)
        return found

    def _chosen(self, named: Mapping[str, Tensor], batch: int, out: Any) -> tuple[str, Tensor | None]:
        if self._options.output is not None:
            return _asked_for(self._options.output, named)
        if all(key in named for key in QUERIES):
            self.notes.append(Note(f"{QUERIES[0]} and {QUERIES[1]} were joined to a map of classes.", Level.ASSUMED))
            return _QUERY_MAP, _map_of_queries(named)
        main = next((key for key in MAIN if key in named), None)
        if main is not None:
            return main, named[main]
        able = {key: tensor for key, tensor in named.items() if _matrix(tensor, batch) is not None}
        if isinstance(out, list) and len(out) == batch and all(isinstance(item, Mapping) for item in out):
            return "", None  # a record for each image, such as boxes
        if len(able) <= 1:
            return next(iter(able.items()), ("", None))
        last = last_made(able)
        classes = {key: tensor for key, tensor in able.items() if not _is_one_number(tensor)}
        derived = last is not None and last not in classes and bool(classes)
        if derived and not any(needs_weights_after(able[last or ""], tensor) for tensor in classes.values()):
            able, last = classes, last_made(classes) if len(classes) > 1 else next(iter(classes))
        if last is None:
            listed = ", ".join(f"{key} [{'x'.join(map(str, tensor.shape[1:])) or 1}]" for key, tensor in able.items())
            first = next(iter(able))
            first = first[1:-1] if first[1:-1].isdecimal() else shlex.quote(first)
            raise BadInput(
                f"{type(self._model).__name__} puts out {len(able)} tensors that may be scores: {listed}",
                f"--output-name {first} takes that one",
            )
        others = ", ".join(key for key in able if key != last)
        why = f"it is computed from {others}" if others else "the others are one number for each image, made of it"
        self.notes.append(Note(f"The output {last} was taken: {why}.", Level.ASSUMED))
        return last, able[last]

    def _kind(self, scores: Tensor, tensor: Tensor, name: str) -> str:
        asked = self._options.rule
        single, maker = scores.shape[1] == 1, maker_of(tensor)
        if asked is not None:
            return _kind_of_rule(asked, single)
        problem = getattr(getattr(self._model, "config", None), "problem_type", None)
        values = scores.detach().double()
        if maker == "Softmax" or (not single and _sums_to_one(values)):
            return SHARES
        if maker == "LogSoftmax" or (not single and bool((values <= 0).all()) and _sums_to_one(values.exp())):
            return LOG_SHARES
        between = bool(((values >= 0) & (values <= 1)).all())
        limited = maker in ("Clamp", "ClampMin", "Hardtanh") or is_of_probabilities(tensor)
        if maker in ("Sigmoid", "Hardsigmoid") or (between and limited):
            return SHARE if single else LABELS
        if problem == "regression":
            return VALUES
        if self._is_embedding(scores, maker, name):
            return EMBEDDING
        if problem == "multi_label_classification" and not single:
            return LABEL_LOGITS
        if single:
            if maker in ("Relu", "Softplus", "Exp"):
                return VALUES  # never negative: no logit
            if not self.dense:
                text = (
                    "The model puts out one number. It was taken as a logit, whose sigmoid is the probability; for a "
                    "value of another kind give --scores none."
                )
                self.notes.append(Note(text, Level.ASSUMED))
            return LOGIT
        return LOGITS

    def _is_embedding(self, scores: Tensor, maker: str, name: str) -> bool:
        if self.dense:
            return False
        if getattr(self._model, "num_classes", None) == 0 or name.rpartition(".")[2].rpartition("_")[2] in EMBEDDINGS:
            return True
        if name.rpartition(".")[2] in EMBEDDINGS:
            return True
        length = scores.detach().double().norm(dim=1)
        return scores.shape[1] >= 3 and maker == "Div" and bool((length - 1).abs().max() < UNIT)

    def _no_classifier(self, out: Any) -> BadInput:
        return BadInput(
            f"{type(self._model).__name__} is no classifier: it puts out {_described(out)}",
            "the scores of classes are needed, [batch, classes]; `features` shows the layers of any model",
        )


_QUERY_MAP = "map of queries"


def _map_of_queries(named: Mapping[str, Tensor]) -> Tensor:
    """[B, classes, H, W] of the classes [B, Q, classes + 1] and the masks [B, Q, H, W] of queries."""
    classes, masks = (named[key] for key in QUERIES)
    return torch.einsum("bqc,bqhw->bchw", classes.softmax(-1)[..., :-1], masks.sigmoid())


def _kind_of_rule(rule: str, single: bool) -> str:
    if rule == "softmax":
        return LOGITS
    if rule == "sigmoid":
        return LOGIT if single else LABEL_LOGITS
    if rule == "exp":
        return LOG_SHARES
    return VALUES if rule == "none" else SHARE if single else SHARES


def _asked_for(text: str, named: Mapping[str, Tensor]) -> tuple[str, Tensor]:
    """The tensor that `--output-name` names: by its whole name, the last part of one name, or its number from 0."""
    names = list(named)
    for found in (
        [name for name in names if name in (text, f"[{text}]")],
        [name for name in names if name.endswith(f".{text}")],
        [names[int(text)]] if text.isdecimal() and int(text) < len(names) else [],
    ):
        if len(found) == 1:
            return found[0], named[found[0]]
    listed = ", ".join(f"{name or 'the only one'} {'x'.join(map(str, named[name].shape))}" for name in names[:8])
    raise BadInput(f"there is no output {text!r}", f"the outputs are {listed or 'none'}")


def _matrix(tensor: Any, batch: int) -> Tensor | None:
    """Scores [batch, classes] or [batch, classes, H, W] in that shape, or None where `tensor` is something else."""
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() < 1 or tensor.shape[0] != batch:
        return None
    if tensor.dim() == 1:
        return tensor[:, None]
    if tensor.numel() == 0:
        return None
    if tensor.dim() == 2:
        return tensor
    long = [size for size in tensor.shape[1:] if size != 1]
    if len(long) <= 1:
        return tensor.reshape(batch, -1)
    return tensor if tensor.dim() == 4 and min(tensor.shape[2:]) > 1 else None


def _is_one_number(tensor: Tensor) -> bool:
    """Whether there is one number for each input."""
    return tensor.numel() == len(tensor)


def _sums_to_one(values: Tensor) -> bool:
    return bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < UNIT).all())


def _described(out: Any) -> str:
    if isinstance(out, Tensor):
        kind = "" if out.is_floating_point() else f" {str(out.dtype).removeprefix('torch.')}, which are no scores"
        return f"{'x'.join(map(str, out.shape)) or 'a single number'}{kind}"
    if out is None:
        return "nothing"
    if isinstance(out, Mapping):
        return f"a dict of {', '.join(map(str, list(out)[:5])) or 'nothing'}"
    if isinstance(out, (tuple, list)):
        inner = _described(out[0]) if out else "nothing"
        return f"a {type(out).__name__} of {len(out)}, first {inner}"
    return type(out).__name__


# One number for each class


Reading = Callable[[Any], Tensor]
"""From an output to scores [B, targets]."""


def over_places(scores: Tensor, region: Tensor) -> Tensor:
    """Scores [B, classes, H, W] of places as one number for each class, [B, classes]: the mean over a region.

    `region` [B, 1, H, W] or [B, classes, H, W] is 1 inside; a class that has none is everywhere.
    """
    region = region.to(scores)
    inside = region.sum((2, 3))
    region = torch.where(inside[..., None, None] > 0, region, torch.ones_like(region))
    return (scores * region).sum((2, 3)) / region.sum((2, 3))


def highest(scores: Tensor, threshold: float) -> Tensor:
    """[B, classes, H, W]: 1 where a class scores highest, which is its region (Vinogradova et al. 2020,

    arXiv:2002.11434); of a single class where its score is above the threshold.
    """
    if scores.shape[1] == 1:
        return (scores.detach() > threshold).to(scores)
    best = scores.detach().argmax(1, keepdim=True)
    return torch.zeros_like(scores).scatter_(1, best, 1.0)


def likeness(embeddings: Tensor, other: Tensor) -> Tensor:
    """The cosine similarity of embeddings [B, D] to another one [D], [B, 1]."""
    return nn.functional.cosine_similarity(embeddings.float(), other.float()[None], dim=1)[:, None]


def check_finite(scores: Tensor, name: str) -> None:
    """Raise BadInput for scores that are not numbers: no class is the best of them."""
    bad = int((~scores.isfinite()).sum())
    if bad:
        raise BadInput(
            f"{bad:,} of {scores.numel():,} scores of {name} are NaN or infinite",
            "`modelprobe scan FILE` and `summary` look at the weights; half precision may overflow",
        )
