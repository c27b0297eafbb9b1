"""Parameter groups as code: the code makes the groups that the table tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modelprobe.cost.optimizers.groups import groups_of, parse_rates
from modelprobe.errors import BadInput
from modelprobe.tracing.module_tree import read_tree


def made(code: str, model: nn.Module) -> list[dict[str, Any]]:
    """What the code's function gives."""
    names: dict[str, Any] = {}
    exec(code, names)
    found: list[dict[str, Any]] = names["parameter_groups"](model)
    return found


@pytest.mark.parametrize("rates", [{}, {"fc": 1e-2}, {"fc.*": 1e-2, "*": 1e-3}, {"layer[12].*": 1e-4, "layer3": 3e-4}])
def test_the_code_makes_the_groups(rates: dict[str, float]) -> None:
    import torchvision

    model = torchvision.models.resnet18(weights=None)
    model.conv1.requires_grad_(False)
    told = groups_of(read_tree(model), rates)
    groups = made(told.code, model)
    assert sorted((g.rate, g.decays, g.tensors, g.total) for g in told.groups if g.rate is not None) == sorted(
        (g["lr"], g["weight_decay"] > 0, len(g["params"]), sum(p.numel() for p in g["params"]))
        for g in groups
        if "lr" in g
    )
    assert len(groups) == len(told.groups)
    assert told.frozen == model.conv1.weight.numel()
    assert sum(g.total for g in told.groups) == sum(p.numel() for p in model.parameters() if p.requires_grad)
    torch.optim.AdamW(groups, lr=1e-3)


def test_the_first_pattern_counts() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    found = groups_of(read_tree(model), {"1.*": 0.1, "*": 0.01})
    # 3 x 1 and a bias of 1; 2 x 3 and a bias of 3.
    assert [(g.pattern, g.rate, g.decays, g.total) for g in found.groups] == [
        ("1.*", 0.1, True, 3), ("1.*", 0.1, False, 1), ("*", 0.01, True, 6), ("*", 0.01, False, 3),
    ]  # fmt: skip
    with pytest.raises(BadInput, match="first to fit no parameter"):
        groups_of(read_tree(model), {"*": 0.01, "1.*": 0.1})


@pytest.mark.parametrize("text", ["fc.*", "=1e-3", "fc=-1", "fc=fast", "fc=inf"])
def test_bad_rates(text: str) -> None:
    with pytest.raises(BadInput, match="not a pattern and a rate"):
        parse_rates([text])


def test_a_pattern_given_twice() -> None:
    with pytest.raises(BadInput, match="two rates"):
        parse_rates(["fc=1", "fc=2"])
