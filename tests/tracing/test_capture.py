"""Captured tensors are those of a hook written by hand, to the bit; the model is left as it was, whatever happens."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

import modelprobe
from modelprobe.errors import BadInput
from modelprobe.tracing.capture import captured_until, chosen_layers

Pair = namedtuple("Pair", "logits aux")


class Nested(nn.Module):
    """Outputs of every shape; a block that runs twice, one that never runs, one that gives no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head, self.table = Encoder(), Head(), Table()
        self.block, self.unused, self.silent = nn.Linear(4, 4), nn.Linear(4, 4), Silent()
        self.parts = nn.ModuleList([nn.Linear(4, 4)])
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        one, two = self.encoder(x)
        self.silent(x)
        x = self.parts[0](self.act(self.block(self.block(one))))
        return self.head(x), self.table(two)


class Encoder(nn.Module):
    def forward(self, x):
        return [x + 1, x - 1]


class Head(nn.Module):
    def forward(self, x):
        return Pair(x, {"a b": x * 2, "deep": (x, None, 3)})


class Table(nn.Module):
    def forward(self, x):
        return {"scores": x}


class Silent(nn.Module):
    def forward(self, x):
        return "nothing"


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "layers", "side"),
    [
        (torchvision.models.resnet18, ["bn1", "layer1.0.bn1", "layer3", "fc"], 64),
        (lambda: timm.create_model("test_vit"), ["patch_embed", "blocks.0.attn", "blocks.3", "norm"], 160),
        pytest.param(torchvision.models.swin_t, ["features.1.0.attn", "features.5"], 64, marks=pytest.mark.zoo),
    ],
    ids=["resnet18", "vit", "swin"],
)
def test_equal_to_a_hook_by_hand(model, layers, side) -> None:
    torch.manual_seed(0)
    net = model().eval()
    x = torch.randn(1, 3, side, side)
    by_hand = {}
    handles = [
        net.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: by_hand.update({name: out.detach().clone()})
        )
        for name in layers
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    with torch.no_grad(), modelprobe.capture(net, layers) as found:
        net(x)
    assert list(found) == layers
    assert all(torch.equal(found[name], by_hand[name]) for name in layers)
    early = captured_until(net, (x,), layers[:2], (layers[1], 1))
    assert all(torch.equal(early[name], by_hand[name]) for name in layers[:2])
    assert hooks_of(net) == 0


def test_every_tensor_has_a_name() -> None:
    with modelprobe.capture(Nested(), "*") as found:
        Nested.forward(found_model := Nested(), torch.ones(1, 4))
    assert not found  # another model's forward
    with modelprobe.capture(found_model, "encoder,head,table,block,act") as found:
        found_model(torch.ones(1, 4))
    assert list(found) == [
        "encoder[0]", "encoder[1]", "block", "block#2", "act", "head.logits", "head.aux.a b", "head.aux.deep[0]",
        "table.scores",
    ]  # fmt: skip
    assert found.origins["block#2"] == ("block", 2, 0)
    assert repr(found).startswith("Captured(encoder[0]: (1, 4), ")


def test_a_copy_that_in_place_operators_do_not_reach() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    with modelprobe.capture(model, "0") as found:
        model(torch.randn(8, 4))
    assert (found["0"] < 0).any()


def test_gradients_on_request() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    with modelprobe.capture(model, "0", detach=False) as found:
        model(torch.randn(2, 4)).sum().backward()
    assert found["0"].requires_grad
    with modelprobe.capture(model, "0") as found:
        model(torch.randn(2, 4))
    assert not found["0"].requires_grad


class Attributes(OrderedDict):
    """As the outputs of transformers: a dict with attributes."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.__dict__.update(given)


@dataclass
class Record:
    value: Any


@pytest.mark.parametrize(
    ("wrap", "read", "name"),
    [
        (lambda y: y, lambda out: out, "body"),
        (lambda y: (y, "text"), lambda out: out[0], "body[0]"),
        (lambda y: Attributes(last=y), lambda out: out.last, "body.last"),
        (lambda y: Attributes(last=y), lambda out: out["last"], "body.last"),
        (lambda y: Record([y]), lambda out: out.value[0], "body.value[0]"),
    ],
)
def test_the_gradient_of_a_score_with_respect_to_what_was_captured(wrap: Any, read: Any, name: str) -> None:
    class Body(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return wrap(3 * x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Body()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return read(self.body(x)).mul_(2).square().sum()

    x = torch.tensor([1.0, -2.0], requires_grad=True)
    model = Net()
    with modelprobe.capture(model, "body", detach=False) as found:
        score = model(x)
    (gradient,) = torch.autograd.grad(score, found[name])
    torch.testing.assert_close(found[name], 3 * x)
    torch.testing.assert_close(gradient, 8 * found[name].detach())  # of (2 v)^2


def test_hooks_are_gone_when_the_body_raises() -> None:
    model = Nested()
    with pytest.raises(ZeroDivisionError), modelprobe.capture(model, "*"):
        raise ZeroDivisionError
    assert hooks_of(model) == 0


@pytest.mark.parametrize(
    ("layers", "says", "hint"),
    [
        ("layer5", "has no layer 'layer5'", "layer4"),
        ("layer1.0.conv9", "has no layer", "layer1.0.conv1"),
        ("nope.*.attn", "has no layer 'nope.\\*.attn'", "nearest"),
        ("", "no layer was named", "--list"),
    ],
)
def test_unknown_names(layers: str, says: str, hint: str) -> None:
    with pytest.raises(BadInput, match=says) as raised, modelprobe.capture(torchvision.models.resnet18(), layers):
        pass
    assert hint in raised.value.hint


@pytest.mark.parametrize(
    ("layer", "says", "hint"),
    [
        ("unused", r"the layer unused \(Linear\) never ran", "not used in this forward pass"),
        ("parts", r"the layer parts \(ModuleList\) never ran", "'parts.*' names what is in it"),
        ("silent", r"the layer silent \(Silent\) put out no tensor", "around it or inside it"),
    ],
)
def test_layers_with_nothing_to_show(layer: str, says: str, hint: str) -> None:
    model = Nested()
    with pytest.raises(BadInput, match=says) as raised, modelprobe.capture(model, layer):
        model(torch.ones(1, 4))
    assert hint in raised.value.hint
    with modelprobe.capture(model, "*"):  # a wildcard asks for what there is
        model(torch.ones(1, 4))


def test_a_shared_module_is_taken_once_by_a_wildcard() -> None:
    from tests.samples import models

    net = models.Shared()  # b is a, which runs three times
    paths, _ = chosen_layers(net, "*")
    assert paths == ["a", "encoder", "decoder"]
    with modelprobe.capture(net, "b") as found:
        net(torch.ones(2, 8))
    assert list(found) == ["b", "b#2", "b#3"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_runs_past_hooks() -> None:
    net = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    with pytest.raises(BadInput) as raised, modelprobe.capture(net, "0"):
        net(torch.ones(1, 4))
    assert "TorchScript" in raised.value.hint


def test_wildcards_cross_dots() -> None:
    paths, exact = chosen_layers(torchvision.models.resnet18(), ["layer[12]", "*.downsample.0", "fc"])
    assert paths == [
        "layer1",
        "layer2",
        "layer2.0.downsample.0",
        "layer3.0.downsample.0",
        "layer4.0.downsample.0",
        "fc",
    ]
    assert exact == ["fc"]
