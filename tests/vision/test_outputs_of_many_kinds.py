"""Scores among other outputs, joined or averaged probabilities, forwards without gradients, batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import modelprobe
from tests.command_line import CommandLine

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Logits of four classes; `how` makes the output of the features [B, 8, 4, 4] and them."""

    def __init__(self, how: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.how, self.conv, self.head = how, nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 4)
        nn.init.normal_(self.head.weight, 0, 4)

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).relu().mean((2, 3)))
        return logits

    def forward(self, x: Tensor) -> Any:
        y = self.conv(x).relu()
        return self.how(y, self.head(y.mean((2, 3))))


LOGITS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tokens in front, batch second": lambda y, z: (y.flatten(2).permute(2, 0, 1), z),
    "anchors by name": lambda y, z: {"anchors": torch.ones(9, 6), "logits": z},
    "a loss of one number": lambda y, z: (z.sum()[None], z),
    "a confidence": lambda y, z: (z, z.softmax(1).max(1).values),
    "an uncertainty": lambda y, z: {"scores": z, "uncertainty": z.var(1)},
}


@pytest.mark.parametrize("how", LOGITS.values(), ids=LOGITS)
def test_the_logits_are_found(how: Callable[[Tensor, Tensor], Any]) -> None:
    net = Net(how).eval()
    truth = net.logits(IMAGES).detach()
    for image, row in zip(IMAGES, truth, strict=True):
        best = int(row.argmax())
        guess, found = modelprobe.predict(net, image, 1)[0], modelprobe.cam(net, image)
        assert (guess.index, found.target) == (best, best)
        assert guess.probability == pytest.approx(float(row.softmax(0)[best]), abs=1e-5)
        assert found.score == pytest.approx(float(row[best]), abs=1e-4)
    assert [one.target for one in modelprobe.cam(net, IMAGES)] == truth.argmax(1).tolist()
    batch = [guesses[0].index for guesses in modelprobe.predict(net, IMAGES, 1)]
    assert batch == truth.argmax(1).tolist()


def test_a_head_of_one_number_after_features_is_the_score() -> None:
    class Head(Net):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x).relu().mean((2, 3))
            return y, self.head(y)[:, :1]

    net = Head(lambda y, z: None).eval()
    assert modelprobe.predict(net, IMAGES[0])[0].score == pytest.approx(float(net.logits(IMAGES[:1])[0, 0].detach()))


PROBABILITIES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "joined": lambda y, z: torch.cat([z[:, :2].sigmoid(), z[:, 2:].sigmoid()], 1),
    "stacked": lambda y, z: torch.stack([z[:, at].sigmoid() for at in range(4)], 1),
    "averaged": lambda y, z: (z.sigmoid() + (z * 0.5).sigmoid()) / 2,
    "a product": lambda y, z: z.sigmoid() * z.softmax(1),
    "groups of softmaxes": lambda y, z: torch.cat([z[:, :2].softmax(1), z[:, 2:].softmax(1)], 1),
}


