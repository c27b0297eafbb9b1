"""Costs added up by module, call, operator and kind, and the rows that are shown of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modelprobe.cost.rollup import ITSELF, Rollup, Tally, choose_rows, fitting_depth, forward_rollup
from modelprobe.cost.tables import hidden_notes, plural, row_mark
from modelprobe.tracing.recorder import trace


class Block(nn.Module):
    """A child that is called twice, and a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.weight = nn.Sequential(nn.Linear(4, 4)), nn.Parameter(torch.zeros(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x)) @ self.weight


OWN, INNER = 3 * 4 * 2, 2 * 3 * 4 * 4


def rollup() -> Rollup[Tally]:
    return forward_rollup(trace(nn.Sequential(Block(), nn.ReLU()), torch.zeros(3, 4)))


def test_modules_have_what_is_inside_and_a_row_of_their_own() -> None:
    places = rollup().rows("module", itself=lambda cost: cost.macs > 0)
    found = [(place.name, place.depth, place.calls, place.cost.macs) for place in places]
    assert found == [
        ("Sequential", 0, 1, OWN + INNER),
        ("0", 1, 1, OWN + INNER),
        (ITSELF, 2, 1, OWN),
        ("inner", 2, 2, INNER),
        ("0", 3, 2, INNER),
        ("1", 1, 1, 0),
    ]


def test_ranked_rows_are_by_what_each_computes_itself() -> None:
    places = rollup().rows("module", ranked=True)
    assert [(place.name, place.cost.macs) for place in places] == [("0.inner.0", INNER), ("0", OWN), ("1", 0)]
    calls = rollup().rows("call", ranked=True)
    assert [place.name for place in calls] == ["0.inner.0 #1", "0.inner.0 #2", "0 #1", "1 #1"]


def test_calls_hold_the_calls_that_they_make() -> None:
    places = rollup().rows("call")
    assert [(place.name, place.depth, place.cost.macs) for place in places] == [
        ("Sequential", 0, OWN + INNER),
        ("0", 1, OWN + INNER),
        ("0.inner #1", 2, INNER // 2),
        ("0.inner.0 #1", 3, INNER // 2),
        ("0.inner #2", 2, INNER // 2),
        ("0.inner.0 #2", 3, INNER // 2),
        ("1", 1, 0),
    ]


def test_groups_add_up_to_the_total() -> None:
    found = rollup()
    for by in ("operator", "kind"):
        places = found.rows(by)
        assert sum(place.cost.macs for place in places) == found.total.macs == OWN + INNER
        assert places[0].cost.macs == max(place.cost.macs for place in places)


def test_costs_without_an_operator_belong_to_their_module() -> None:
    recorded = trace(nn.Sequential(Block()), torch.zeros(3, 4))
    found = Rollup(recorded, [], Tally(), lambda cost: (-cost.flops,), {"0.inner": Tally(flops=5), "0": Tally(flops=7)})
    assert (found.total.flops, found.inside[""].flops, found.inside["0.inner"].flops) == (12, 12, 5)
    assert [place.name for place in found.rows("module", ranked=True)] == ["0", "0.inner"]


def test_rows_are_chosen_by_depth_or_by_number() -> None:
    places = rollup().rows("module")
    assert [len(choose_rows(places, depth, None, tree=True)[0]) for depth in (0, 1, 2, None)] == [1, 3, 4, 5]
    assert choose_rows(places, 1, None, tree=True)[1:] == (1, 2)
    assert choose_rows(places, None, 2, tree=False)[1:] == (None, 3)
    assert choose_rows(places, None, None, tree=True)[1:] == (3, 0)
    assert fitting_depth([0, *[1] * 50, *[2] * 9]) == 1  # at least one level below the root


def test_marks_and_notes() -> None:
    assert row_mark() == ""
    assert row_mark(uncounted=2, copies="x3", same_as="a", calls=2, state="frozen") == (
        "x3, 2 uncounted, is a, called x2, frozen"
    )
    assert hidden_notes(0, 1, True) == []
    assert hidden_notes(7, 1, True)[0].text == "7 more rows below depth 1 are not shown (--depth)."
    assert hidden_notes(7, None, False)[0].text == "7 more rows are not shown (--top)."
    assert (plural(1, "module"), plural(2, "module")) == ("1 module", "2 modules")
