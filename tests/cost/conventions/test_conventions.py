"""What other tools would say of tiny nets, by hand: the conventions without the tools."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import Tensor, nn

from modelprobe.cost.conventions import CONVENTIONS, count, find_convention
from modelprobe.cost.conventions.einsum import contraction_macs
from modelprobe.cost.conventions.report import count_by_convention
from modelprobe.tracing.recorder import trace
from tests.tracing.by_hand import Expression, zeros

BLOCK = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
IMAGE = zeros(1, 3, 6, 6)
CONV = 4 * 6 * 6 * 3 * 3 * 3  # 4 x 36 positions x 27 taps = 3,888 MACs
MADE = 4 * 6 * 6  # 144 elements put out by the convolution


def totals(model: nn.Module | Callable[..., object], *inputs: Tensor) -> dict[str, int]:
    """Every convention's total of one recorded forward pass."""
    module = model if isinstance(model, nn.Module) else Expression(model)
    found = trace(module, *inputs, functions=True)
    return {name: count(found, name).total for name in CONVENTIONS}


def test_a_convolution_block() -> None:
    assert totals(BLOCK, IMAGE) == {
        "torchvision": CONV,
        "torch": 2 * CONV,  # two FLOPs a MAC
        "fvcore": CONV + 2 * MADE + MADE,  # batch norm 2 per element, the pooling 1 per element of its input
        "thop": CONV + 4 * MADE + (36 + 1) * 4,  # batch norm 4; each mean 36 sums and a division
        "torchinfo": (4 * 27 + 4) * 36 + 8,  # parameters x positions, and those of batch norm once
        # the bias, batch norm 2; ReLU and pooling by the module and again by the function
        "ptflops": CONV + MADE + 2 * MADE + 2 * MADE + 2 * MADE,
        "ptflops-aten": CONV + MADE,
    }


def test_a_linear_layer_with_a_bias() -> None:
    found = totals(nn.Linear(5, 7), zeros(2, 3, 5))
    macs = 2 * 3 * 5 * 7  # 210
    assert found == {
        "torchvision": macs,
        "torch": 2 * macs,
        "fvcore": macs,
        "thop": macs,
        "torchinfo": 2 * (35 + 7),  # parameters once per sample: positions are not seen
        "ptflops": (macs + 2 * 3 * 7) // 2,  # with the bias, divided by the batch
        "ptflops-aten": macs + 2 * 3 * 7,
    }


def test_a_bias_added_after_a_product_is_not_part_of_it() -> None:
    # [1, 4, 3] transposed is not contiguous: mm and add, not addmm
    turned = Expression(lambda x, w, b: F.linear(x.transpose(1, 2), w, b))
    found = trace(turned, zeros(1, 4, 3), zeros(5, 4), zeros(5))
    assert count(found, "ptflops-aten").total == 3 * 4 * 5


def test_functional_and_operator_spellings() -> None:
    found = totals(lambda x: torch.mul(F.relu(x), x) + x.mul(x) * x, zeros(2, 8))
    assert found["ptflops"] == 3 * 16  # F.relu, torch.mul, x.mul; neither * nor +
    assert found["thop"] == found["fvcore"] == found["torchinfo"] == 0


def test_products_that_broadcast() -> None:
    found = totals(lambda a, b: a @ b, zeros(3, 4), zeros(5, 4, 6))
    assert found["torchvision"] == 5 * 3 * 4 * 6  # 360
    assert found["fvcore"] == 3 * 4 * 6  # the first operand as it is, not as it is broadcast
    assert found["ptflops"] == 0  # spelled @
    assert totals(lambda a, b: a @ b, zeros(3, 4), zeros(4))["torch"] == 0  # a vector: mv has no formula


def test_attention() -> None:
    query = zeros(1, 2, 5, 8)
    found = totals(F.scaled_dot_product_attention, query, query, query)
    macs = 2 * 5 * 5 * (8 + 8)  # 800
    assert (found["torchvision"], found["torch"]) == (macs, 2 * macs)
    assert found["fvcore"] == found["thop"] == found["ptflops-aten"] == 0
    narrow = totals(F.scaled_dot_product_attention, query, query, zeros(1, 2, 5, 4))
    assert narrow["ptflops-aten"] == 2 * 5 * 5 * (8 + 4)  # unequal widths: no fused kernel, two products


