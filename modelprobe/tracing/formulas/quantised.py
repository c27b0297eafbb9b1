"""What quantised operators cost: the MACs of their counterparts, in whole numbers instead of floating-point ones.

Weights are packed into objects of the backend, which tell their sizes; where the operands' shapes say enough, those
are used. What a result costs to be scaled and rounded again is counted per element (`REQUANTISE`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from modelprobe.tracing.formulas.recurrent import GRU_CELL, LSTM_CELL, RNN_CELL
from modelprobe.tracing.formulas.registry import Cost, formula, free

QUANTISE = 5  # x / scale, rounded, + zero point, and a comparison with either bound
REQUANTISE = 5  # the same from an accumulator: the scales of operands and result make one factor
DEQUANTISE = 2  # (q - zero point) x scale


@formula("aten::quantize_per_tensor", "aten::quantize_per_channel", kind="quantisation")
def quantise(x: Any, *_: Any, out: Any, **__: Any) -> Cost:
    """clamp(round(x / scale) + zero point)."""
    return Cost(0, QUANTISE * (out.numel() if isinstance(out, Tensor) else sum(item.numel() for item in out)))


@formula("aten::quantize_per_tensor_dynamic", kind="quantisation")
def quantise_dynamically(x: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Minimum and maximum first."""
    return Cost(0, (QUANTISE + 2) * out.numel())


@formula("aten::dequantize", kind="quantisation")
def dequantise(x: Any, *_: Any, out: Any, **__: Any) -> Cost:
    """(q - zero point) x scale."""
    return Cost(0, DEQUANTISE * (out.numel() if isinstance(out, Tensor) else sum(item.numel() for item in out)))


