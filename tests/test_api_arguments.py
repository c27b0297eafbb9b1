"""The Python functions refuse what they cannot answer with BadInput, in one line that names the function or choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.errors import BadInput

X = torch.zeros(1, 4)
NET = nn.Linear(4, 3)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(modelprobe, name)
    for name in ("trace", "count_flops", "count_training", "estimate_memory", "profile", "summarize", "list_buffers")
}
MORE = {"assert_cost": {"max_macs": 100}}


@pytest.mark.parametrize("name", [*FUNCTIONS, "count_params", "assert_cost"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "type NoneType"),
        (X, "type Tensor"),
        (nn.Linear, "the class Linear"),
        (3, "type int"),
        (len, "the function len"),
    ],
    ids=["None", "tensor", "class", "number", "function"],
)
def test_what_is_no_module(name: str, given: Any, said: str) -> None:
    with pytest.raises(BadInput, match=r"takes a torch\.nn\.Module, not ") as raised:
        getattr(modelprobe, name)(given, **MORE.get(name, {}))
    assert said in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("inputs", [(), (X, X), (torch.zeros(1, 5),), ("text",), (None,)])
def test_inputs_that_do_not_fit(name: str, inputs: tuple[Any, ...]) -> None:
    if name == "list_buffers" and not inputs:
        return
    with pytest.raises(modelprobe.ProbeError) as raised:
        FUNCTIONS[name](NET, *inputs)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: modelprobe.count_flops(NET, X, by="foo"), "no rows by 'foo'"),  # type: ignore[arg-type]
        (lambda: modelprobe.count_training(NET, X, by="call"), "no rows by 'call'"),
        (lambda: modelprobe.count_training(NET, X, optimizer="foo"), "foo"),
        (lambda: modelprobe.count_training(NET, X, freeze="foo"), "foo"),
        (lambda: modelprobe.count_training(modelprobe.trace(NET, X)), "type Trace"),  # type: ignore[arg-type]
        (lambda: modelprobe.estimate_memory(NET, X, device="tpu"), "'tpu'"),
        (lambda: modelprobe.profile(NET, X, by="line"), "by='line'"),
        (lambda: modelprobe.profile(NET, X, threads=0), "threads"),
        (lambda: modelprobe.assert_cost(NET, X), "no limit"),
        (lambda: modelprobe.assert_cost(NET, X, max_macs="1X"), "max_macs '1X' is no amount"),
        (lambda: modelprobe.assert_cost(replace(modelprobe.trace(NET, X), storages=()), max_memory=1), "peak memory"),
        (lambda: modelprobe.count_flops(modelprobe.trace(NET, X), X), "has its inputs already"),
        (lambda: modelprobe.trace(NET, X, device="foo"), "foo"),
        (lambda: modelprobe.load_trace("nothing.mptrace"), "nothing.mptrace"),
    ],
)  # fmt: skip
def test_choices_that_there_are_not(call: Callable[[], Any], said: str) -> None:
    with pytest.raises(modelprobe.ProbeError) as raised:
        call()
    assert said in raised.value.message


def test_limits_as_texts_and_of_memory() -> None:
    modelprobe.assert_cost(NET, X, max_macs="12", max_memory="92B")  # 15 parameters, 4 inputs, 3 outputs: 88 bytes
    with pytest.raises(AssertionError, match="12 MACs"):
        modelprobe.assert_cost(NET, X, max_macs="0.011k")
    with pytest.raises(AssertionError, match="88"):
        modelprobe.assert_cost(NET, X, max_memory=87)
    with pytest.raises(AssertionError, match="88"):
        modelprobe.assert_cost(NET, (1, 4), max_memory="87B")


def test_under_another_default_device() -> None:
    with torch.device("meta"):
        assert modelprobe.count_flops(NET, X).macs == 12
        assert modelprobe.count_training(NET, X).macs == 24
        assert modelprobe.estimate_memory(NET, X).peak_bytes >= 88
