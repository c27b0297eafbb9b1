"""What each operator of a backward pass costs, by the derivative written beside it, on meta as for real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelprobe.tracing.formulas import RULES, Cost
from modelprobe.tracing.formulas.backward.recurrent import GRU_CELL_BACKWARD, LSTM_CELL_BACKWARD
from modelprobe.tracing.step_records import TrainingTrace
from modelprobe.tracing.training import record_training


class Learned(nn.Module):
    """A function of parameters, and of what is no parameter."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.learned = nn.ParameterList(nn.Parameter(torch.rand(shape)) for shape in shapes)

    def forward(self, *args: Any) -> Any:
        return self.function(*self.learned, *args)


def backward(function: Callable[..., Any], *shapes: tuple[int, ...], given: tuple[Any, ...] = ()) -> TrainingTrace:
    """The step on meta, once a real run is known to cost the same."""
    torch.manual_seed(0)
    model = Learned(function, *shapes)
    meta, real = record_training(model, *given), record_training(model, *given, device="real")
    assert not meta.uncounted
    assert not real.uncounted
    assert total(meta) == total(real)
    return meta


def total(found: TrainingTrace) -> tuple[int, int]:
    """MACs and other FLOPs of the backward pass. Some devices run an operator whole that others run in parts."""
    return sum(step.op.macs for step in found.gradients), sum(step.op.flops for step in found.gradients)


ELEMENTWISE: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "threshold": (F.relu, 1),
    "leaky_relu": (F.leaky_relu, 2),
    "hardtanh": (F.hardtanh, 2),
    "hardshrink": (F.hardshrink, 2),
    "softshrink": (F.softshrink, 2),
    "sigmoid": (torch.sigmoid, 3),  # g y (1 - y)
    "tanh": (torch.tanh, 3),  # g (1 - y y)
    "logit": (torch.logit, 3),  # g / (x (1 - x))
    "hardsigmoid": (F.hardsigmoid, 3),
    "log_sigmoid": (F.logsigmoid, 3),
    "softplus": (F.softplus, 4),  # z = exp(x): g z / (1 + z)
    "elu": (F.elu, 4),
    "hardswish": (F.hardswish, 5),
    "silu": (F.silu, 9),  # sigmoid 4; 1 - s, x (..), 1 + .., s (..), g (..)
    "gelu": (F.gelu, 11),
    "_softmax": (lambda x: x.softmax(-1), 4),  # y (g - sum(g y))
    "_log_softmax": (lambda x: x.log_softmax(-1), 4),  # g - exp(y) sum(g)
    "select": (lambda x: x[0], 0),
    "slice": (lambda x: x.narrow(1, 0, 2), 0),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_per_element(name: str) -> None:
    function, each = ELEMENTWISE[name]
    found = backward(function, (3, 4))
    data = "_data" if "softmax" in name else ""
    (op,) = [step.op for step in found.gradients if step.op.name == f"aten.{name}_backward{data}"]
    assert (op.macs, op.flops) == (0, each * 12)


def only(found: TrainingTrace, name: str) -> tuple[int, int]:
    """MACs and other FLOPs of the one call of an operator."""
    (op,) = [step.op for step in found.gradients if step.op.name == name]
    return op.macs, op.flops


def test_activations_with_a_formula_of_their_own() -> None:
    tanh = backward(lambda x: F.gelu(x, approximate="tanh"), (12,))
    assert only(tanh, "aten.gelu_backward") == (0, 18 * 12)
    assert only(backward(F.glu, (3, 8)), "aten.glu_backward") == (0, 8 * 3 * 4)
    # A comparison and a product each for the input and the slope, of which there is one per channel.
    assert only(backward(F.prelu, (2, 3, 5), (3,)), "aten._prelu_kernel_backward") == (0, 4 * 30)
    dropped = backward(lambda x: F.dropout(x, 0.5), (12,))
    assert total(dropped) == (0, 12)  # a product with the mask, which the forward has scaled
    # t = tanh(log1p(exp(x))) 3, s = sigmoid(x) 4: g (t + x s (1 - t t)), 6 more.
    assert total(backward(F.mish, (12,))) == (0, 13 * 12)


