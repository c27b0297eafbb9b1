"""The cost of a training step as a result: passes that add up, modules, the optimizer's own operators, notes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.cost.optimizers.known import OPTIMIZERS
from modelprobe.cost.training import TrainingResult
from modelprobe.errors import BadInput
from modelprobe.tracing.dispatch import Observer
from modelprobe.tracing.tensors import TensorNumbers
from tests.samples import models

STEPS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, foreach=False),
    "sgd-momentum": lambda parameters: torch.optim.SGD(parameters, momentum=0.9, foreach=False),
    "adam": lambda parameters: torch.optim.Adam(parameters, foreach=False),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, foreach=False),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, foreach=False),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, foreach=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_update_is_what_torchs_own_optimizer_computes(name: str) -> None:
    """Recorded from `torch.optim`: the operators on whole parameters, per element, once the state exists."""
    parameter = nn.Parameter(torch.rand(10))
    optimizer = STEPS[name]([parameter])
    for _ in range(2):
        parameter.grad = torch.rand(10)
        observer = Observer(TensorNumbers(), lambda: ("", -1), False)
        with observer, torch.no_grad():
            optimizer.step()
    flops = sum(op.flops for op in observer.ops if op.outputs and op.outputs[0].numel == 10)
    assert flops == 10 * OPTIMIZERS[name].flops
    states = [value for value in optimizer.state[parameter].values() if torch.is_tensor(value) and value.numel() == 10]
    assert len(states) == OPTIMIZERS[name].states


def step(model: nn.Module, *inputs: torch.Tensor, **asked: object) -> TrainingResult:
    return modelprobe.count_training(model, *inputs, **asked)


def test_passes_add_up_by_hand() -> None:
    found = step(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.zeros(4, 3), optimizer="adam")
    assert (found.forward.macs, found.input_gradients.macs, found.weight_gradients.macs) == (100, 40, 100)
    assert found.backward.macs == 140
    assert found.ratio == 1.4
    assert found.macs == 240
    # Forward: both biases and the ReLU. Backward: a sum for each bias, the ReLU's comparison. Adam: 13 each.
    elements = 3 * 5 + 5 + 5 * 2 + 2
    assert found.optimizer.elements == elements
    assert found.optimizer.flops == 13 * elements
    assert found.flops == 2 * 240 + (20 + 20 + 8) + (20 + 20 + 8) + 13 * elements
    assert (found.optimizer.gradient_bytes, found.optimizer.state_bytes) == (4 * elements, 8 * elements)
    assert found.recomputation.flops == 0
    assert not found.uncounted


C64 = torch.complex64


class ComplexProduct(nn.Module):
    """y = x W in no layer; with `real`, the input is real and W complex."""

    def __init__(self, real: bool = False) -> None:
        super().__init__()
        self.weight, self.real = nn.Parameter(torch.zeros(4, 5, dtype=C64)), real

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.to(C64) if self.real else x) @ self.weight


# (a + bi)(c + di) is four real products. y = W x; dx = W* dy and dW = dy x*, conjugates, are as many complex MACs each.
COMPLEX = {
    "linear": (lambda: nn.Linear(4, 5, dtype=C64), (3, 4), 3 * 4 * 5),
    "product": (ComplexProduct, (3, 4), 3 * 4 * 5),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, dtype=C64), (1, 2, 5), 3 * (3 * 2 * 3)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, dtype=C64), (1, 2, 5, 5), 9 * (3 * 2 * 9)),
    "without bias": (lambda: nn.Conv2d(2, 3, 3, bias=False, dtype=C64), (1, 2, 5, 5), 9 * (3 * 2 * 9)),
    "strided": (lambda: nn.Conv2d(2, 3, 3, 2, 1, dtype=C64), (2, 2, 5, 5), 2 * 9 * (3 * 2 * 9)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, dtype=C64), (1, 4, 5, 5), 9 * (6 * 2 * 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, dtype=C64), (1, 2, 3, 3, 3), 8 * (3 * 2 * 8)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, dtype=C64), (1, 2, 5, 5), 25 * (2 * 3 * 9)),
}


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_layers_cost_four_real_products_in_every_direction(name: str, device: str) -> None:
    build, shape, products = COMPLEX[name]
    given = torch.zeros(shape, dtype=C64)
    alone = step(build(), given, device=device)
    assert alone.forward.macs == 4 * products
    assert (alone.input_gradients.macs, alone.weight_gradients.macs) == (0, 4 * products)
    assert not alone.uncounted
    assert not alone.notes or all("autograd" not in note.text for note in alone.notes)
    wanted = step(build(), given.requires_grad_(), device=device)
    assert (wanted.input_gradients.macs, wanted.weight_gradients.macs) == (4 * products, 4 * products)


def test_a_complex_linear_layer_by_hand() -> None:
    found = step(nn.Linear(4, 5, dtype=C64), torch.zeros(3, 4, dtype=C64))
    # 60 complex MACs in the forward, 60 for the weight; the bias is added to 15 complex numbers, its gradient sums
    # them; a complex parameter is updated as two real ones
    assert found.macs == 4 * 60 + 4 * 60
    assert found.flops == 2 * found.macs + 2 * 15 + 2 * 15 + 2 * 2 * 25
    assert (found.optimizer.elements, found.optimizer.gradient_bytes) == (25, 8 * 25)
    assert sum(row.cost.flops for row in found.rows if row.depth == 0) == found.flops


def test_a_complex_weight_on_real_numbers() -> None:
    given = torch.zeros(3, 4, requires_grad=True)
    found = step(ComplexProduct(real=True), given)
    assert (found.forward.macs, found.input_gradients.macs, found.weight_gradients.macs) == (240, 240, 240)


def test_real_convolutions_of_sums_are_one_product_each() -> None:
    """What torch makes of a complex convolution is told from what a model adds up itself."""

    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 3, 3, dtype=C64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.conv2d(x.real + x.imag, self.layer.weight.real + self.layer.weight.imag)

    found = step(Sums(), torch.zeros(1, 2, 5, 5, dtype=C64))
    assert (found.forward.macs, found.weight_gradients.macs) == (486, 486)


def test_a_forward_that_differentiates_a_complex_convolution() -> None:
    class Differentiates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 3, 3, dtype=C64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.requires_grad_()
            return torch.autograd.grad(self.layer(x).abs().sum(), x)[0]

    found = modelprobe.count_flops(Differentiates(), torch.zeros(1, 2, 5, 5, dtype=C64))
    assert (found.macs, found.gradient_macs) == (2 * 4 * 486, 4 * 486)


@pytest.mark.zoo
@pytest.mark.parametrize("by", ["module", "operator", "kind"])
def test_rows_add_up_to_the_step(by: str) -> None:
    ids = torch.zeros(2, 16, dtype=torch.int64)
    found = step(models.TinyAttention(), ids, by=by, depth=9)
    top = [row for row in found.rows if row.depth == 0]
    assert sum(row.cost.macs for row in top) == found.macs
    assert sum(row.cost.flops for row in top) == found.flops
    assert sum(row.share for row in top) == pytest.approx(1)
    ranked = step(models.TinyAttention(), ids, by=by, top=1000)
    assert sum(row.cost.flops for row in ranked.rows) == found.flops
    assert [row.cost.macs for row in ranked.rows[:3]] == sorted((r.cost.macs for r in ranked.rows), reverse=True)[:3]


def test_children_add_up_to_their_module() -> None:
    found = step(models.TinyAttention(), torch.zeros(1, 16, dtype=torch.int64), depth=1)
    root, *children = (row for row in found.rows if row.depth <= 1)
    assert root.cost.macs == sum(row.cost.macs for row in children)
    assert root.cost.flops >= sum(row.cost.flops for row in children)
    assert root.trained == sum(p.numel() for p in models.TinyAttention().parameters())


def test_freezing_by_pattern() -> None:
    model = models.TinyCNN()
    found = step(model, torch.zeros(2, 3, 16, 16), freeze="features.*")
    head = 2 * 16 * 10
    assert (found.input_gradients.macs, found.weight_gradients.macs) == (0, head)
    assert (found.optimizer.elements, found.frozen) == (170, found.parameters - 170)
    with pytest.raises(BadInput, match="matches no module and no parameter"):
        step(model, torch.zeros(2, 3, 16, 16), freeze="featurs.*")
    with pytest.raises(BadInput, match="every parameter is frozen"):
        step(model, torch.zeros(2, 3, 16, 16), freeze=["features", "head"])


def test_notes_say_what_the_loss_is_and_what_fusing_would_cost() -> None:
    said = [note.text for note in step(models.TinyAttention(), torch.zeros(1, 16, dtype=torch.int64)).report().notes]
    assert "The loss is the sum of the output; no other loss is counted." in said
    # 3 blocks x 4 heads x 16 x 16 scores x 8
    assert any("24.58 kMACs more if every attention is fused" in text for text in said)
    unused = step(models.Unused(), torch.zeros(1, 4))
    assert unused.unreached == 4 * 64 + 64
    assert any("trainable parameters get no gradient: never.0.weight" in note.text for note in unused.report().notes)


def test_unknown_optimizer_and_grouping() -> None:
    with pytest.raises(BadInput, match="the optimizer 'adamx' is not known"):
        step(nn.Linear(2, 2), torch.zeros(1, 2), optimizer="adamx")
    with pytest.raises(BadInput, match="call"):
        step(nn.Linear(2, 2), torch.zeros(1, 2), by="call")


def test_a_residual_network_to_the_last_digit() -> None:
    """ResNet-18 at 224 by hand, so that every release of torch gives the same integers."""
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.resnet18()
    found = step(model, torch.empty(1, 3, 224, 224, device="meta"), optimizer="adamw")
    assert found.forward.macs == 1_814_073_344  # torchvision publishes 1.814 G
    assert found.weight_gradients.macs == found.forward.macs
    assert found.input_gradients.macs == found.forward.macs - 112 * 112 * 64 * 3 * 49  # but the image

    # Elements of a feature map at each scale; how many convolutions put one out, each with a norm.
    stem, one, two, three, four = 64 * 112**2, 64 * 56**2, 128 * 28**2, 256 * 14**2, 512 * 7**2
    normed = stem + 4 * one + 5 * (two + three + four)
    rectified = stem + 4 * (one + two + three + four)
    pooled, added = one, 2 * (one + two + three + four)
    # Norms: 5 and the affine pair. Pools: 8 comparisons, a mean. 20 counters of batches. The bias of the head.
    forward = 7 * normed + rectified + 8 * pooled + added + four + 20 + 1000
    assert found.forward.flops == 2 * found.forward.macs + forward
    # What goes into a block goes two ways, and both gradients are added: each block's input, the first one's a pool's.
    forks = 3 * one + 2 * two + 2 * three + four
    backward = 8 * normed + rectified + pooled + forks + four + 1000
    assert found.backward.flops == 2 * found.backward.macs + backward
    assert found.flops == 2 * found.macs + forward + backward + 14 * 11_689_512
