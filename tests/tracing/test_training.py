"""A training step by hand: forward, gradients of inputs and of weights, what is computed again, and where."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.tracing.failures import LoneValueError
from modelprobe.tracing.step_records import GradientOp, TrainingTrace
from modelprobe.tracing.training import record_training
from tests.samples import models
from tests.tracing.by_hand import sees_higher_order


def macs(found: TrainingTrace, phase: str = "backward", at: str | None = None) -> int:
    """MACs of a phase, of one module's own operators or of all."""
    return sum(step.op.macs for step in of(found, phase, at))


def weights(found: TrainingTrace, at: str | None = None) -> int:
    """MACs of the gradients of parameters."""
    return sum(step.weight_macs for step in of(found, "backward", at))


def flops(found: TrainingTrace, phase: str = "backward", at: str | None = None) -> int:
    """FLOPs beside the MACs."""
    return sum(step.op.flops for step in of(found, phase, at))


def of(found: TrainingTrace, phase: str, at: str | None) -> list[GradientOp]:
    return [step for step in found.gradients if step.phase == phase and at in (None, step.op.module)]


def both(model: nn.Module, *args: Any, freeze: tuple[str, ...] = ()) -> TrainingTrace:
    """The step on meta, once it is clear that a real run costs the same and that nothing is uncounted."""
    meta = record_training(model, *args, freeze=freeze)
    real = record_training(model, *args, freeze=freeze, device="real")
    assert not meta.uncounted
    assert meta.forward_macs == meta.forward.macs

    def costs(found: TrainingTrace) -> list[Any]:
        steps = [(s.phase, s.op.name, s.op.module, s.op.macs, s.op.flops, s.weight_macs) for s in found.gradients]
        return [step for step in steps if step[3] or step[4]]

    assert costs(meta) == costs(real)
    return meta


def test_two_linear_layers_by_hand() -> None:
    found = both(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.zeros(4, 3))
    assert found.forward.macs == 4 * 3 * 5 + 4 * 5 * 2
    # The first layer's input wants no gradient; every weight costs what its layer's forward costs.
    assert macs(found, at="2") == 2 * 4 * 5 * 2
    assert macs(found, at="0") == 4 * 3 * 5
    assert weights(found) == found.forward.macs
    # A sum over the batch for each bias, a comparison for each unit of the ReLU.
    assert flops(found, at="2") == 4 * 2
    assert flops(found, at="1") == 4 * 5
    assert flops(found, at="0") == 4 * 5
    assert found.trained == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert found.summed == ("output",)


def test_convolutions_cost_twice_their_forward_but_the_first_once() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, stride=2, groups=2), nn.ConvTranspose2d(4, 6, 2)
    )
    found = both(net, torch.zeros(2, 3, 16, 16))
    first, second, third = 2 * 8 * 256 * 27, 2 * 4 * 49 * 36, 2 * 4 * 49 * 24  # 7 x 7 after the stride; 24 = 6 x 2 x 2
    assert found.forward.macs == first + second + third
    assert [macs(found, at=str(i)) for i in range(3)] == [first, 2 * second, 2 * third]
    assert [weights(found, at=str(i)) for i in range(3)] == [first, second, third]
    assert flops(found, at="0") == 2 * 8 * 256  # the bias: a sum over all positions


def test_normalisation_by_hand() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Flatten(), nn.LayerNorm(8 * 4))
    found = both(net, torch.zeros(2, 3, 2, 2))
    n = 2 * 8 * 4
    assert flops(found, at="1") == 8 * n  # two sums of 1 and 3, and 4 for the input
    assert sum(s.weight_flops for s in of(found, "backward", "1")) == 4 * n
    assert flops(found, at="3") == 13 * n
    assert sum(s.weight_flops for s in of(found, "backward", "3")) == 3 * n