POOLS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...], int]] = {
    # name -> function, shape, FLOPs
    "max_pool2d_with_indices": (lambda x: F.max_pool2d(x, 2), (1, 3, 8, 8), 3 * 16),
    "max_pool3d_with_indices": (lambda x: F.max_pool3d(x, 2), (1, 3, 4, 4, 4), 3 * 8),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, 3), (1, 2, 9, 9), 2 * 9),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2), (1, 3, 7, 7), 3 * 9 * (9 + 1)),
    "avg_pool3d": (lambda x: F.avg_pool3d(x, 2), (1, 3, 4, 4, 4), 3 * 8 * (8 + 1)),
    "_adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, 2), (1, 3, 6, 6), 3 * (36 + 4)),
    "_adaptive_avg_pool3d": (lambda x: F.adaptive_avg_pool3d(x, 2), (1, 3, 4, 4, 4), 3 * (64 + 8)),
    "upsample_nearest2d": (lambda x: F.interpolate(x, scale_factor=2), (1, 3, 4, 4), 3 * 64),
    "upsample_linear1d": (lambda x: F.interpolate(x, 8, mode="linear"), (1, 3, 4), 4 * 3 * 8),
    "upsample_bilinear2d": (lambda x: F.interpolate(x, 8, mode="bilinear"), (1, 3, 4, 4), 8 * 3 * 64),
    "upsample_bicubic2d": (lambda x: F.interpolate(x, 8, mode="bicubic"), (1, 3, 4, 4), 36 * 3 * 64),
    "upsample_trilinear3d": (lambda x: F.interpolate(x, 4, mode="trilinear"), (1, 3, 2, 2, 2), 16 * 3 * 64),
    # Halved, every output has 4 taps along an axis, 3 at either edge: 14 across 4 outputs; a product and a sum each.
    "_upsample_bilinear2d_aa": (
        lambda x: F.interpolate(x, 4, mode="bilinear", antialias=True),
        (1, 3, 8, 8),
        3 * 2 * (8 * 14 + 4 * 14),
    ),
    "reflection_pad2d": (lambda x: F.pad(x, (1, 1, 1, 1), "reflect"), (1, 3, 4, 4), 3 * 36),
    "replication_pad1d": (lambda x: F.pad(x, (2, 0), "replicate"), (1, 3, 4), 3 * 6),
    "unfold": (lambda x: x.unfold(1, 3, 1), (2, 5), 2 * 3 * 3),
}


@pytest.mark.parametrize("name", POOLS)
def test_what_was_gathered_is_scattered(name: str) -> None:
    function, shape, flops = POOLS[name]
    assert only(backward(function, shape), f"aten.{name}_backward") == (0, flops)


@pytest.mark.parametrize(("mode", "taps", "each"), [("bilinear", 4, 24), ("nearest", 0.5, 0), ("bicubic", 16, 96)])
def test_grid_sample(mode: str, taps: float, each: int) -> None:
    found = backward(lambda x, grid: F.grid_sample(x, grid, mode, align_corners=False), (1, 3, 4, 4), (1, 5, 5, 2))
    points, elements = 25, 3 * 25
    # Each coordinate to pixels 3, four weights (the nearest has none); a product and a sum per tap for the input; per
    # tap and coordinate two products and a sum for the grid, whose two coordinates are scaled.
    shared = points * (6 + (0 if mode == "nearest" else 4))
    to_grid = elements * each + (points * 2 if each else 0)
    assert only(found, "aten.grid_sampler_2d_backward") == (0, shared + int(elements * 2 * taps) + to_grid)


def test_embeddings() -> None:
    ids = torch.zeros(2, 3, dtype=torch.int64)
    found = backward(lambda table, ids: F.embedding(ids, table), (10, 4), given=(ids,))
    assert only(found, "aten.embedding_dense_backward") == (0, 2 * 3 * 4)
    often = backward(lambda table, ids: F.embedding(ids, table, scale_grad_by_freq=True), (10, 4), given=(ids,))
    assert only(often, "aten.embedding_dense_backward") == (0, 2 * 3 * 4 * 2)
    for mode, each in (("sum", 1), ("mean", 2)):
        bags = backward(lambda table, ids, mode=mode: F.embedding_bag(ids, table, mode=mode), (10, 4), given=(ids,))
        assert total(bags) == (0, 2 * 3 * 4 * each)


def test_norms() -> None:
    groups = backward(lambda x, w, b: F.group_norm(x, 2, w, b), (2, 4, 3, 3), (4,), (4,))
    assert only(groups, "aten.native_group_norm_backward") == (0, 13 * 72)
    plain = backward(lambda x: F.layer_norm(x, (4,)), (3, 4))
    assert only(plain, "aten.native_layer_norm_backward") == (0, 9 * 12)
    running = (torch.zeros(4), torch.ones(4))
    stored = backward(lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b), (2, 4, 3), (4,), (4,), given=running)
    assert only(stored, "aten.native_batch_norm_backward") == (0, 5 * 24)
    # Without weight and bias both sums are the input's.
    bare = backward(lambda x: F.instance_norm(x), (2, 4, 3))
    assert only(bare, "aten.native_batch_norm_backward") == (0, 8 * 24)
    normed = backward(lambda v, g: torch._weight_norm_interface(v, g, 0)[0], (4, 6), (4, 1))
    assert only(normed, "aten._weight_norm_interface_backward") == (0, 5 * 24)


