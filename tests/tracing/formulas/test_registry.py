"""The registry as a whole: names that exist, torch's own counter as a second opinion, every module of torch.nn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modelprobe.errors import BadInput
from modelprobe.tracing.dispatch import upper_bound
from modelprobe.tracing.formulas import RULES, formula, rule_for
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.tensors import TensorNumbers
from tests.tracing.by_hand import Expression, both, really, sees_higher_order, zeros

# Operators that torch gained after the oldest version that modelprobe runs on.
NEWER = (2, 13)


def test_every_name_is_an_operator() -> None:
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    for space in ("aten", "quantized"):
        names = [name.partition("::")[2] for name in RULES if name.startswith(f"{space}::")]
        unknown = [name for name in names if not hasattr(getattr(torch.ops, space), name)]
        assert not unknown or version < NEWER, unknown


def test_free_operators_have_no_formula_and_the_others_one() -> None:
    assert all((rule.formula is None) == (rule.status == "free") for rule in RULES.values())


def test_a_name_is_registered_once() -> None:
    with pytest.raises(BadInput, match="has a formula already"):
        formula("aten::conv2d")(lambda *args, out, **kwargs: 0)
    assert rule_for("aten::relu_") is rule_for("aten::relu")
    assert rule_for("aten::nothing") is None


@pytest.mark.parametrize("thing", ["conv2d", torch.relu, 3, nn.Linear])
def test_only_operators_have_formulas(thing: Any) -> None:
    with pytest.raises(BadInput, match="is no operator") as raised:
        formula(thing)(lambda *args, out, **kwargs: 0)
    assert "torch.ops.namespace.name" in raised.value.hint


def test_a_formula_that_raises_is_named_and_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, out: Any, **kwargs: Any) -> int:
        raise ZeroDivisionError("by my own fault")

    monkeypatch.setitem(RULES, "aten::linear", RULES["aten::linear"]._replace(formula=broken))
    found = trace(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.zeros(1, 3))
    assert found.macs == 0
    assert [(item.name, item.count) for item in found.uncounted] == [("aten.linear", 2)]
    assert found.uncounted[0].bound >= 5 * 3 + 2 * 5
    said = [note.text for note in found.notes]
    assert said == ["The formula of aten.linear raised ZeroDivisionError: by my own fault; it is not counted."]


@pytest.mark.parametrize("size", [1, 2, 8])
def test_the_bound_of_what_has_no_formula_is_one(size: int) -> None:
    x, weight, many = torch.empty(8, 16), torch.empty(32, 16), torch.empty(size, size)
    scalar, labels = torch.empty(()), torch.empty(8)
    values = TensorNumbers()

    def bound(operands: Sequence[Tensor], result: Tensor) -> int:
        return upper_bound([values.get(tensor) for tensor in operands], [values.get(result)])

    assert bound([x, weight, labels], scalar) >= 8 * 16 * 32  # a projection inside a loss
    assert bound([many, many], many) >= size**3
    assert bound([torch.empty(size), torch.empty(size)], scalar) >= size**2  # all pairs, added up
    assert bound([many], many) >= 11 * size**3  # singular vectors: 22 n^3 FLOPs


def test_the_bound_holds_for_every_formula_of_the_second_opinions() -> None:
    for name, model, args in SECOND_OPINIONS:
        for op in both(model, *args).ops:
            assert upper_bound(op.inputs, op.outputs) >= op.macs, (name, op.name)


def _attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


SECOND_OPINIONS: list[tuple[str, Callable[..., Any], tuple[Tensor, ...]]] = [
    ("conv1d", nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2), (zeros(2, 4, 17),)),
    ("conv2d", nn.Conv2d(3, 8, (3, 5), padding="same"), (zeros(2, 3, 9, 9),)),
    ("depthwise", nn.Conv2d(8, 8, 3, groups=8), (zeros(1, 8, 6, 6),)),
    ("conv3d", nn.Conv3d(2, 4, (1, 2, 3)), (zeros(1, 2, 3, 4, 5),)),
    ("transposed", nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (zeros(1, 4, 5, 5),)),
    ("linear", nn.Linear(5, 7), (zeros(2, 3, 5),)),
    ("matmul", lambda a, b: a @ b, (zeros(3, 1, 4, 5), zeros(2, 5, 6))),
    ("baddbmm", torch.baddbmm, (zeros(2, 3, 5), zeros(2, 3, 4), zeros(2, 4, 5))),
    ("einsum", lambda a, b: torch.einsum("bij,bkj->bik", a, b), (zeros(2, 3, 4), zeros(2, 5, 4))),
    ("attention", _attention, (zeros(2, 2, 4, 8),)),
    ("encoder", nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (zeros(2, 5, 16),)),
    ("cnn", nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)), (zeros(1, 3, 8, 8),)),
]


@pytest.mark.parametrize(("net", "args"), [case[1:] for case in SECOND_OPINIONS], ids=[c[0] for c in SECOND_OPINIONS])
def test_torch_counts_the_same(net: Callable[..., Any], args: tuple[Tensor, ...]) -> None:
    model = net if isinstance(net, nn.Module) else Expression(net)
    # On meta, with gradients: there attention falls apart into products, for which every version has a formula.
    model, given = model.to("meta").train(), [arg.to("meta") for arg in args]
    with FlopCounterMode(display=False) as counter:
        model(*given)
    assert 2 * trace(model, *given).macs == counter.get_total_flops()


IMAGE, ROW, TOKENS = zeros(2, 8, 6, 6), zeros(2, 8, 6), torch.zeros(2, 3, dtype=torch.int64)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Bilinear": (3, 4, 5),
    "ChannelShuffle": (2,),
    "Embedding": (10, 4),
    "EmbeddingBag": (10, 4),
    "Fold": ((4, 4), 3),
    "FractionalMaxPool2d": (2, 3),
    "FractionalMaxPool3d": (2, 2),
    "GroupNorm": (2, 8),
    "LayerNorm": (6,),
    "LocalResponseNorm": (3,),
    "CrossMapLRN2d": (3,),
    "PixelShuffle": (2,),
    "PixelUnshuffle": (2,),
    "RMSNorm": (6,),
    "Threshold": (0.0, 0.0),
    "Unflatten": (1, (2, 4)),
    "Unfold": (3,),
    "Upsample": (None, 2),
    "UpsamplingBilinear2d": (None, 2),
    "UpsamplingNearest2d": (None, 2),
}
INPUTS: dict[str, tuple[Tensor, ...]] = {
    "Bilinear": (zeros(2, 3), zeros(2, 4)),
    "CosineSimilarity": (zeros(2, 4), zeros(2, 4)),
    "PairwiseDistance": (zeros(2, 4), zeros(2, 4)),
    "Embedding": (TOKENS,),
    "EmbeddingBag": (TOKENS,),
    "Fold": (zeros(1, 18, 4),),
    "FractionalMaxPool3d": (zeros(1, 2, 6, 6, 6),),
}
# Containers and bases; losses take targets; lazy, recurrent and attention modules have tests of their own.
APART = ("Loss", "Lazy", "Transformer", "RNN", "LSTM", "GRU", "Module", "Sequential", "Parameter", "MultiheadAttention")
APART += ("Container", "MaxUnpool", "Buffer", "LinearCrossEntropy", "Base", "DataParallel")


def modules() -> list[str]:
    """The names of torch.nn's modules that can be built and called without more ado."""
    found = [name for name, cls in vars(nn).items() if isinstance(cls, type) and issubclass(cls, nn.Module)]
    return sorted(name for name in found if not any(word in name for word in APART))