@formula(
    "aten::fake_quantize_per_tensor_affine",
    "aten::fake_quantize_per_channel_affine",
    "aten::fake_quantize_per_tensor_affine_cachemask",
    "aten::fake_quantize_per_channel_affine_cachemask",
    "aten::_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "aten::_fake_quantize_learnable_per_tensor_affine",
    "aten::_fake_quantize_learnable_per_channel_affine",
    "aten::_fused_moving_avg_obs_fq_helper",
    "aten::fused_moving_avg_obs_fake_quant",
    kind="quantisation",
)
def fake_quantise(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """There and back."""
    return Cost(0, (QUANTISE + DEQUANTISE) * x.numel())


def _weight_shape(packed: Any) -> list[int]:
    """The shape of a packed weight."""
    try:
        return list(torch.ops.quantized.conv2d_unpack_sizes(packed)[0])
    except (RuntimeError, AttributeError, NotImplementedError):  # 3-D, or a backend that cannot tell
        return list(packed.unpack()[0].shape)


def _register_convolutions() -> None:
    """One dot product with a packed filter per output element, a bias, a ReLU or another summand, rounded again."""
    for dims in (1, 2, 3):
        for suffix, extra in (("", 0), ("_relu", 1), ("_dynamic", 0), ("_add", 1), ("_add_relu", 2)):
            if "_add" in suffix and dims != 2:
                continue
            packed_at = 2 if "_add" in suffix else 1

            def convolution(*args: Any, out: Tensor, extra: int = extra, at: int = packed_at, **_: Any) -> Cost:
                return Cost(
                    out.numel() * math.prod(_weight_shape(args[at])[1:]), out.numel() * (1 + extra + REQUANTISE)
                )

            formula(f"quantized::conv{dims}d{suffix}", kind="conv")(convolution)

        def transposed(x: Tensor, packed: Any, *_: Any, out: Tensor, channel: int = -dims - 1, **__: Any) -> Cost:
            per_site = math.prod(_weight_shape(packed)) // x.shape[channel]
            return Cost(x.numel() * per_site, out.numel() * (1 + REQUANTISE))

        names = [f"quantized::conv_transpose{dims}d", f"quantized::conv_transpose{dims}d_dynamic"]
        formula(*names, kind="conv")(transposed)


_register_convolutions()


def _register_linears() -> None:
    """in_features MACs per output element and the bias; dynamic ones quantise their input first (7 per element)."""
    static = {"linear": 0, "linear_relu": 1, "linear_leaky_relu": 2, "linear_tanh": 1}
    static |= {
        "linear_with_input_q_dq_qweight_dq_output_fp32": 0,
        "linear_with_input_q_dq_qweight_dq_relu_output_fp32": 1,
    }
    dynamic = {"linear_dynamic": 0, "linear_relu_dynamic": 1}
    half = {"linear_dynamic_fp16": 0, "linear_relu_dynamic_fp16": 1}
    for table, per_input, per_output in ((static, 0, REQUANTISE), (dynamic, QUANTISE + 2, DEQUANTISE), (half, 0, 0)):
        for name, extra in table.items():

            def linear(
                x: Tensor, *_: Any, out: Tensor, before: int = per_input, after: int = per_output + extra, **__: Any
            ) -> Cost:
                return Cost(out.numel() * x.shape[-1], before * x.numel() + out.numel() * (1 + after))

            formula(f"quantized::{name}", kind="matmul")(linear)


_register_linears()


@formula("quantized::matmul", kind="matmul")
def matmul(a: Tensor, b: Tensor, *_: Any, out: Tensor) -> Cost:
    """A product of two quantised tensors."""
    return Cost(out.numel() * a.shape[-1], REQUANTISE * out.numel())


_ONE = DEQUANTISE + QUANTISE
_TWO = 2 * DEQUANTISE + QUANTISE
_ELEMENTWISE = {
    "add mul": 1 + _TWO,
    "add_relu mul_relu": 2 + _TWO,
    "add_scalar mul_scalar": 1 + _ONE,
    "add_scalar_relu mul_scalar_relu leaky_relu prelu": 2 + _ONE,
    "sigmoid elu": 4 + _ONE,
    "hardswish celu softmax": 5 + _ONE,
    "layer_norm group_norm instance_norm": 7 + _ONE,
    "batch_norm batch_norm1d batch_norm2d batch_norm3d": 2 + _ONE,
    "batch_norm_relu batch_norm1d_relu batch_norm2d_relu batch_norm3d_relu": 3 + _ONE,
    "cat": _ONE,
    "cat_relu": 1 + _ONE,
    "relu6 clamp": 2,  # bounds that are quantised themselves
    "threshold": 1,
}
"""FLOPs per output element: that of the operator on numbers, between dequantised operands and a quantised result."""


def _register_elementwise() -> None:
    for names, cost in _ELEMENTWISE.items():

        def elementwise(*_: Any, out: Any, cost: int = cost, **__: Any) -> Cost:
            return Cost(0, cost * out.numel())

        kind = "norm" if "norm" in names else "data" if "cat" in names else "elementwise"
        formula(*(f"quantized::{name}" for name in names.split()), kind=kind)(elementwise)


_register_elementwise()


@formula("aten::quantized_batch_norm", kind="norm")
def quantised_batch_norm(x: Tensor, *_: Any, out: Tensor) -> Cost:
    """With stored statistics, folded."""
    return Cost(0, (2 + _ONE) * out.numel())


def _register_pools() -> None:
    """k - 1 comparisons per output element."""
    for dims in (1, 2):

        def maximum(x: Tensor, kernel: Any, *_: Any, out: Tensor, dims: int = dims, **__: Any) -> Cost:
            sizes = list(kernel) * (dims if len(kernel) == 1 else 1)
            return Cost(0, out.numel() * (math.prod(sizes) - 1))

        formula(f"quantized::max_pool{dims}d", kind="pooling")(maximum)


_register_pools()


def _recurrent(args: tuple[Any, ...], gates: int, cell: int) -> Cost:
    """`args` are (input, hx, packed weights, has_biases, layers, dropout, train, bidirectional, ...) or, packed,
    (data, batch_sizes, hx, weights, has_biases, layers, ...). Activations are quantised before every product."""
    x, shift = args[0], 0 if isinstance(args[3], bool) else 1
    states = args[1 + shift]
    hidden = (states if isinstance(states, Tensor) else states[0]).shape[-1]
    has_biases, layers, both = args[3 + shift], args[4 + shift], args[7 + shift]
    width, directions = x.shape[-1], 2 if both else 1
    steps = x.numel() // width if width else 0
    macs = flops = 0
    for _ in range(layers):
        macs += steps * directions * gates * hidden * (width + hidden)
        flops += steps * directions * hidden * (gates * (3 if has_biases else 1) + cell)
        width = directions * hidden
    return Cost(macs, flops)


@formula("aten::quantized_lstm", kind="rnn")
def lstm(*args: Any, out: Any, **_: Any) -> Cost:
    """The LSTM of `recurrent`, its sizes told by the states."""
    return _recurrent(args, 4, LSTM_CELL)


@formula("aten::quantized_gru", kind="rnn")
def gru(*args: Any, out: Any, **_: Any) -> Cost:
    """The GRU of `recurrent`, its sizes told by the states."""
    return _recurrent(args, 3, GRU_CELL)


def _register_cells() -> None:
    """One step: both products, told by the input and the state, biases and gates."""
    for name, gates, each in (
        ("lstm", 4, LSTM_CELL),
        ("gru", 3, GRU_CELL),
        ("rnn_relu", 1, RNN_CELL),
        ("rnn_tanh", 1, RNN_CELL),
    ):

        def cell(x: Tensor, hx: Any, *_: Any, out: Any, gates: int = gates, each: int = each, **__: Any) -> Cost:
            state: Tensor = hx if isinstance(hx, Tensor) else hx[0]
            return Cost(gates * state.numel() * (x.shape[-1] + state.shape[-1]), state.numel() * (3 * gates + each))

        formula(f"quantized::quantized_{name}_cell_dynamic", kind="rnn")(cell)


_register_cells()


@formula("quantized::embedding_byte", "quantized::embedding_4bit", kind="embedding")
def quantised_embedding(weight: Any, indices: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A lookup of rows, and the scaling of their elements."""
    return Cost(0, DEQUANTISE * out.numel())


@formula(
    "bitsandbytes::int8_scaled_mm", "bitsandbytes::int8_linear_matmul", "bitsandbytes::gemm_4bit",
    "bitsandbytes::gemv_4bit", kind="matmul",
)  # fmt: skip
def packed_product(x: Tensor, weight: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A dot product per output element; scales and the unpacking of the weight are not counted."""
    return Cost(out.numel() * x.shape[-1])


@formula("bitsandbytes::int8_vectorwise_quant", kind="quantisation")
def quantise_rows(x: Tensor, *_: Any, out: Any, **__: Any) -> Cost:
    """The largest modulus of each row, then the scaled and rounded elements."""
    return Cost(0, (QUANTISE + 1) * x.numel())


@formula("bitsandbytes::dequantize_4bit", "bitsandbytes::int8_mm_dequant", kind="quantisation")
def dequantise_rows(x: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """Each element by its scales."""
    return Cost(0, DEQUANTISE * out.numel())


@formula("quantized::embedding_bag_byte", "quantized::embedding_bag_4bit", kind="embedding")
def quantised_embedding_bag(weight: Any, indices: Tensor, *_: Any, out: Tensor, **__: Any) -> Cost:
    """A lookup of rows, the scaling of their elements and a sum."""
    return Cost(0, (DEQUANTISE + 1) * indices.numel() * out.shape[-1])


free(
    "data",
    *(
        "quantized::linear_prepack quantized::linear_unpack quantized::conv1d_prepack quantized::conv2d_prepack "
        "quantized::conv3d_prepack quantized::conv1d_unpack quantized::conv2d_unpack quantized::conv3d_unpack "
        "quantized::linear_prepack_fp16 quantized::embedding_bag_prepack quantized::embedding_bag_unpack "
        "quantized::dropout"
    ).split(),
)