def test_multi_head_attention() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = zeros(1, 3, 8)
    found = totals(lambda x: model(x, x, x), x)
    projections = 4 * 3 * 8 * 8  # 768
    assert found["torchinfo"] == 0  # its parameters are its own, and it has a child
    assert found["fvcore"] == projections + 2 * 2 * 3 * 3 * 4  # weights are asked for: two products of 72
    assert found["thop"] == 0


def test_what_does_not_reach_the_result_is_not_in_a_graph() -> None:
    class Wasteful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.wasted = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.wasted(x).relu_()
            return self.used(x)  # type: ignore[no-any-return]

    found = totals(Wasteful(), zeros(1, 4))
    assert (found["fvcore"], found["torchvision"]) == (16, 32)


def test_a_shared_module_counts_squared_for_thop() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.Linear(4, 4)
            self.first, self.second = nn.Sequential(layer), nn.Sequential(layer)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))  # type: ignore[no-any-return]

    # 2 calls x 16 MACs, hooked at 2 places, read at 2 places
    assert totals(Shared(), zeros(1, 4))["thop"] == 2 * 16 * 2 * 2


def test_two_names_in_one_parent_count_once_for_thop() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))  # type: ignore[no-any-return]

    assert totals(Twice(), zeros(1, 4))["thop"] == 2 * 16


def test_a_subclass_is_another_class() -> None:
    class MyLinear(nn.Linear):
        pass

    found = totals(nn.Sequential(MyLinear(4, 4, bias=False)), zeros(1, 4))
    assert (found["thop"], found["ptflops"], found["torchinfo"], found["fvcore"]) == (0, 0, 16, 16)


def test_recurrent_layers() -> None:
    found = totals(Expression(nn.GRU(3, 4)), zeros(5, 1, 3))
    weights, steps = 12 * 3 + 12 * 4, 5
    assert found["torch"] == 2 * steps * weights
    assert found["fvcore"] == 0
    assert found["thop"] == steps * 4 * (3 * (3 + 4 + 1 + 2) + 4)  # gates of 10, four more of the state
    assert found["ptflops-aten"] == steps * (weights + 24)  # both biases are part of addmm


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)], 2 * 3 * 4 * 5),
        ("i,j->ij", [(40,), (50,)], 1000),  # no sum: (40 x 50 + 1) / 2, rounded down
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),
        ("ij,jk->ik", [(111, 111), (111, 111)], 1_367_500),  # 2 x 111^3 + 1 = 2,735,263, printed 2.735e+06
    ],
)
def test_einsum_as_numpy_reports_it(equation: str, shapes: list[tuple[int, ...]], macs: int) -> None:
    assert contraction_macs(equation, shapes) == macs


def test_einsum_is_one_operator_for_fvcore() -> None:
    found = trace(Expression(lambda a, b: torch.einsum("ij,jk->ik", a, b)), zeros(111, 111), zeros(111, 111))
    assert (count(found, "fvcore").total, count(found, "torchvision").total) == (1_367_500, 111**3)
    assert count(found, "fvcore").activations == 111 * 111


def test_the_watched_functions_are_put_back() -> None:
    before = (F.relu, torch.mul, "mul" in vars(Tensor))

    def fails(x: Tensor) -> Tensor:
        raise ValueError("in the middle")

    with pytest.raises(Exception, match="in the middle"):
        trace(Expression(fails), zeros(1), functions=True)
    assert (F.relu, torch.mul, "mul" in vars(Tensor)) == before


@pytest.mark.parametrize("by", ["module", "operator", "kind", "call"])
@pytest.mark.parametrize("name", list(CONVENTIONS))
def test_rows_add_up_to_the_total(name: str, by: str) -> None:
    found = trace(BLOCK, IMAGE, functions=True)
    result = count_by_convention(found, name, by=by, depth=99)
    tops = [row for row in result.rows if row.depth == 0]
    assert sum(row.amount for row in tops) == result.total
    assert sum(row.counted for row in result.differences) == result.macs
    assert result.report().notes


def test_functions_are_those_that_the_model_calls() -> None:
    """Linear layers whose input does not lie in rows are taken apart to follow their memory."""
    layer = nn.Linear(3, 4)
    found = trace(Expression(lambda x: layer(x.transpose(1, 2))), zeros(2, 3, 5), functions=True)
    assert [call.name for call in found.functions] == []
    assert count(
        trace(nn.Sequential(layer), zeros(2, 5, 3).mT.contiguous().mT, functions=True), "ptflops"
    ).total == 5 * (3 * 4 + 4)


