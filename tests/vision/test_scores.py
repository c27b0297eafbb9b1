"""Probabilities of twelve kinds of outputs equal the model's own; which of several outputs is taken, or asked for."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.vision.scores import ScoreOptions, Scores, highest, likeness, over_places

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
Pair = namedtuple("Pair", "features scores")


@dataclass
class Record:
    pooled: Tensor
    logits: Tensor


class Net(nn.Module):
    """A body, a head of `classes` numbers, and `end`, which makes the output of features and head."""

    def __init__(self, end: Callable[[Tensor, Tensor], Any], classes: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.end = nn.Conv2d(3, 8, 3), nn.Linear(8, classes), end
        self.dense = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Any:
        maps = self.body(x).relu()
        features = maps.mean((2, 3))
        return self.end(features, 4 * self.head(features))


def read(model: nn.Module, **options: Any) -> tuple[Tensor, Tensor | None, Scores]:
    scores = Scores(model, ScoreOptions(**options))
    found = scores.read(model(IMAGES.clone().requires_grad_()), len(IMAGES)).detach()
    shares = [scores.probabilities(row) for row in found]
    return found, None if shares[0] is None else torch.stack([one for one in shares if one is not None]), scores


def logits_of(model: Net) -> Tensor:
    with torch.no_grad():
        return 4 * model.head(model.body(IMAGES).relu().mean((2, 3)))


SOFT = lambda logits: logits.softmax(1)  # noqa: E731
SIGM = lambda logits: logits.sigmoid()  # noqa: E731

KINDS: dict[str, tuple[Callable[[Tensor, Tensor], Any], int, Callable[[Tensor], Tensor], str]] = {
    "logits": (lambda f, y: y, 6, SOFT, "logits"),
    "softmax": (lambda f, y: y.softmax(1), 6, SOFT, "probabilities"),
    "softmax of two": (lambda f, y: F.softmax(y, dim=-1), 2, SOFT, "probabilities"),
    "log-softmax": (lambda f, y: y.log_softmax(1), 6, SOFT, "log-probabilities"),
    "sigmoid": (lambda f, y: y.sigmoid(), 1, SIGM, "one probability"),
    "several labels": (lambda f, y: y.sigmoid(), 6, SIGM, "probabilities of several labels"),
    "two labels": (lambda f, y: y.sigmoid(), 2, SIGM, "probabilities of several labels"),
    "one logit [B, 1]": (lambda f, y: y, 1, SIGM, "one logit"),
    "one logit [B]": (lambda f, y: y.squeeze(1), 1, SIGM, "one logit"),
    "features first": (lambda f, y: (f, y), 6, SOFT, "logits"),
    "features last": (lambda f, y: (y, f), 6, SOFT, "logits"),
    "features of as many": (lambda f, y: (f[:, :6], y), 6, SOFT, "logits"),
    "dict": (lambda f, y: {"pooled": f, "logits": y}, 6, SOFT, "logits"),
    "namedtuple": (lambda f, y: Pair(f, y), 6, SOFT, "logits"),
    "dataclass": (lambda f, y: Record(f, y), 6, SOFT, "logits"),
    "nested": (lambda f, y: [{"aux": f}, (y, None)], 6, SOFT, "logits"),
    "with sides of one": (lambda f, y: y[:, :, None, None], 6, SOFT, "logits"),
    "its own exponential": (lambda f, y: y.exp() / y.exp().sum(1, keepdim=True), 6, SOFT, "probabilities"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_the_models_own(kind: str) -> None:
    end, classes, truth, name = KINDS[kind]
    model = Net(end, classes)
    _, shares, scores = read(model)
    assert shares is not None
    assert scores.kind == name
    torch.testing.assert_close(shares, truth(logits_of(model)))


def test_a_score_for_every_place() -> None:
    model = Net(lambda f, y: y)
    model.forward = lambda x: {"out": model.dense(model.body(x)), "aux": model.dense(model.body(x))}  # type: ignore[method-assign]
    found, shares, scores = read(model)
    assert (found.shape, scores.dense, scores.output) == ((3, 4, 14, 14), True, "out")
    assert shares is not None
    torch.testing.assert_close(shares, model.dense(model.body(IMAGES)).softmax(1).detach())
    won = highest(found, 0.0)
    assert torch.equal(won.argmax(1), found.argmax(1))
    by_hand = torch.stack(
        [found[0, c][found[0].argmax(0) == c].mean() for c in range(4) if (found[0].argmax(0) == c).any()]
    )
    mine = over_places(found, won)[0][[c for c in range(4) if (found[0].argmax(0) == c).any()]]
    torch.testing.assert_close(mine, by_hand)


def test_what_has_no_probabilities() -> None:
    for model in (Net(lambda f, y: F.normalize(f)), Net(lambda f, y: {"image_embeds": f})):
        _, shares, scores = read(model)
        assert (shares, scores.kind) == (None, "an embedding")
    _, shares, scores = read(Net(lambda f, y: y.relu(), 1))
    assert (shares, scores.kind) == (None, "values")
    regression = Net(lambda f, y: y, 3)
    regression.config = type("Config", (), {"problem_type": "regression"})()
    assert read(regression)[2].kind == "values"
    regression.config.problem_type = "multi_label_classification"
    assert read(regression)[2].kind == "logits of several labels"
    other = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(likeness(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), other), torch.tensor([[1.0], [0.0]]))


def test_several_that_would_do_are_a_question() -> None:
    heads = Net(lambda f, y: {"age": y[:, :1], "sex": y[:, 1:3]})
    with pytest.raises(BadInput, match=r"2 tensors that may be scores: age \[1\], sex \[2\]") as raised:
        read(heads)
    assert raised.value.hint == "--output-name age takes that one"
    for name in ("sex", "1"):
        found, shares, scores = read(heads, output=name)
        assert (scores.output, found.shape) == ("sex", (3, 2))
        assert shares is not None
        torch.testing.assert_close(shares, logits_of(heads)[:, 1:3].softmax(1))
    with pytest.raises(BadInput, match="there is no output 'height'"):
        read(heads, output="height")


@pytest.mark.parametrize(
    ("rule", "truth"), [("softmax", SOFT), ("sigmoid", SIGM), ("exp", torch.exp), ("given", lambda y: y)]
)
def test_what_is_asked_for_wins(rule: str, truth: Callable[[Tensor], Tensor]) -> None:
    model = Net(lambda f, y: y)
    _, shares, _ = read(model, rule=rule)
    assert shares is not None
    torch.testing.assert_close(shares, truth(logits_of(model)))
    assert read(model, rule="none")[1] is None
    with pytest.raises(BadInput, match="--scores 'tanh' is not known"):
        ScoreOptions("tanh")
