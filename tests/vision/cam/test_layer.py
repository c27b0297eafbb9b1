"""The layer is the last place through which everything passes: a module, or a value between operators."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import modelprobe
from modelprobe.errors import BadInput

IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))


class Modules(nn.Module):
    """Residual from the stem on, every step a module or a sum in forward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.relu = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU()
        self.c = nn.ModuleList([nn.Conv2d(16, 16, 3, 1, 1) for _ in range(4)])
        self.down, self.skip, self.fc = nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(16, 32, 1, 2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for i in range(0, 4, 2):
            x = self.relu(x + self.c[i + 1](self.relu(self.c[i](x))))
        x = self.relu(self.down(x) + self.skip(x))
        return self.fc(x.mean((2, 3)))


class Functions(Modules):
    """The same as functions."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for i in range(0, 4, 2):
            x = F.relu(x + self.c[i + 1](F.relu(self.c[i](x))))
        x = F.relu(self.down(x) + self.skip(x))
        return self.fc(x.mean((2, 3)))


class InPlace(Modules):
    """The same, sums and ReLUs in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.stem(x))
        for i in range(0, 4, 2):
            x = x + self.c[i + 1](F.relu_(self.c[i](x)))
            F.relu_(x)
        y = self.down(x)
        y += self.skip(x)
        F.relu(y, inplace=True)
        return self.fc(y.mean((2, 3)))


def test_one_network_as_modules_functions_in_place_and_through_fx() -> None:
    found = modelprobe.cam(Modules(), IMAGE, 3)
    assert found.layer == "relu"
    assert "last layer of 16x16 places" in found.reason
    others = [
        ("forward:relu#6", Functions()),
        ("forward:relu#6", InPlace()),
        ("relu", torch.fx.symbolic_trace(Modules())),
    ]
    for name, other in others:
        same = modelprobe.cam(other, IMAGE, 3)
        assert same.layer == name
        torch.testing.assert_close(same.raw, found.raw)
    asked = modelprobe.cam(Functions(), IMAGE, 3, layer="forward:relu#6")
    torch.testing.assert_close(asked.raw, found.raw)


@pytest.mark.zoo
def test_resnet18_through_fx_gives_the_map_of_its_modules() -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).eval()
    found = modelprobe.cam(model, IMAGE, 3)
    traced = modelprobe.cam(torch.fx.symbolic_trace(model), IMAGE, 3)
    assert (found.layer, traced.layer) == ("layer4", "layer4.1.relu")
    torch.testing.assert_close(traced.raw, found.raw)


class Sums(nn.Module):
    """The tutorials' ResNet9: the last sum stands in forward, and the classifier begins with pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.res = nn.Conv2d(3, 8, 3, 4, 1), nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.classifier = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.classifier(self.res(x) + x)


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.a(x))
        return self.fc(torch.cat([a, F.relu(self.b(a))], 1).mean((2, 3)))


class Early(nn.Module):
    """All places meet in a layer of the beginning; the rest is dense."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8)
        self.mlp = nn.Sequential(*(nn.Linear(256 if i == 0 else 32, 32) for i in range(6)))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.conv(x).flatten(1))


@pytest.mark.parametrize(
    ("model", "layer", "size"),
    [(Sums(), "forward:add", (16, 16)), (Concatenated(), "forward:cat", (16, 16)), (Early(), "conv", (8, 8))],
)
def test_sums_concatenations_and_pooling(model: nn.Module, layer: str, size: tuple[int, int]) -> None:
    found = modelprobe.cam(model, IMAGE, 3)
    assert (found.layer, tuple(found.raw.shape)) == (layer, size)
    assert ("6 of 7 products with weights come behind it" in found.reason) == (layer == "conv")


class Out(OrderedDict):
    """As the outputs of transformers: a dict with attributes."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.__dict__.update(given)


class Attributes(nn.Module):
    """Reads the attributes of an output that is a dict."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Conv2d(3, 8, 3, stride=4)

        def forward(self, x: Tensor) -> Out:
            y = self.c(x)
            return Out(last=y, pooled=y.mean((2, 3)))

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Attributes.Body(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Out:
        return Out(logits=self.head(self.body(x).pooled))


@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "guided-gradcam", "eigencam"])
def test_outputs_with_attributes_stay_what_they_are(method: str) -> None:
    found = modelprobe.cam(Attributes(), IMAGE, method=method)
    assert found.layer == "body"
    assert torch.isfinite(found.map).all()


@pytest.mark.zoo
def test_another_thread_keeps_its_gradient_mode() -> None:
    model, wrong, done = Modules(), [], threading.Event()

    def watch() -> None:
        while not done.is_set():
            with torch.no_grad():
                wrong.extend([1] * torch.is_grad_enabled())
            with torch.inference_mode():
                wrong.extend([2] * (not torch.is_inference_mode_enabled()))
            wrong.extend([3] * (not torch.is_grad_enabled()))

    other = threading.Thread(target=watch)
    own = torch.inference_mode.__enter__
    other.start()
    try:
        for _ in range(20):
            modelprobe.cam(model, IMAGE)
    finally:
        done.set()
        other.join()
    assert wrong == []
    assert torch.inference_mode.__enter__ is own


