"""The peak of weights, inputs and results that a ledger tells: by hand, and as the engine of `memory` finds it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import modelprobe
from modelprobe.cost.memory.blocks import record_memory
from modelprobe.cost.memory.estimate import estimate_of
from modelprobe.model.build import TargetRequest, load_model, record, record_with
from tests.sampling import sampled

FLOAT = 4


class Does(nn.Module):
    """A function as a model, with a weight of 1,000 numbers."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.ones(1000))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def chain(x: Tensor) -> Tensor:
    for _ in range(5):
        x = x + 1
    return x


def kept(x: Tensor) -> Tensor:
    return torch.stack([x + 1, x + 2, x + 3])


def in_place(x: Tensor) -> Tensor:
    return (x + 1).mul_(2).add_(3).relu_()


def views(x: Tensor) -> Tensor:
    y = x.view(10, 100) + 1
    rows = y[:2].t().reshape(-1)  # a copy, since they lie across
    return rows[:3] + y.view(-1)[:3]


INPUT = 1000
CASES = {
    "chain": (chain, 2 * INPUT),  # a result and the one before it
    "kept": (kept, 3 * INPUT + 3 * INPUT),
    "in place": (in_place, INPUT),
    "views": (views, INPUT + 200 + 3),
    "given back": (lambda x: x, 0),
}


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize(("function", "more"), CASES.values(), ids=CASES)
def test_by_hand(function: Callable[[Tensor], Tensor], more: int, device: str) -> None:
    found = modelprobe.trace(Does(function), torch.ones(INPUT), device=device)
    assert found.peak_bytes == FLOAT * (1000 + INPUT + more)


def test_what_an_operator_takes_by_its_parts() -> None:
    """Of max pooling the indices, which the whole operator does not return: 8 bytes for each of 16 results."""
    found = modelprobe.trace(nn.MaxPool2d(2), torch.ones(1, 1, 8, 8))
    (op,) = found.ops
    assert op.bytes_inside == 8 * 16
    assert found.peak_bytes == FLOAT * (64 + 16) + 8 * 16


def test_tied_weights_count_once() -> None:
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    model[1].weight = model[0].weight
    assert modelprobe.trace(model, torch.ones(10)).peak_bytes == FLOAT * (100 + 10 + 10 + 10)


def test_blocks_are_told_from_first_to_last() -> None:
    found = modelprobe.trace(Does(chain), torch.ones(INPUT))
    given, made = found.storages[:2], found.storages[2:]
    assert [(block.nbytes, block.made, block.freed) for block in given] == [(4000, -1, -1), (4000, -1, -1)]
    assert [(block.made, block.freed) for block in made][:3] == [(0, 1), (1, 2), (2, 3)]
    assert (made[4].made, made[4].freed) == (4, -1)
    assert [block.number for block in made] == [op.outputs[0].storage for op in found.ops]


NETWORKS = """
resnet18 vit_b_16 swin_t swin_v2_t densenet121 googlenet mobilenet_v3_small shufflenet_v2_x0_5 convnext_tiny maxvit_t
timm:gmlp_s16_224 timm:hiera_tiny_224 timm:swinv2_cr_tiny_224 timm:levit_128s timm:xcit_nano_12_p8_224 timm:nasnetalarge
timm:mobilevit_xxs timm:eca_nfnet_l0 timm:efficientvit_b0 timm:focalnet_tiny_srf timm:coat_lite_tiny
timm:samvit_base_patch16 timm:csatv2 timm:vit_base_patch16_sapiens2 timm:tiny_vit_21m_224 timm:convit_tiny
timm:cait_xxs24_384
""".split()  # fmt: skip


@pytest.mark.zoo
@pytest.mark.parametrize("name", sampled(NETWORKS, 3))
def test_the_memory_of_the_same_run_without_kernels(name: str) -> None:
    loaded = load_model(TargetRequest(name))
    followed = record_with(loaded, record_memory, "eval")
    for block in followed.blocks:
        block.nbytes *= block.role != "kernel"
    assert record(loaded).peak_bytes == estimate_of(followed).peak_bytes
