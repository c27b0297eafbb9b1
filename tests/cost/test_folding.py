"""Equal neighbours and repeated patterns of a tree become one branch each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modelprobe.cost.flops import flops_of
from modelprobe.cost.folding import flatten, fold_equal, folded_mark, grow
from modelprobe.cost.summary import summary_of
from modelprobe.tracing.recorder import trace


@pytest.mark.parametrize(
    ("letters", "expected"),
    [
        ("aaaa", ["a x4"]),
        ("abab", ["a x2 every 2", "b x2 every 2"]),
        ("aaabaaab", ["a x6 run 3 every 4", "b x2 every 4"]),
        ("xababy", ["x x1", "a x2 every 2", "b x2 every 2", "y x1"]),
        ("abcabcabc", ["a x3 every 3", "b x3 every 3", "c x3 every 3"]),
        ("aba", ["a x1", "b x1", "a x1"]),
        ("aabab", ["a x2", "b x1", "a x1", "b x1"]),
    ],
)
def test_runs_and_patterns(letters: str, expected: list[str]) -> None:
    branches = fold_equal(grow(list(letters), lambda _: 0), lambda letter: letter)
    found = []
    for branch in branches:
        text = f"{branch.item} x{branch.count}"
        text += f" run {branch.run}" if branch.every and branch.run > 1 else ""
        found.append(text + (f" every {branch.every}" if branch.every else ""))
    assert found == expected
    assert sum(branch.count for branch in branches) == len(letters)


class Mixed(nn.Module):
    """Three narrow blocks and a wide one, four times."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16 if i % 4 < 3 else 32), nn.Linear(16 if i % 4 < 3 else 32, 8))
            for i in range(16)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_patterns_in_reports() -> None:
    recorded = trace(Mixed(), torch.zeros(1, 8))
    rows = {row.name: row for row in flops_of(recorded, folded=True).rows if row.depth == 2}
    assert [(name, row.macs, folded_mark(row)) for name, row in rows.items()] == [
        ("0-2", 256, "x12, 3 of every 4"),
        ("3", 512, "x4, every 4"),
    ]
    assert sum(row.macs * (1 + len(row.folded)) for row in rows.values()) == recorded.macs
    assert len([row for row in flops_of(recorded).rows if row.depth == 2]) == 16
    layers = [layer for layer in summary_of(recorded).layers if layer.depth == 2]
    assert [(layer.name, folded_mark(layer)) for layer in layers] == [
        ("0-2", "x12, 3 of every 4"),
        ("3", "x4, every 4"),
    ]


class Again(nn.Module):
    """One module under two names, run under the second; one that is called with two shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b, self.relu = self.a, nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(4):
            x = self.relu(self.b(x))
        return self.relu(x.sum(1))


def test_calls_under_another_name_and_calls_of_several_shapes_are_marked() -> None:
    layers = {layer.path: layer for layer in summary_of(trace(Again(), torch.zeros(1, 4))).layers}
    assert (layers["a"].calls, layers["b"].same_as) == (4, "a")
    assert (layers["relu"].calls, layers["relu"].shapes) == (5, 2)


def test_flatten_keeps_depths() -> None:
    items = [("m", 0), ("a", 1), ("x", 2), ("a", 1), ("x", 2)]
    rows = flatten(fold_equal(grow(items, lambda item: item[1]), lambda item: item[0]))
    assert [(branch.item[0], depth, branch.count) for branch, depth in rows] == [("m", 0, 1), ("a", 1, 2), ("x", 2, 1)]
