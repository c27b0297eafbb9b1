"""`modelprobe.extract_features`, `predict` and `attention`: equal to plain code, and the model left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.errors import BadInput, ProbeError
from tests.samples import models

X = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cnn() -> nn.Module:
    torch.manual_seed(0)
    return models.DigitCNN().train()


def state(model: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def test_features_are_what_hooks_see(cnn: nn.Module) -> None:
    before = state(cnn)
    found = modelprobe.extract_features(cnn, X, "features,head")
    assert list(found) == ["features", "head"]
    assert cnn.training
    assert all(torch.equal(a, b) for a, b in zip(before, state(cnn), strict=True))
    with torch.no_grad():
        assert torch.equal(found["features"], cnn.eval().features(X))
        assert torch.equal(found["head"], cnn(X))
    with pytest.raises(BadInput, match="no layer 'nope'"):
        modelprobe.extract_features(cnn, X, ["nope"])


def test_predictions_are_the_softmax_of_the_logits(cnn: nn.Module) -> None:
    found = modelprobe.predict(cnn, X, top=3)
    one = modelprobe.predict(cnn, X[0], top=3, labels=[f"digit {i}" for i in range(10)])
    assert cnn.training
    with torch.no_grad():
        expected = cnn.eval()(X).softmax(1)
    for guesses, row in zip(found, expected, strict=True):
        values, indices = row.topk(3)
        assert [guess.index for guess in guesses] == indices.tolist()
        assert [guess.probability for guess in guesses] == pytest.approx(values.tolist(), abs=1e-6)
    assert [guess.label for guess in one] == [f"digit {guess.index}" for guess in found[0]]


def test_a_softmax_inside_is_not_taken_twice(cnn: nn.Module) -> None:
    inside = nn.Sequential(cnn, nn.Softmax(1))
    plain, given = modelprobe.predict(cnn, X[0], 10), modelprobe.predict(inside, X[0], 10)
    assert [a.probability for a in given] == pytest.approx([b.probability for b in plain], abs=1e-6)


def test_attention_is_the_mean_of_its_heads() -> None:
    torch.manual_seed(0)
    vit = models.DigitViT().eval()
    images = torch.rand(2, 1, 64, 64)
    (block,), _ = modelprobe.attention(vit, images)
    maps = dict(zip(block.heads, block.maps, strict=True))
    mean = torch.stack([values for name, values in maps.items() if name != "mean"]).mean(0)
    assert torch.allclose(maps["mean"], mean, atol=1e-6)
    assert float(maps["mean"].sum()) + block.elsewhere[0] == pytest.approx(1, abs=1e-5)
    both = modelprobe.attention(vit, images[0], blocks="all", heads="mean")
    assert len(both) == 2
    assert torch.allclose(both[-1].maps[0], maps["mean"], atol=1e-6)


def test_what_is_refused(cnn: nn.Module) -> None:
    with pytest.raises(BadInput, match="no attention over places"):
        modelprobe.attention(cnn, X[0])
    with pytest.raises(BadInput, match="2 labels for 10 classes"):
        modelprobe.predict(cnn, X[0], labels=["a", "b"])
    with pytest.raises(BadInput, match="not 64x64"):
        modelprobe.predict(cnn, X[0, 0])
    with pytest.raises(BadInput, match="NaN or infinite"):
        modelprobe.predict(cnn, X[0] * torch.nan)
    with pytest.raises(ProbeError):
        modelprobe.predict(cnn, torch.rand(5, 64, 64))
