"""The list of operators: what each reads, filters, totals."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import modelprobe
from modelprobe.cost.traces.operators import operators_of
from modelprobe.errors import BadInput


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.inner(x)
        return out


def test_each_operator_reads_what_others_made() -> None:
    rows = operators_of(modelprobe.trace(Residual(), torch.rand(2, 4))).operators
    assert [(row.operator, row.module, row.reads) for row in rows] == [
        ("aten.linear", "inner.0", ()),
        ("aten.relu", "inner.1", (0,)),
        ("aten.add", "", (1,)),
    ]
    assert rows[0].macs == 2 * 4 * 4
    assert rows[0].inputs == ("2x4 float32", "4x4 float32", "4 float32")


@pytest.mark.parametrize(
    ("modules", "names", "found"),
    [(["inner"], [], [0, 1]), (["inner.1"], [], [1]), ([], ["add", "relu"], [1, 2]), (["inner"], ["aten.l*"], [0])],
)
def test_filters(modules: list[str], names: list[str], found: list[int]) -> None:
    listed = operators_of(modelprobe.trace(Residual(), torch.rand(2, 4)), modules, names)
    assert [row.index for row in listed.operators] == found
    assert listed.total == 3


def test_a_filter_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(BadInput, match="no operator of the run matches nowhere"):
        operators_of(modelprobe.trace(Residual(), torch.rand(2, 4)), ["nowhere"])
