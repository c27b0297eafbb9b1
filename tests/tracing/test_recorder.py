"""The recorder on one net of each odd kind: what it counts, where it says it happened, what it leaves behind."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.tracing.failures import NeedsValuesError
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import Trace
from modelprobe.tracing.training import record_training
from tests.samples import models


def macs_at(found: Trace, path: str) -> int:
    """MACs of the operators that the module runs itself."""
    return sum(op.macs for op in found.ops if op.module == path)


def test_tiny_cnn_by_hand() -> None:
    found = trace(models.TinyCNN(), torch.zeros(2, 3, 16, 16))
    assert macs_at(found, "features.0") == 2 * 8 * 16 * 16 * 27  # out 2x8x16x16, 27 = 3 x 3 x 3
    assert macs_at(found, "features.4") == 2 * 16 * 8 * 8 * 72  # after the pool 8x8, 72 = 8 x 3 x 3
    assert macs_at(found, "head") == 2 * 16 * 10
    assert found.macs == 2 * (8 * 256 * 27 + 16 * 64 * 72 + 160)
    elementwise = 2 * (
        2 * 8 * 256  # batch norm, folded
        + 8 * 256  # ReLU
        + 3 * 8 * 64  # maximum of 4 takes 3 comparisons
        + 16 * 64  # bias of the second convolution
        + 16 * 64  # ReLU
        + 16 * 64  # mean
        + 10  # bias of the head
    )
    assert found.flops == 2 * found.macs + elementwise
    assert not found.uncounted
    assert not found.uncalled


def test_attention_outside_any_module_is_seen() -> None:
    found = trace(models.TinyAttention(), torch.zeros(1, 16, dtype=torch.int64))
    per_block = 16 * 32 * 96 + 2 * 4 * 16 * 16 * 8 + 16 * 32 * 32 + 2 * 16 * 32 * 128
    head = 16 * 32 * 100  # the tied product at the end
    assert found.macs == 3 * per_block + head
    assert macs_at(found, "blocks.1") == 2 * 4 * 16 * 16 * 8
    assert macs_at(found, "") == head
    assert {op.kind for op in found.ops if op.module == "blocks.0"} >= {"attention"}


def test_shared_modules_and_tied_weights() -> None:
    found = trace(models.Shared(), torch.zeros(1, 8))
    assert found.macs == 3 * 64 + 2 * 32
    assert found.call_counts["a"] == 3
    assert found.tree.aliases == {"b": "a"}
    assert found.tree.parameter_count() == 8 * 8 + 8 + 8 * 4
    assert not found.uncalled


def test_recursion_nests_calls() -> None:
    found = trace(models.Recursive(), torch.zeros(1, 4))
    assert found.macs == 3 * 16
    assert [call.path for call in found.calls] == ["", "layer", "", "layer", "", "layer"]
    assert [call.number for call in found.calls] == [1, 1, 2, 2, 3, 3]
    assert found.calls[0].end_op == len(found.ops)


def test_what_never_ran_is_named_once() -> None:
    found = trace(models.Unused(), torch.zeros(1, 4))
    assert found.uncalled == ("never",)
    assert found.macs == 16


def test_keyword_inputs_and_dataclass_outputs() -> None:
    ids, mask = torch.zeros(1, 5, dtype=torch.int64), torch.ones(1, 5)
    found = trace(models.Structured(), ids, kwargs={"mask": mask})
    assert found.calls[0].outputs == ((1, 5, 2), (1, 5, 8))
    assert set(found.named.values()) >= {"input[0]", "mask", "embed.weight"}
    assert found.macs == 5 * 8 * 2


@pytest.mark.parametrize("packed", [False, True])
def test_lstm_counts_steps(packed: bool) -> None:
    ids = torch.zeros(3, 7, dtype=torch.int64)
    kwargs = {"lengths": torch.tensor([7, 4, 2])} if packed else {}
    found = trace(models.Tagger(), ids, kwargs=kwargs)
    steps = 7 + 4 + 2 if packed else 21
    # two directions of 4 gates: layer 0 from 8 inputs, layer 1 from 16, both with 8 states
    per_step = 2 * 32 * (8 + 8) + 2 * 32 * (16 + 8)
    assert macs_at(found, "lstm") == steps * per_step
    assert found.uncounted == ()


def test_values_are_needed_only_when_asked_for() -> None:
    model = models.DataDependent()
    found = trace(model, torch.zeros(1, 4))
    assert found.macs == 16
    assert "for real" in found.notes[0].text
    with pytest.raises(NeedsValuesError), torch.device("meta"):
        trace(models.DataDependent(), torch.zeros(1, 4))


def test_lazy_modules_stay_lazy() -> None:
    model = models.Lazy()
    found = trace(model, torch.zeros(1, 3, 8, 8))
    assert found.macs == 4 * 36 * 27 + 2 * 144
    assert isinstance(model.head, nn.LazyLinear)
    assert found.tree.parameter_count() == 4 * 27 + 4 + 2 * 144 + 2


def test_error_names_module_and_shapes() -> None:
    with pytest.raises(ModelRaised) as caught:
        trace(models.Broken(), torch.zeros(1, 4))
    assert "Broken.second.0 raised RuntimeError on 1x8" in caught.value.message
    assert "\n" not in caught.value.message
    with pytest.raises(BadInput):
        trace(models.TinyCNN())


@pytest.mark.zoo
@pytest.mark.parametrize("wrap", ["DataParallel", "compile"])
def test_wrappers_are_unwrapped_and_said(wrap: str) -> None:
    inner = models.TinyCNN()
    model = nn.DataParallel(inner) if wrap == "DataParallel" else torch.compile(inner)
    found = trace(model, torch.zeros(1, 3, 16, 16))
    assert found.macs == trace(inner, torch.zeros(1, 3, 16, 16)).macs
    assert "Unwrapped" in found.notes[0].text


@pytest.mark.zoo
def test_compiled_part_runs_eagerly() -> None:
    by_call, by_method = torch.compile(nn.Linear(4, 4)), nn.Linear(4, 4)
    by_method.compile()
    model = nn.Sequential(nn.Linear(4, 4), by_call, nn.Sequential(by_method))
    said = "Compiled parts were run eagerly and are counted operator by operator: "
    for found in (trace(model, torch.zeros(1, 4)), record_training(model, torch.zeros(1, 4)).forward):
        assert found.macs == 3 * 16
        assert [note.text for note in found.notes] == [said + "1, 2.0."]
    assert [note.text for note in trace(by_method, torch.zeros(1, 4)).notes] == [said + "the model itself."]
    assert not trace(nn.Linear(4, 4), torch.zeros(1, 4)).notes


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_counted_by_operator() -> None:
    model = torch.jit.trace(models.TinyCNN().eval(), torch.zeros(1, 3, 16, 16))
    assert trace(model, torch.zeros(1, 3, 16, 16)).macs == trace(models.TinyCNN(), torch.zeros(1, 3, 16, 16)).macs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_halve_the_bytes(dtype: torch.dtype) -> None:
    plain = trace(models.TinyCNN(), torch.zeros(1, 3, 16, 16))
    found = trace(models.TinyCNN().to(dtype), torch.zeros(1, 3, 16, 16, dtype=dtype))
    assert found.macs == plain.macs
    assert sum(op.bytes_read for op in found.ops) * 4 == sum(op.bytes_read for op in plain.ops) * dtype.itemsize


def test_scalars_empty_and_complex_tensors() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            empty = x[:0] @ torch.ones(4, 3)
            return (x.to(torch.complex64) @ torch.ones(4, 2, dtype=torch.complex64)).abs().sum() + empty.sum()

    found = trace(Odd(), torch.zeros(5, 4))
    assert found.macs == 4 * 5 * 4 * 2  # a complex MAC is four real ones
    assert found.outputs[0].shape == ()


def test_hooks_of_users_run_and_stay() -> None:
    model, seen = models.TinyCNN(), []
    handle = model.head.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape)))
    trace(model, torch.zeros(1, 3, 16, 16))
    assert seen == [(1, 10)]
    assert list(model.head._forward_hooks) == [handle.id]


def test_views_share_storage_and_in_place_makes_a_new_value() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x + 1
            z = y.view(-1)
            z.mul_(2)
            return z

    found = trace(Net(), torch.zeros(2, 3))
    add, view, multiply = found.ops
    assert view.inputs == add.outputs
    assert view.outputs[0].storage == add.outputs[0].storage
    assert (view.bytes_read, view.bytes_written) == (0, 0)
    assert multiply.inputs[0] == view.outputs[0]
    assert multiply.outputs[0].storage == view.outputs[0].storage
    assert multiply.outputs[0].value != view.outputs[0].value
    assert found.outputs == multiply.outputs


def test_train_mode_says_which_buffers_change() -> None:
    model = models.TinyCNN()
    assert trace(model, torch.zeros(2, 3, 16, 16)).changed == frozenset()
    changed = trace(model, torch.zeros(2, 3, 16, 16), train=True).changed
    assert changed == {f"features.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_same_numbers_everywhere() -> None:
    model, x = models.TinyAttention(), torch.zeros(2, 16, dtype=torch.int64)
    expected = trace(model, x)
    for found in (
        trace(model, x, device="real"),
        trace(copy.deepcopy(model), x),
        trace(model.train(), x),
    ):
        assert (found.macs, found.flops) == (expected.macs, expected.flops)
    with torch.no_grad():
        assert trace(model, x).flops == expected.flops
    with torch.inference_mode():
        assert trace(model, x).flops == expected.flops
    assert trace(model, x.repeat(4, 1)).macs == 4 * expected.macs


def test_fused_attention_paths_are_switched_off_while_recording() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = trace(model, torch.zeros(1, 3, 8), device="real")
    # qkv 3 x 8 x 24, scores and values 2 x (2 heads x 3 x 3 x 4), out 3 x 64, feed-forward 2 x 3 x 8 x 16
    assert found.macs == 576 + 144 + 192 + 768
    assert torch.backends.mha.get_fastpath_enabled()


@torch.library.custom_op("modelprobe_tests::mystery", mutates_args=())
def mystery(a: Tensor, b: Tensor) -> Tensor:
    """An operator that nobody has a formula for: a batched product."""
    return a @ b


@mystery.register_fake
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape[0], a.shape[1], b.shape[2])


def test_operator_without_a_rule_is_named_and_bounded() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return mystery(self.inner(x), x)

    found = trace(Net(), torch.eye(5).repeat(3, 1, 1))
    assert [(item.name, item.count, item.modules) for item in found.uncounted] == [
        ("modelprobe_tests.mystery", 1, ("",))
    ]
    assert found.uncounted[0].bound >= 3 * 5**3  # what it really does
    assert found.macs == 3 * 5 * 25


def test_samples_directory_is_what_the_tests_use() -> None:
    assert Path(models.__file__).parts[-2:] == ("samples", "models.py")


def test_functional_attention_imported_by_name_is_the_same() -> None:
    from torch.nn.functional import scaled_dot_product_attention as attend

    class Net(nn.Module):
        def __init__(self, function: object) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x, x, x)  # type: ignore[operator]

    x = torch.zeros(1, 2, 5, 4)
    assert trace(Net(attend), x).flops == trace(Net(F.scaled_dot_product_attention), x).flops
