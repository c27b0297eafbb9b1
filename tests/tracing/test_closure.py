"""The ledger is closed: every operand was made by an operator before it, or is an input, a parameter or a buffer.

What is not is named here, with its reason.
"""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from modelprobe.model.build import TargetRequest, load_model, record
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import Trace
from tests.samples import ROOT
from tests.sampling import sampled

ZOO = (
    "resnet18 vit_b_16 swin_t densenet121 efficientnet_b0 googlenet fcn_resnet50 shufflenet_v2_x0_5 "
    "timm:mobilevit_xxs timm:levit_128s timm:convnext_atto timm:xcit_nano_12_p8_224 timm:maxvit_pico_rw_256"
).split()


def open_operands(found: Trace) -> Counter[str]:
    """Operator -> how many of its operands came from nowhere."""
    known = {*found.named, *(ref.value for ref in found.inputs)}
    missing: Counter[str] = Counter()
    for op in found.ops:
        for ref in op.inputs:
            if ref.value not in known:
                missing[op.name] += 1
                known.add(ref.value)
        known.update(ref.value for ref in (*op.outputs, *op.side_writes))
    missing["output"] = sum(ref.value not in known for ref in found.outputs)
    return +missing


@pytest.mark.parametrize("name", sampled(ZOO, 4, pytest.mark.zoo))
def test_networks(name: str) -> None:
    found = record(load_model(TargetRequest(name)))
    assert len(found.ops) > 40
    assert not open_operands(found)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["resnet18", "timm:mobilevit_xxs"])
def test_a_training_mode_forward(name: str) -> None:
    assert not open_operands(record(load_model(TargetRequest(name, batch=2)), train=True))


class TwoTimes(nn.Module):
    """Calls one batch norm twice, so that the second call reads what the first has written."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(x))


def test_running_statistics_are_written_beside_the_results() -> None:
    found = trace(TwoTimes(), torch.ones(2, 4), train=True)
    assert not open_operands(found)
    first, second = (op for op in found.ops if op.name == "aten.batch_norm")
    assert first.side_writes == second.inputs[3:5]  # the new mean and variance: values that it does not return
    assert [ref.storage for ref in first.side_writes] == [ref.storage for ref in first.inputs[3:5]]
    assert not any(op.side_writes for op in trace(TwoTimes(), torch.ones(2, 4)).ops)


class Holds(nn.Module):
    """Holds a tensor that is neither a parameter nor a buffer, and makes one from numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(4)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_tensors_from_outside_the_forward() -> None:
    # A plain attribute has no name in the model; numbers become a tensor before torch dispatches `lift_fresh` on it.
    assert open_operands(trace(Holds(), torch.ones(2, 4))) == {"aten.mul": 1, "aten.lift_fresh": 1}


def test_results_written_into_a_tensor_that_was_given() -> None:
    class Fills(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out = torch.empty_like(x)
            torch.add(x, 1, out=out)
            x = x.clone()
            x[0] = out[0]
            x.mul_(2).add_(out)
            return x

    assert not open_operands(trace(Fills(), torch.ones(2, 4)))


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("TinyCNN", ()),
        ("Shared", ()),
        ("Recursive", ()),
        ("DigitCNN", ()),
        ("DigitViT", ("1x64x64",)),
        ("tiny_resnet", ("3x64x64",)),
    ],
)
def test_samples(name: str, inputs: tuple[str, ...]) -> None:
    assert not open_operands(record(load_model(TargetRequest(f"{ROOT / 'samples' / 'models.py'}:{name}", (), inputs))))