def test_frozen_layers_want_no_gradient_and_pass_none_on() -> None:
    net = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(4)))
    layer = 3 * 4 * 4
    # 0 and 1 frozen: nothing flows to them. 3 frozen: it hands on the gradient of its input alone.
    found = both(net, torch.zeros(3, 4), freeze=("0.weight", "1.weight", "3.weight"))
    assert [macs(found, at=str(i)) for i in range(4)] == [0, 0, layer, layer]
    assert [weights(found, at=str(i)) for i in range(4)] == [0, 0, layer, 0]
    assert found.trained == {"2.weight"}
    assert found.frozen == {"0.weight", "1.weight", "3.weight"}
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_requires_grad_of_the_model_is_respected() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False).requires_grad_(False), nn.Linear(4, 4, bias=False))
    found = both(net, torch.zeros(1, 4))
    assert macs(found) == weights(found) == 16
    assert found.frozen == {"0.weight"}


class Checkpointed(nn.Module):
    """Three blocks, the middle one checkpointed."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.middle = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU())
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_computes_the_middle_again(reentrant: bool) -> None:
    found = both(Checkpointed(reentrant), torch.zeros(3, 4))
    first, middle, last = 3 * 16, 3 * (32 + 32), 3 * 8
    assert found.forward.macs == first + middle + last
    assert macs(found, "recomputation") == middle
    assert {step.op.module for step in of(found, "recomputation", None) if step.op.macs} == {"middle.0", "middle.2"}
    # What is computed again: two products with biases and two ReLUs.
    assert flops(found, "recomputation") == 3 * (8 + 8 + 4 + 4)
    assert macs(found) == first + 2 * middle + 2 * last
    assert macs(found, at="middle.0") == 2 * 3 * 32
    assert weights(found) == found.forward.macs


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_stops_where_nothing_more_is_needed(reentrant: bool) -> None:
    """The last product of a block is not computed again, since its gradients need its operands alone; the reentrant
    kind runs the whole block all the same."""
    net = Checkpointed(reentrant)
    net.middle = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    found = both(net, torch.zeros(3, 4))
    assert macs(found, "recomputation") == 3 * 32 * (2 if reentrant else 1)
    assert macs(found) == 3 * 16 + 2 * 3 * 64 + 2 * 3 * 8


def test_shared_weights_are_summed_and_every_call_is_counted() -> None:
    found = both(models.Shared(), torch.zeros(2, 8))
    # a runs three times (the first time its input wants nothing); encoder and decoder hold one weight.
    a, half = 2 * 64, 2 * 32
    assert found.forward.macs == 3 * a + 2 * half
    assert macs(found, at="a") + macs(found, at="b") == 5 * a
    assert weights(found) == found.forward.macs
    # Each weight's gradients are added: two sums of 64 and two of 8 for a, one of 32 for the tied pair; and the
    # gradients of the biases are sums over the batch of 2.
    sums = sum(step.op.flops for step in found.gradients if step.op.name in ("aten.add", "aten.add_"))
    assert sums == 2 * 64 + 2 * 8 + 32
    assert "decoder.weight" not in found.trained  # it goes by its first name


def test_attention_by_hand() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(8, 24, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return F.scaled_dot_product_attention(q, k, v)

    found = both(Attention(), torch.zeros(1, 5, 8))
    scores = 2 * 5 * 5
    assert found.forward.macs == 5 * 8 * 24 + scores * (4 + 4)
    # Both products have two operands that want gradients; of the projection the weight alone.
    assert macs(found) == 5 * 8 * 24 + 2 * scores * (4 + 4)
    assert weights(found) == 5 * 8 * 24
    softmax = [step.op.flops for step in found.gradients if step.op.name == "aten._softmax_backward_data"]
    assert softmax == [4 * scores]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_cost_twice_their_forward(kind: Callable[..., nn.Module]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn = nn.Embedding(10, 4), kind(4, 3, num_layers=2, bidirectional=True)

        def forward(self, ids: Tensor) -> Tensor:
            return self.rnn(self.embed(ids))[0]

    ids = torch.zeros(3, 2, dtype=torch.int64)
    found = record_training(Net(), ids)
    # On a CPU the products of all steps with the input are one: as many MACs, fewer sums.
    assert macs(record_training(Net(), ids, device="real")) == macs(found)
    assert not found.uncounted
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    step = 2 * (gates * 3 * (4 + 3) + gates * 3 * (6 + 3))
    assert found.forward.macs == 3 * 2 * step
    # The state that a direction starts from wants no gradient: one step less for each matrix on the state.
    first = 2 * 2 * 2 * gates * 3 * 3
    assert macs(found, at="rnn") == 2 * found.forward.macs - first
    assert weights(found, at="rnn") == found.forward.macs
    assert flops(found, at="embed") == 3 * 2 * 4  # rows added to the table


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["resnet18", "vit_b_16"])
def test_torchs_counter_agrees_on_products(name: str) -> None:
    """Two FLOPs per MAC of convolutions and products, forward and backward, where torch's counter is right: it
    multiplies the gradients of grouped convolutions by their groups."""
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    x = torch.empty(2, 3, 224, 224, device="meta")
    found = record_training(model, x)
    with FlopCounterMode(display=False) as counter:
        out = model.train()(x)
        out.backward(torch.ones_like(out))
    assert counter.get_total_flops() == 2 * (found.forward.macs + macs(found))


def test_several_outputs_are_summed_and_named() -> None:
    found = both(models.Structured(), torch.zeros(1, 3, dtype=torch.int64))
    assert found.summed == ("scores", "extras.hidden")


def test_a_branch_without_gradient_is_named() -> None:
    found = both(models.Unused(), torch.zeros(1, 4))
    assert found.unreached == ("never.0.weight", "never.0.bias")


def test_autograd_functions_belong_to_the_module_that_called_them() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * ctx.saved_tensors[0] * 2

    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Square.apply(x)

    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, Square.apply(self.weight))

    found = both(nn.Sequential(nn.Linear(3, 4), Module(), Scaled(4, 2)), torch.zeros(2, 3))
    assert flops(found, at="1") == 2 * 2 * 4
    # The gradient of a weight that is squared first is one all the way: 2 products per element of it.
    assert weights(found) == found.forward.macs
    assert sum(step.weight_flops for step in of(found, "backward", "2")) == 2 * 2 * 4


@pytest.mark.parametrize("device", ["meta", "real"])
def test_what_cannot_be_differentiated_is_said(device: str) -> None:
    class NoGrad(nn.Linear):
        @torch.no_grad()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise RuntimeError("no way back")

    class BrokenModule(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Broken.apply(x)

    x = torch.zeros(1, 2)
    with pytest.raises(BadInput, match="no output depends on a parameter that trains"):
        record_training(NoGrad(2, 2), x, device=device)
    with pytest.raises(BadInput, match="every parameter is frozen"):
        record_training(nn.Linear(2, 2), x, device=device, freeze=("weight", "bias"))
    with pytest.raises(ModelRaised, match=r"the backward pass of Sequential\.1 raised RuntimeError: no way back"):
        record_training(nn.Sequential(nn.Linear(2, 2), BrokenModule()), x, device=device)
    with pytest.raises(LoneValueError, match="more than 1 value per channel"):
        record_training(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), x, device=device)
    with pytest.raises(BadInput, match="is TorchScript"):
        record_training(torch.jit.trace(nn.Linear(2, 2), x), x, device=device)


@sees_higher_order
def test_what_runs_inside_a_higher_order_operator_is_differentiated() -> None:
    from torch._higher_order_ops.scan import scan

    class Scan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return scan(lambda state, row: (self.step(state) + row, state), torch.zeros(8, device=x.device), x)[1]

    found = both(Scan(), torch.ones(5, 8))
    assert found.forward.macs == 5 * 64
    # The states before each step come out: the last step leads nowhere, the first starts from nothing learned.
    assert weights(found) == 4 * 64
    assert macs(found) == (4 + 3) * 64


@pytest.mark.zoo
def test_a_recurrent_layer_where_backend_flags_are_locked() -> None:
    code = (
        "import torch; from torch import nn; torch.backends.disable_global_flags(); "
        "from modelprobe.tracing.training import record_training; "
        "found = record_training(nn.LSTM(4, 8), torch.zeros(5, 2, 4)); print(found.forward.macs)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 5 * 2 * 4 * 8 * (4 + 8)
