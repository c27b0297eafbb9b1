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
