"""`--input` as text: what it may look like, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelprobe.checkpoint.dtypes import ALIASES
from modelprobe.errors import BadInput, ProbeError
from modelprobe.model.inputs.spec import DTYPES, InputSpec, parse_dtype, parse_input


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("224", InputSpec(None, (224,))),
        ("224x320", InputSpec(None, (224, 320))),
        ("3X224×224", InputSpec(None, (3, 224, 224))),
        (" 8 x 3 x 4 x 4 ", InputSpec(None, (8, 3, 4, 4))),
        ("ids=1x128:int64", InputSpec("ids", (1, 128), "int64")),
        ("mask=1x128:bool", InputSpec("mask", (1, 128), "bool")),
        ("1x3x224x224:bfloat16", InputSpec(None, (1, 3, 224, 224), "bfloat16")),
        ("1x0x3", InputSpec(None, (1, 0, 3))),
        ("2:torch.long", InputSpec(None, (2,), "int64")),
    ],
)
def test_what_it_means(text, spec):
    assert parse_input(text) == spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no shape"),
        ("x=", "has no shape"),
        ("abc", "'abc' is not a size"),
        ("3,224,224", "sizes are separated by x, not by commas"),
        ("-1x3", "sizes cannot be negative"),
        ("0", "a size of 0 leaves nothing"),
        ("1.5", "'1.5' is not a size"),
        ("3x", "a size is missing beside an x"),
        ("½x3", "'½' is not a size"),
        ("٣x3", "'٣' is not a size"),
        ("1x2:float33", "there is no dtype 'float33'"),
        ("1x2:", "names no dtype after the colon"),
        ("=3", "cannot be the name of an argument"),
        ("a b=3", "cannot be the name of an argument"),
        ("a=1:int64:2", "is not name=SHAPE:dtype"),
        ("a=b=1", "is not name=SHAPE:dtype"),
        ("99999999999999", "more than 2**40 elements"),
        ("0x99999999999999", "more than 2**40 elements"),
        ("1048577x1048577", "more than 2**40 elements"),
        ("9" * 5000, "more than 2**40 elements"),
    ],
)
def test_what_is_refused(text, expected):
    with pytest.raises(BadInput) as caught:
        parse_input(text)
    assert expected in caught.value.message
    assert len(caught.value.message) < 200
    assert caught.value.hint


def test_every_dtype_is_torchs_own():
    for name in DTYPES:
        assert isinstance(getattr(torch, name), torch.dtype)
    for alias, name in ALIASES.items():
        assert parse_dtype(alias) == name
        assert getattr(torch, alias, getattr(torch, name)) is getattr(torch, name)
    with pytest.raises(BadInput) as caught:
        parse_dtype("bfloat61")
    assert "bfloat16" in caught.value.hint


@pytest.mark.zoo
@settings(deadline=None, max_examples=60)
@given(st.text(max_size=40))
def test_any_text_is_a_spec_or_one_line_of_ours(text):
    refused = ""
    shape: tuple[int, ...] = ()
    try:
        shape = parse_input(text).shape
    except ProbeError as error:
        refused = error.message
    assert bool(shape) != bool(refused)
    assert "\n" not in refused
    assert all(size >= 0 for size in shape)


@pytest.mark.zoo
@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=5), st.sampled_from(DTYPES))
def test_a_spec_is_read_back(shape, dtype):
    text = "x".join(map(str, shape))
    assert parse_input(f"name={text}:{dtype}") == InputSpec("name", tuple(shape), dtype)
