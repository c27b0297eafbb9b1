"""Which classes does a model see in pictures? The scores of a forward pass as probabilities, the largest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from modelprobe.errors import BadInput
from modelprobe.report.blocks import Block, Column, Fact, Facts, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.tensors import leaves

SOFTMAX, SIGMOID, AS_GIVEN = "softmax", "sigmoid", "as given"


@dataclass(frozen=True, slots=True)
class Guess:
    """One class with its score as the model put it out, and the probability made of it."""

    rank: int
    index: int
    label: str
    probability: float
    score: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best classes for one picture; or the `error` that kept it from being looked at."""

    image: str
    guesses: tuple[Guess, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class PredictResult(Result):
    """The answer of `predict`. `classes` is how many the model tells apart, `rule` how scores became probabilities."""

    model: str
    weights: Mapping[str, Any]
    preprocessing: str
    classes: int
    labels: str
    rule: str
    predictions: tuple[Prediction, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any]
    facts: tuple[Fact, ...] = field(repr=False, default=())

    def report(self) -> Report:
        """One row for each class of each picture; the picture's name where there are several."""
        several = len(self.predictions) > 1
        columns = (
            *((Column("image", "Picture"),) if several else ()),
            Column("label", "Class", wrap=several),
            Column("probability", "Probability", Unit.SHARE, bar=True),
            Column("index", "Index", Unit.COUNT, priority=2),
            Column("score", "Score", Unit.NUMBER, priority=3),
            Column("rank", "Rank", Unit.COUNT, priority=4),
        )
        rows = [row for prediction in self.predictions for row in _prediction_rows(prediction, several)]
        blocks: list[Block] = [Facts(self.facts), Table(columns, tuple(rows), key="predictions")]
        title = f"{self.model}: what it takes {'these pictures' if several else 'this picture'} for"
        return Report(title, "modelprobe.predict/1", (*blocks, *self.notes), self.to_dict(), self.env)


def _prediction_rows(prediction: Prediction, several: bool) -> list[Row]:
    if prediction.error:
        return [Row((prediction.image, prediction.error, None, None, None, None), quiet=True)]
    return [
        Row((*((prediction.image,) if several else ()), one.label, one.probability, one.index, one.score, one.rank))
        for one in prediction.guesses
    ]


def scores_of(output: Any, model: str) -> Tensor:
    """The scores of one picture, a vector of one number for each class, float64 on the CPU.

    The first tensor of the output is taken. Raises BadInput when it is no such vector: the model is no classifier.
    """
    found = next(iter(leaves(output)), None)
    if found is None:
        raise BadInput(f"{model} puts out no tensor: it is no classifier", "`modelprobe features` shows any model")
    tensor = found[1].detach()
    flat = tensor.reshape(-1)
    if tensor.numel() != max(tensor.shape, default=0) or tensor.dim() < 2 or not tensor.is_floating_point():
        shown = "x".join(map(str, tensor.shape)) or "a single number"
        raise BadInput(
            f"{model} is no classifier: it puts out {shown} {str(tensor.dtype).removeprefix('torch.')}",
            "a classifier puts out one number for each class; `modelprobe features` shows any model",
        )
    return flat.to(device="cpu", dtype=torch.float64)


def class_probabilities(scores: Tensor) -> tuple[Tensor, str]:
    """Scores as probabilities, and by which rule: softmax; a lone score's sigmoid; unchanged where they sum to 1."""
    if len(scores) == 1:
        return torch.sigmoid(scores), SIGMOID
    if bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-4:
        return scores, AS_GIVEN
    return torch.softmax(scores, 0), SOFTMAX


def best(scores: Tensor, labels: Sequence[str], count: int) -> tuple[tuple[Guess, ...], str]:
    """The `count` classes of the highest score, and the rule. Scores that are not finite make no class the best."""
    shares, rule = class_probabilities(scores)
    order = torch.argsort(torch.nan_to_num(scores, nan=-torch.inf), descending=True, stable=True)[:count].tolist()
    return (
        tuple(
            Guess(rank, index, labels[index], float(shares[index]), float(scores[index]))
            for rank, index in enumerate(order, 1)
        ),
        rule,
    )