def test_a_batch_is_as_its_images_alone() -> None:
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(6))
    found = modelprobe.cam(Modules(), images)
    assert len(found) == 3
    for one, image in zip(found, images, strict=True):
        alone = modelprobe.cam(Modules(), image)
        assert one.target == alone.target
        torch.testing.assert_close(one.raw, alone.raw, rtol=1e-4, atol=1e-7)


def test_what_speaks_against_a_class_and_scores_of_ones_own() -> None:
    model = Modules()
    plain, against = (modelprobe.cam(model, IMAGE, 3, against=flag) for flag in (False, True))
    torch.testing.assert_close(against.raw, -plain.raw)
    assert against.score == plain.score
    difference = modelprobe.cam(model, IMAGE, lambda out: out[:, 3] - out[:, 4])
    other = modelprobe.cam(model, IMAGE, 4)
    torch.testing.assert_close(difference.raw, plain.raw - other.raw)
    assert difference.probability is None


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": F.interpolate(self.head(self.body(x)), x.shape[-2:], mode="bilinear")}


def test_a_score_for_every_place() -> None:
    model = Dense()
    found = modelprobe.cam(model, IMAGE, 2)
    assert found.layer == "body"  # not the head: its map would be the answer itself
    with torch.no_grad():
        out = model(IMAGE)["out"]
    region = (out.argmax(1) == 2)[0] if (out.argmax(1) == 2).any() else torch.ones(64, 64, dtype=torch.bool)
    assert found.score == pytest.approx(float(out[0, 2][region].mean()), rel=1e-4)
    at = modelprobe.cam(model, IMAGE, 2, at=(10, 50))
    assert at.score == pytest.approx(float(out[0, 2, 50, 10]), rel=1e-4)
    mask = torch.zeros(64, 64)
    mask[48:, :16] = 1
    part = modelprobe.cam(model, IMAGE, 2, mask=mask)
    assert part.score == pytest.approx(float(out[0, 2, 48:, :16].mean()), rel=1e-4)
    for options, text in (({"at": (64, 0)}, "lies outside"), ({"mask": mask[:32]}, "the mask has 64 x 32 pixels")):
        with pytest.raises(BadInput, match=text):
            modelprobe.cam(model, IMAGE, 2, **options)
    with pytest.raises(BadInput, match="not for each place"):
        modelprobe.cam(Modules(), IMAGE, 2, at=(1, 1))


def test_what_makes_two_embeddings_alike() -> None:
    class Embeds(Modules):
        def forward(self, x: Tensor) -> Tensor:
            return F.normalize(super().forward(x))

    model, other = Embeds(), torch.rand(3, 64, 64)
    found = modelprobe.cam(model, IMAGE, like=other)
    with torch.no_grad():
        expected = F.cosine_similarity(model(IMAGE), model(other[None]))
    assert found.score == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(BadInput, match="an embedding, 10 numbers"):
        modelprobe.cam(model, IMAGE)


def test_scores_that_are_no_numbers() -> None:
    class Broken(Modules):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.nan

    with pytest.raises(BadInput, match="10 of 10 scores of Broken are NaN or infinite"):
        modelprobe.cam(Broken(), IMAGE)


def test_layers_averaged() -> None:
    model = Modules()
    both = modelprobe.cam(model, IMAGE, 3, layer=["down", "c.3"])
    parts = [modelprobe.cam(model, IMAGE, 3, layer=name).map for name in ("down", "c.3")]
    torch.testing.assert_close(both.map, sum(part / part.max() for part in parts) / 2)
    assert both.layer == "down, c.3"


class Looks(nn.Module):
    """Looks at a part of the image, or at it in a corner of a larger page."""

    def __init__(self, prepare: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.prepare, self.conv, self.head = prepare, nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 4)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(self.prepare(x)).relu().mean((2, 3)))
        return out


PREPARED: dict[str, Callable[[Tensor], Tensor]] = {
    "the lower right quarter": lambda x: x[..., 16:, 16:],
    "the middle": lambda x: x[..., 4:30, 6:31],
    "an enlarged half": lambda x: nn.functional.interpolate(x[..., 14:, :], size=(64, 64), mode="bilinear"),
    "a page of 64 x 64": lambda x: nn.functional.pad(x, (0, 32, 0, 32)),
    "a page around it": lambda x: nn.functional.pad(x, (16, 16, 16, 16)),
    "a border of a kernel": lambda x: nn.functional.pad(x, (1, 1, 1, 1)),
}


@pytest.mark.parametrize("prepare", PREPARED.values(), ids=PREPARED)
def test_a_part_of_the_image_and_a_larger_page(prepare: Callable[[Tensor], Tensor]) -> None:
    """The map lies where the part does: its peak on a spot of 4 x 4 pixels."""
    image = torch.full((3, 32, 32), 0.01)
    image[:, 22:26, 24:28] = 5
    found = modelprobe.cam(Looks(prepare), image, 0, method="layercam")
    row, column = divmod(int(found.map.argmax()), 32)
    assert 21 <= row <= 26
    assert 23 <= column <= 28