def test_packed_sequences_are_unrolled() -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([5, 2]), enforce_sorted=True)
            return self.lstm(packed)[0].data  # type: ignore[no-any-return]

    found = trace(Packed(), torch.zeros(5, 2, 3), device="real", functions=True)
    weights, steps = 16 * 3 + 16 * 4, 5 + 2  # 112; 7 real steps of two sequences
    assert found.macs == steps * weights
    assert count(found, "torch").total == 2 * steps * weights
    assert count(found, "ptflops-aten").total == steps * (weights + 2 * 16)  # both biases
    # the longest sequence for both: 4 gates of 3 + 4 + 1 + 2 and 4 more of the state
    assert count(found, "thop").total == 5 * 2 * 4 * (4 * (3 + 4 + 1 + 2) + 4)


def test_an_lstm_with_projections_or_double_precision_is_unrolled() -> None:
    x = zeros(5, 1, 3)
    assert totals(Expression(nn.LSTM(3, 4)), x)["torch"] == 0  # one kernel
    assert totals(Expression(nn.LSTM(3, 4).double()), x.double())["torch"] == 2 * 5 * 16 * (3 + 4)
    # projected to 2: gates of 3 + 2, and 4 x 2 for the projection
    assert totals(Expression(nn.LSTM(3, 4, proj_size=2)), x)["torch"] == 2 * 5 * (16 * (3 + 2) + 4 * 2)


def test_ptflops_averages_over_a_tensor_or_a_list() -> None:
    layer = nn.Linear(4, 4, bias=False)
    two = zeros(2, 4)
    assert count(trace(layer, two, functions=True), "ptflops").total == 16
    listed = Expression(lambda images: layer(images[0]) + layer(images[1]))
    listed.layer = layer
    assert count(trace(listed, [two, two], functions=True), "ptflops").total == 2 * 32 // 2
    named = Expression(lambda a, b: layer(a) + layer(b))
    named.layer = layer
    assert count(trace(named, two, two, functions=True), "ptflops").total == 2 * 32


def test_fvcore_alone_sees_no_fused_attention_of_timm() -> None:
    convention = find_convention("fvcore")
    found = trace(BLOCK, IMAGE, functions=True)
    assert convention.predict(found).total == convention.count(found).total  # no attention


def test_torch_before_2_15_does_not_see_the_cpus_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import flop_counter

    query = zeros(1, 2, 5, 8)
    found = trace(Expression(lambda q: F.scaled_dot_product_attention(q, q, q) @ q.mT), query)
    macs = 2 * 5 * 5 * (8 + 8) + 2 * 5 * 8 * 5
    without = {key: value for key, value in flop_counter.flop_registry.items() if "for_cpu" not in str(key)}
    monkeypatch.setattr(flop_counter, "flop_registry", without)
    assert find_convention("torch").predict(found).total == 2 * 2 * 5 * 8 * 5
    assert count(found, "torch").total == 2 * macs
    kernel = "aten._scaled_dot_product_flash_attention_for_cpu"
    monkeypatch.setattr(flop_counter, "flop_registry", {**without, kernel: None})
    assert find_convention("torch").predict(found).total == 2 * macs


def test_what_a_module_counts_is_parted_over_the_kinds_it_runs() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True)
    x = zeros(1, 3, 8)
    found = count(trace(Expression(lambda x: model(x, x, x, need_weights=False)), x, functions=True), "ptflops")
    assert found.total == 0  # in no module of the model: nothing is hooked
    inside = Expression(lambda x: model(x, x, x, need_weights=False))
    inside.attention = model
    parted = count(trace(inside, x, functions=True), "ptflops").by(lambda item: item.kind)
    # projections 4 x 3 x 8 x 8, attention 2 heads x 3 x 3 x (4 + 4): the surplus goes to both in proportion
    # scaling 24, projections 576 + 72, scores, softmax and sum 162, the last one 192 + 24: 1,050 in all
    assert parted == {"matmul": 1050 * 768 // (768 + 144), "attention": 1050 - 884}


def test_parts_that_the_tool_treats_otherwise_are_said() -> None:
    pruned = nn.Sequential(nn.Linear(4, 4))
    nn.utils.prune.l1_unstructured(pruned[0], "weight", 0.5)
    said = count_by_convention(trace(pruned, torch.zeros(1, 4)), "torchinfo").notes
    assert [note.text for note in said if "prune" in note.text]
    assert not count_by_convention(trace(nn.Linear(4, 4), torch.zeros(1, 4)), "torchinfo").notes