def built(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    dims = int(name[-2]) if name[-2:] in ("1d", "2d", "3d") else 2
    space = zeros(2, 8, *[6] * dims)
    if name in ARGUMENTS:
        arguments = ARGUMENTS[name]
    elif name.startswith("Conv"):
        arguments = (8, 4, 3)
    elif "Norm" in name:
        arguments = (8,)
    elif name.startswith("Linear"):
        arguments = (6, 4)
    elif "LPPool" in name:
        arguments = (2, 2)
    elif "Pool" in name or "Pad" in name:
        arguments = (2,)
    else:
        arguments = ()
    if name == "ConstantPad" + name[-2:]:
        arguments = (2, 0.0)
    return getattr(nn, name)(*arguments), INPUTS.get(name, (space,))


@pytest.mark.parametrize("name", modules())
def test_every_module_is_counted_alike_on_meta_and_for_real(name: str) -> None:
    net, args = built(name)
    both(net, *args)


@sees_higher_order
def test_bodies_of_higher_order_operators_are_entered() -> None:
    x = zeros(3, 3)
    taken = really(lambda x: torch.cond(x.sum() == 0, lambda y: y @ y, lambda y: y, (x,)), x)
    assert taken.macs == 27
    loops = pytest.importorskip("torch._higher_order_ops")
    start = torch.zeros((), dtype=torch.int64)
    rounds = really(lambda i, x: loops.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y @ y), (i, x)), start, x)
    assert rounds.macs == 3 * 27
    scanned = both(lambda x: loops.scan(lambda c, y: (c + y, c @ y), x[0], x), zeros(4, 3, 3))
    assert scanned.macs == 4 * 27


def test_scripts_without_hooks_and_kernels_out_of_sight() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    x = zeros(1, 3, 8, 8)
    expected = 4 * 36 * 27 + 144 * 2
    assert trace(net, x).macs == expected
    assert trace(torch.jit.script(net), x).macs == expected
    frozen = torch.jit.optimize_for_inference(torch.jit.script(net))
    if "mkldnn_convolution" in str(frozen.inlined_graph):
        assert "Not counted: 1 x prim::mkldnn_convolution" in trace(frozen, x).notes[0].text
