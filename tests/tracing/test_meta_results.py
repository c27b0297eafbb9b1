"""A result that was kept is what the operator itself would give: shape, dtype, strides, memory, or its error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from modelprobe.errors import ModelRaised
from modelprobe.tracing.meta_results import MetaResults
from modelprobe.tracing.recorder import trace

aten = torch.ops.aten


def same(found: Any, expected: Any) -> None:
    """Equal in everything that a later operator can see."""
    if isinstance(expected, (list, tuple)):
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            same(a, b)
    elif expected is None:
        assert found is None
    else:
        assert found.is_meta
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert found.stride() == expected.stride()


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


class Counted:
    """A function that remembers how often it was called."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return self.function(*args, **kwargs)


CASES: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
    (aten.conv2d.default, (meta(2, 3, 9, 9), nn.Parameter(meta(4, 3, 3, 3)), meta(4), [2, 2], [1, 1]), {}),
    (aten.batch_norm.default, (meta(2, 6, 5), *[meta(6)] * 4, False, 0.1, 1e-5, False), {}),
    (aten.native_batch_norm.default, (meta(2, 6, 5), *[meta(6)] * 4, True, 0.1, 1e-5), {}),
    (aten.native_layer_norm_backward.default, (*[meta(4, 6)] * 2, [6], *[meta(4, 1)] * 2, None, None, [True] * 3), {}),
    (aten.add.Tensor, (meta(2, 1, 4).transpose(0, 2), meta(3, 1)), {}),
    (aten.div.Tensor, (meta(2, dtype=torch.int64), 2), {}),
    (aten.cat.default, ([meta(1, 3), meta(4, 3)],), {}),
    (aten.gelu.default, (meta(2, 3),), {"approximate": "tanh"}),
    (aten.relu.default, (meta(2, 6, 5, 4).to(memory_format=torch.channels_last),), {}),
    (aten.max_pool2d_with_indices.default, (meta(1, 3, 8, 8), [2, 2]), {}),
    (aten.sum.dim_IntList, (meta(2, 3), [1], True), {"dtype": torch.float64}),
]


@pytest.mark.parametrize(("operator", "args", "kwargs"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_the_second_result_is_as_the_first(operator: Callable[..., Any], args: Any, kwargs: Any) -> None:
    results, counted = MetaResults(), Counted(operator)
    expected = operator(*args, **kwargs)
    for _ in range(3):
        same(results.call(counted, args, kwargs), expected)
    assert counted.calls == 1


@pytest.mark.parametrize(
    "other",
    [
        (meta(2, 3), 1.0),
        (meta(2, 3), True),
        (meta(3, 2).T, 1),
        (meta(3, 2), 1),
        (meta(2, 3, dtype=torch.float16), 1),
        (meta(2, 3), 2),
    ],
)
def test_whatever_differs_is_asked_again(other: Any) -> None:
    results, counted = MetaResults(), Counted(aten.add.Scalar)
    results.call(counted, (meta(2, 3), 1), {})
    same(results.call(counted, other, {}), aten.add.Scalar(*other))
    assert counted.calls == 2


def test_the_default_dtype_counts() -> None:
    results, whole = MetaResults(), meta(2, dtype=torch.int64)
    assert results.call(aten.sqrt.default, (whole,), {}).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert results.call(aten.sqrt.default, (whole,), {}).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (aten.dropout.default, (meta(2, 3), 0.5, False)),  # returns what it was given
        (aten._unsafe_view.default, (meta(2, 3), [6])),  # shares its memory, and its schema does not say so
        (aten.add.Tensor, (torch.ones(2, 3), torch.ones(2, 3))),
        (aten.mul.Tensor, (meta(2, 3, dtype=torch.complex64), 2)),
        (aten.add.Tensor, (meta(2, 3), torch.ones(()))),  # a number on the CPU
    ],
)
def test_what_shape_strides_and_dtype_do_not_tell_is_not_kept(operator: Callable[..., Any], args: Any) -> None:
    results, counted = MetaResults(), Counted(operator)
    for _ in range(3):
        results.call(counted, args, {})
    assert counted.calls == 3


def test_errors_are_raised_every_time() -> None:
    results = MetaResults()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            results.call(aten.mm.default, (meta(2, 3), meta(2, 3)), {})


