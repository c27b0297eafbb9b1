"""Lists in `--input` and `--batch`."""

from __future__ import annotations

import pytest

from modelprobe.errors import BadInput
from modelprobe.model.inputs.series import parse_batches, parse_series


@pytest.mark.parametrize(
    ("texts", "points", "sizes", "at_9"),
    [
        (["224"], [("224",)], (), ("224",)),
        (["224,256"], [("224",), ("256",)], (224, 256), ("9",)),
        (["1x3x224x224,1x3x256x256"], [("1x3x224x224",), ("1x3x256x256",)], (224, 256), ("1x3x9x9",)),
        (["224x224, 224x256"], [("224x224",), ("224x256",)], (224, 256), ("224x9",)),
        (["ids=1x8,1x16:int64"], [("ids=1x8:int64",), ("ids=1x16:int64",)], (8, 16), ("ids=1x9:int64",)),
        (["a=2x8,2x16", "b=5"], [("a=2x8", "b=5"), ("a=2x16", "b=5")], (8, 16), ("a=2x9", "b=5")),
        (["1x8,1x16", "8x1,16x1"], [("1x8", "8x1"), ("1x16", "16x1")], (8, 16), ("1x9", "9x1")),
    ],
)
def test_series(texts, points, sizes, at_9):
    found = parse_series(texts)
    assert list(found.points) == points
    assert found.sizes == sizes
    assert found.at(9) == at_9


@pytest.mark.parametrize("texts", [["1x8,2x16"], ["224,1x3x224x224"], ["8x4,8x5,9x5"], ["1x8,1x16", "1x4,1x8"]])
def test_more_than_one_number_differs(texts):
    found = parse_series(texts)
    assert found.sizes == ()
    assert len(found.points) > 1


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["224,224"], "the same shape twice"),
        (["3,224,224"], "looks like one shape"),
        (["1,3,224,256"], "looks like one shape"),
        (["224,,256"], "a size is missing beside a comma"),
        (["8,16", "8,16,32"], "lists 2 shapes, another input 3"),
        ([",".join(map(str, range(10, 99)))], "64 at most"),
        (["224,big"], "'big' is not a size"),
    ],
)
def test_refused_series(texts, reason):
    with pytest.raises(BadInput, match=reason):
        parse_series(texts)


def test_batches():
    assert parse_batches(None) == ()
    assert parse_batches("8") == (8,)
    assert parse_batches("1, 8") == (1, 8)


@pytest.mark.parametrize("text", ["0", "-1", "1,", "eight", "1,1", "1.5", "1" * 99])
def test_refused_batches(text):
    with pytest.raises(BadInput, match="--batch"):
        parse_batches(text)