def test_distances() -> None:
    found = backward(lambda a, b: torch.cdist(a, b, p=1.0), (3, 5), (4, 5))
    # For a and for b: a difference, a sign, a product and a sum per pair and coordinate.
    assert sum(step.op.flops for step in found.gradients if step.op.name == "aten._cdist_backward") == 2 * 12 * 5 * 4


def test_losses() -> None:
    x = torch.rand(3, 4)
    assert only(backward(lambda p, x: F.mse_loss(p, x), (3, 4), given=(x,)), "aten.mse_loss_backward") == (0, 36)
    target = torch.zeros(3, dtype=torch.int64)
    crossed = backward(lambda p, t: F.cross_entropy(p, t), (3, 4), given=(target,))
    assert only(crossed, "aten.nll_loss_backward") == (0, 2 * 3)
    assert only(crossed, "aten._log_softmax_backward_data") == (0, 4 * 12)


def test_deformable_convolution_and_regions() -> None:
    ops = pytest.importorskip("torchvision").ops
    shapes = ((1, 2, 6, 6), (4, 2, 3, 3), (1, 18, 4, 4), (1, 9, 4, 4))
    found = backward(lambda x, w, offset, mask: ops.deform_conv2d(x, offset, w, mask=mask), *shapes)
    forward, taps = 4 * 16 * 18, 16 * 2 * 9
    flops = taps * (8 + 1) + taps * (7 + 1) + taps * 2 * (9 + 1) + taps * 9 + 4 * 16
    assert only(found, "torchvision._deform_conv2d_backward") == (2 * forward, flops)
    boxes = torch.tensor([[0.0, 0, 0, 4, 4]])
    regions = backward(lambda x, b: ops.roi_align(x, b, 2, sampling_ratio=2), (1, 3, 8, 8), given=(boxes,))
    assert only(regions, "torchvision._roi_align_backward") == (0, 3 * 4 * (1 + 8 * 4))
    pooled = backward(lambda x, b: ops.roi_pool(x, b, 2), (1, 3, 8, 8), given=(boxes,))
    assert only(pooled, "torchvision._roi_pool_backward") == (0, 3 * 4)


def test_fused_attention_computes_its_scores_again() -> None:
    """The CPU's kernel, called by its name: five products for the forward's two."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]

    found = backward(attend, (1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8))
    scores = 2 * 5 * 7
    op = only(found, "aten._scaled_dot_product_flash_attention_for_cpu_backward")
    assert op == (scores * 5 * 8, scores * 6 + 2 * 2 * 5 * 8)
    assert found.forward.macs == scores * 2 * 8


def test_kernels_of_other_devices_by_their_arguments() -> None:
    q, k, v = torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 7, 8), torch.zeros(1, 2, 7, 4)
    out, none = torch.zeros(1, 2, 5, 4), torch.zeros(0)
    scores, d = 2 * 5 * 7, 2 * out.numel()

    def cost(name: str, *args: Any) -> Cost:
        rule = RULES[f"aten::{name}"]
        assert rule.formula is not None
        return rule.formula(*args, out=(q, k, v))

    macs = scores * (3 * 8 + 2 * 4)
    start = (out, q, k, v)
    flash = cost(
        "_scaled_dot_product_flash_attention_backward", *start, out, none, None, None, 5, 7, 0.1, False, none, none
    )
    assert flash == (macs, scores * 10 + d, None, None)
    bias = torch.zeros(1, 2, 5, 7)
    efficient = cost(
        "_scaled_dot_product_efficient_attention_backward", *start, bias, out, none, none, none, 0.0, [True] * 4, False
    )
    assert efficient == (macs, scores * 7 + d + scores, None, None)
    cudnn = cost(
        "_scaled_dot_product_cudnn_attention_backward",
        *start,
        out,
        none,
        none,
        none,
        none,
        None,
        None,
        5,
        7,
        0.0,
        False,
    )
    assert cudnn == (macs, scores * 6 + d, None, None)


def test_recurrent_kernels_by_their_arguments() -> None:
    x, w_ih, w_hh, b = torch.zeros(7, 2, 4), torch.zeros(12, 4), torch.zeros(12, 3), torch.zeros(12)
    rule = RULES["aten::mkldnn_rnn_layer_backward"]
    assert rule.formula is not None
    # 14 steps of a batch of 2 x 7; every weight takes part in a product for its operand and in one for itself.
    found = rule.formula(x, w_ih, w_hh, b, b, out=None)
    assert found == Cost(2 * 14 * (48 + 36), 14 * 12 + 14 * 3 * LSTM_CELL_BACKWARD)
    gates = RULES["aten::_thnn_fused_gru_cell_backward"]
    assert gates.formula is not None
    cell = gates.formula(torch.zeros(2, 3), torch.zeros(2, 15), True, out=None)
    assert cell == Cost(0, 6 * (GRU_CELL_BACKWARD + 6))