class Compares(TorchDispatchMode):
    """Runs every operator of a model once as it is, and once through the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.results, self.compared = MetaResults(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        expected = func(*args, **(kwargs or {}))
        if all(value.alias_info is None for value in (*func._schema.arguments, *func._schema.returns)):
            same(self.results.call(func, args, kwargs or {}), expected)
            self.compared += 1
        return expected


def test_every_operator_of_a_forward_and_a_backward_pass() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))
    with Compares() as compares:
        for model, x in ((layer.to("meta"), meta(2, 5, 16)), (block.to("meta"), meta(2, 3, 12, 12))):
            for _ in range(2):
                model(x).sum().backward()
    assert compares.compared > 100


class Follows(nn.Module):
    """A layer of 8 to 8, 64 MACs a row, and a forward that is given."""

    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.given = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.given(self.layer, x)


def by_positions(layer: nn.Module, x: Tensor) -> Tensor:
    for _ in range(int(torch.arange(x.shape[0], device=x.device).max()) + 2):
        x = layer(x)
    return x


def by_a_mask(layer: nn.Module, x: Tensor) -> Tensor:
    mask = torch.zeros(2, dtype=torch.bool, device=x.device)
    mask[1] = True
    return layer(x[mask])


def by_indices(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(x[torch.ones_like(x[:, 0], dtype=torch.long).nonzero()[:, 0]])


def by_a_list(layer: nn.Module, x: Tensor) -> Tensor:
    for _ in torch.arange(3, device=x.device).tolist():
        x = layer(x)
    return x


def by_steps(layer: nn.Module, x: Tensor) -> Tensor:
    positions = torch.tensor([0, 1], device="cpu").to(x.device).unsqueeze(0)
    return x if (positions.diff(dim=-1) != 1).any() else layer(x)


@pytest.mark.parametrize(
    ("forward", "rows"), [(by_positions, 6), (by_a_mask, 1), (by_indices, 2), (by_a_list, 6), (by_steps, 2)]
)
def test_values_of_constants_are_known(forward: Any, rows: int) -> None:
    found = trace(Follows(forward), torch.zeros(2, 8))
    assert (found.macs, found.notes) == (64 * rows, ())
    assert found.macs == trace(Follows(forward), torch.zeros(2, 8), device="real").macs


def written(layer: nn.Module, x: Tensor) -> Tensor:
    mask = torch.ones(2, 2, device=x.device).tril()
    mask[0] = x[0, :2]
    return layer(x) if mask.sum() > 0 else x


def written_to_a_view(layer: nn.Module, x: Tensor) -> Tensor:
    mask = torch.zeros(2, device=x.device)
    mask.view(1, 2).add_(x[0, 0])
    return x if mask.sum() == 0 else layer(x)


@pytest.mark.parametrize("forward", [written, written_to_a_view])
def test_what_data_was_written_to_is_not_known(forward: Any) -> None:
    torch.manual_seed(0)
    found = trace(Follows(forward), torch.ones(2, 8))
    assert found.macs == 128
    assert [gap.kind for gap in found.gaps] == ["data-dependent"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize(
    "settings", [{}, {"bidirectional": True, "num_layers": 2}, {"batch_first": True, "bias": False}]
)
def test_recurrent_layers_are_not_run_step_by_step(kind: Any, settings: dict[str, Any]) -> None:
    net = kind(3, 5, **settings).eval()
    x = torch.rand(4, 7, 3)
    with torch.inference_mode():
        out, states = net(x)
        packed = pack_padded_sequence(x, [7, 5, 2, 1] if net.batch_first else [4, 4, 3, 2, 2, 1, 1], net.batch_first)
        data = net(packed)[0].data
    recorded = trace(Padded(net), x)
    (op,) = [op for op in recorded.ops if op.kind == "rnn"]
    expected = [out, *(states if isinstance(states, tuple) else (states,))]
    assert [ref.shape for ref in op.outputs] == [tuple(tensor.shape) for tensor in expected]
    assert op.outputs[0].strides == out.stride()
    long = trace(Padded(net), torch.rand(4, 7, 3).repeat(500, 500, 1))
    assert next(o for o in long.ops if o.kind == "rnn").macs == 250_000 * op.macs
    (of_packed,) = [op for op in trace(Padded(net), packed).ops if op.kind == "rnn"]
    assert of_packed.outputs[0].shape == tuple(data.shape)


class Padded(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


def test_recurrent_operands_that_do_not_fit_are_refused() -> None:
    net = nn.GRU(3, 5)

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            state = x.new_zeros(1, x.shape[1] + 1, 5)  # for another batch
            return torch._VF.gru(x, state, net._flat_weights, True, 1, 0.0, False, False, False)

    with pytest.raises(ModelRaised):
        trace(Wrong(), torch.rand(4, 2, 3))
