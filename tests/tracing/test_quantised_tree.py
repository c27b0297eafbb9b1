"""Weights that are kept in another form are counted by what they stand for, and by the bytes that they take."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelprobe.tracing.module_tree import read_tree

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")


def sizes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], str, int]]:
    tree = read_tree(model)
    return {entry.path: (entry.shape, entry.dtype, entry.nbytes) for entry in tree.unique_state()}


def test_packed_weights_of_torch_ao() -> None:
    model = torch.ao.quantization.quantize_dynamic(
        nn.ModuleDict({"fc": nn.Linear(16, 32), "rnn": nn.LSTM(4, 4)}), {nn.Linear, nn.LSTM}
    )
    found = sizes(model)
    assert found["fc.weight"] == ((32, 16), "qint8", 512 + 16)
    assert found["fc.bias"] == ((32,), "float32", 128)
    assert read_tree(model).parameter_count() == 32 * 17 + 2 * (16 * 4 + 16)
    assert not any(entry.requires_grad for entry in read_tree(model).state)


def test_a_scale_per_channel() -> None:
    layer = torch.ao.nn.quantized.Conv2d(3, 8, 3)
    layer.set_weight_bias(
        torch.quantize_per_channel(
            torch.ones(8, 3, 3, 3), torch.ones(8).double(), torch.zeros(8).long(), 0, torch.qint8
        ),
        torch.zeros(8),
    )
    assert sizes(layer)["weight"] == ((8, 3, 3, 3), "qint8", 216 + 8 * 16)


class Packed4Bit(torch.Tensor):
    """As bitsandbytes keeps four-bit weights: two in a byte, the shape in `quant_state`."""


def test_the_shape_of_four_bit_weights_is_the_logical_one() -> None:
    class State:
        shape = torch.Size([32, 16])

    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(256, 1, dtype=torch.uint8), requires_grad=False)
    model.weight.quant_state = State()
    assert sizes(model)["weight"] == ((32, 16), "uint8", 256)


def test_wrappers_take_the_bytes_of_what_is_inside() -> None:
    nested = torch.nested.nested_tensor([torch.zeros(3, 4), torch.zeros(5, 4)], layout=torch.jagged)
    model = nn.Module()
    model.register_buffer("table", nested)
    assert sizes(model)["table"][2] >= 8 * 4 * 4
