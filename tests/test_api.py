"""The questions of the command line, asked in Python about a model object."""

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.errors import BadInput, ModelRaised
from tests.samples import models


@pytest.fixture
def net():
    return models.TinyCNN()


def test_one_trace_answers_every_question(net):
    found = modelprobe.trace(net, torch.randn(1, 3, 32, 32))
    # 32 x 32 x 8 x 3 x 9 + 16 x 16 x 16 x 8 x 9 + 16 x 10, as in test_commands.py
    assert modelprobe.count_flops(found).macs == 516_256
    assert modelprobe.summarize(found).macs == 516_256
    assert modelprobe.count_params(found).total == 1_570
    assert modelprobe.count_flops(net, torch.randn(2, 3, 32, 32)).macs == 2 * 516_256


def test_parameters_and_buffers_need_no_input(net):
    net.head.requires_grad_(False)
    counted = modelprobe.count_params(net, freeze="features.*")
    assert (counted.trainable, counted.frozen, counted.freeze.trainable) == (1_400, 170, 0)
    assert [row.changes for row in modelprobe.list_buffers(net).rows] == [None] * 3
    assert all(row.changes for row in modelprobe.list_buffers(net, torch.randn(2, 3, 8, 8)).rows)


def test_the_model_is_left_as_it_was(net):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    state = torch.get_rng_state()
    modelprobe.list_buffers(net, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("question", ["count_flops", "summarize", "count_params", "list_buffers"])
def test_a_notebook_shows_a_table(net, question):
    inputs = () if question == "count_params" else (torch.randn(2, 3, 8, 8),)
    html = getattr(modelprobe, question)(net, *inputs)._repr_html_()
    assert "TinyCNN" in html
    assert "<table" in html


@pytest.mark.parametrize("given", [{"depth": "a"}, {"depth": -1}, {"depth": 1.5}, {"top": "all"}, {"top": -1}])
@pytest.mark.parametrize("question", ["count_flops", "count_training"])
def test_rows_are_whole_numbers(net, question, given):
    with pytest.raises(BadInput, match=f"{next(iter(given))}=.* is no whole number") as raised:
        getattr(modelprobe, question)(net, torch.randn(2, 3, 8, 8), **given)
    assert raised.value.hint


@pytest.mark.parametrize("given", [(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)], ids=["a shape", "a tensor"])
def test_under_a_default_device_of_meta(net, given):
    plain = modelprobe.count_flops(net, given).macs
    with torch.device("meta"):
        assert modelprobe.count_flops(net, given).macs == plain
        assert modelprobe.count_flops(models.TinyCNN(), given).macs == plain


def test_keyword_inputs():
    found = modelprobe.count_flops(
        models.Structured(), torch.zeros(2, 7, dtype=torch.long), kwargs={"mask": torch.ones(2, 7)}
    )
    assert found.macs == 2 * 7 * 8 * 2


def test_errors_are_raised_with_message_and_hint():
    with pytest.raises(ModelRaised) as raised:
        modelprobe.trace(models.Broken(), torch.randn(1, 4))
    assert raised.value.message.startswith("Broken.second.0 raised RuntimeError on 1x8: ")
    with pytest.raises(BadInput) as refused:
        modelprobe.count_flops(modelprobe.trace(models.Shared(), torch.randn(1, 8)), torch.randn(1, 8))
    assert "a trace has its inputs already" in refused.value.message


def test_what_a_forward_raises_beside_exceptions_is_no_success(net):
    class Exits(nn.Module):
        def forward(self, x):
            raise SystemExit(0)

    with pytest.raises(ModelRaised, match=r"sys.exit\(0\) was called"):
        modelprobe.trace(Exits(), torch.ones(1))


def test_a_custom_operator_is_counted_once_it_has_a_formula():
    @torch.library.custom_op("modelprobe_tests::scaled_product", mutates_args=())
    def scaled_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 2 * (a @ b)

    @scaled_product.register_fake
    def _(a, b):
        return a.new_empty(a.shape[0], b.shape[1])

    class Net(nn.Module):
        def forward(self, a, b):
            return torch.ops.modelprobe_tests.scaled_product(a, b)

    inputs = torch.randn(2, 3), torch.randn(3, 5)
    before = modelprobe.count_flops(Net(), *inputs)
    assert (before.macs, [item.name for item in before.uncounted]) == (0, ["modelprobe_tests.scaled_product"])
    assert before.uncounted[0].bound >= 30

    @modelprobe.formula(torch.ops.modelprobe_tests.scaled_product)
    def _formula(a, b, *, out):
        return modelprobe.Cost(macs=a.shape[0] * a.shape[1] * b.shape[1], flops=out.numel())

    after = modelprobe.count_flops(Net(), *inputs)
    # 2 x 3 x 5 = 30 MACs, 2 x 5 = 10 scalings
    assert (after.macs, after.flops, after.uncounted) == (30, 2 * 30 + 10, ())


def test_buffers_of_lazy_modules_have_the_sizes_of_a_forward() -> None:
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(4))
    found = modelprobe.list_buffers(net, torch.zeros(2, 3, 8, 8))
    assert [(row.path, row.shape) for row in found.rows][:2] == [("1.running_mean", (8,)), ("1.running_var", (8,))]
    assert found.parameters == 224 + 16 + 1156  # 8 x 3 x 9 + 8, twice 8, 4 x (8 x 36) + 4