@pytest.mark.parametrize("without", [None, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("how", PROBABILITIES.values(), ids=PROBABILITIES)
def test_probabilities_are_as_given(how: Callable[[Tensor, Tensor], Any], without: Any) -> None:
    class Other(Net):
        def forward(self, x: Tensor) -> Any:
            if without is None:
                return super().forward(x)
            with without():
                return super().forward(x)

    net = Other(how).eval()
    row = net(IMAGES[:1])[0].detach()
    guess = modelprobe.predict(net, IMAGES[0], 1)[0]
    assert guess.probability == pytest.approx(float(row[guess.index]), abs=1e-6)
    assert modelprobe.cam(net, IMAGES[0], method="saliency").probability == pytest.approx(float(row.max()), abs=1e-6)


@pytest.mark.parametrize("end", [None, "sigmoid"])
def test_a_dense_output_of_one_class(end: str | None) -> None:
    """What is there by a sigmoid above 0.5 is there by a logit above 0: the same places and probability."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    nn.init.normal_(body[2].weight, 0, 4)
    with torch.no_grad():
        body[2].bias -= body(IMAGES[:1]).mean()
    net = nn.Sequential(body, nn.Sigmoid()) if end else body
    there = body(IMAGES[:1])[0, 0] > 0
    guess, found = modelprobe.predict(net, IMAGES[0])[0], modelprobe.cam(net, IMAGES[0])
    assert guess.area == pytest.approx(float(there.float().mean()))
    assert 0.05 < guess.area < 0.95
    mean = float(body(IMAGES[:1])[0, 0].sigmoid()[there].mean())
    assert (guess.probability, found.probability) == (pytest.approx(mean, abs=1e-5), pytest.approx(mean, abs=1e-5))


def test_a_judgement_is_of_the_places_that_the_map_is_for() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    from modelprobe.vision.cam.judge import judge_map
    from modelprobe.vision.cam.mapper import Region

    found = modelprobe.cam(net, IMAGES[0], 2, at=(8, 24))
    judged = judge_map(net, IMAGES[0], found.map, 2, region=Region((8, 24)))
    truth = float(net(IMAGES[:1])[0, :, 24, 8].softmax(0)[2])
    assert (judged.deleted[0], judged.inserted[-1]) == (pytest.approx(truth, abs=1e-5), pytest.approx(truth, abs=1e-5))
    with pytest.raises(modelprobe.ProbeError, match="class 9 is none of 4"):
        judge_map(net, IMAGES[0], found.map, 9)


class InBatch(nn.Module):
    """A batch norm without running statistics: what it says of an image depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.norm = nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8, track_running_stats=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return logits


def test_maps_of_a_batch_are_those_of_each_image() -> None:
    net = InBatch().eval()
    images = torch.cat([IMAGES, IMAGES[:1] * 3])
    alone = [modelprobe.cam(net, image) for image in images]
    for one, other in zip(modelprobe.cam(net, images), alone, strict=True):
        assert (one.target, one.score) == (other.target, pytest.approx(other.score, rel=1e-4))
        torch.testing.assert_close(one.map, other.map, rtol=1e-3, atol=1e-4)


class Attending(nn.Module):
    """Attention over patches that are normalized over the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv, self.norm = nn.Conv2d(3, 8, 8, 8), nn.BatchNorm2d(8, track_running_stats=False)
        self.q, self.k, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        weights = (self.q(tokens) @ self.k(tokens).transpose(1, 2)).softmax(-1)
        weights *= 0.5  # what is shown is the softmax's
        logits: Tensor = self.head((weights @ tokens).mean(1))
        return logits


def test_attention_of_a_batch_is_that_of_each_image() -> None:
    net = Attending().eval()
    images = torch.cat([IMAGES, IMAGES[:1] * 3])
    for many, image in zip(modelprobe.attention(net, images), images, strict=True):
        (one,) = modelprobe.attention(net, image)
        torch.testing.assert_close(many[0].maps[0], one.maps[0], rtol=1e-3, atol=1e-5)
        assert float(one.maps[0].sum() + one.elsewhere[0]) == pytest.approx(1, abs=1e-4)


def test_what_cannot_be_asked() -> None:
    net = Net(lambda y, z: z).eval()
    dense = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    with pytest.raises(modelprobe.ProbeError, match="top is 0"):
        modelprobe.predict(net, IMAGES[0], 0)
    with pytest.raises(modelprobe.ProbeError, match="at and mask both say where"):
        modelprobe.cam(dense, IMAGES[0], at=(1, 1), mask=torch.ones(32, 32))
    with pytest.raises(modelprobe.ProbeError, match="the mask is zero everywhere"):
        modelprobe.cam(dense, IMAGES[0], mask=torch.zeros(32, 32))
    with pytest.raises(modelprobe.ProbeError, match="gives 1 numbers for 2 images"):
        modelprobe.cam(net, IMAGES, lambda out: out.sum())
    with pytest.raises(modelprobe.ProbeError, match=r"cam takes a torch\.nn\.Module"):
        modelprobe.cam(None, IMAGES)  # type: ignore[arg-type]
    with pytest.raises(modelprobe.ProbeError, match="ran where hooks see it"):
        modelprobe.extract_features(torch.jit.trace(net, IMAGES), IMAGES, "*")  # type: ignore[no-untyped-call]


def test_inputs_made_in_inference_mode() -> None:
    net = Net(lambda y, z: z).eval()
    with torch.inference_mode():
        image = IMAGES[0].clone()
    assert modelprobe.predict(net, image, 1)[0].index == int(net(IMAGES[:1]).argmax())


def test_arrays_are_surveyed(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "d[1]"
    folder.mkdir()
    np.save(folder / "x.npy", np.zeros((8, 8, 3), np.uint8))
    for path in (folder, folder / "x.npy"):
        answer = CommandLine(capsys)("images", str(path))
        assert answer.code == 0, answer.err
        assert "NumPy" in answer.out
