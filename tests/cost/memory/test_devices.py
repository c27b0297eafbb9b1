"""Sizes and names of devices."""

from __future__ import annotations

import pytest

from modelprobe.cost.memory.devices import memory_limit
from modelprobe.errors import BadInput


def test_sizes_and_devices() -> None:
    assert memory_limit("24GiB") == 24 * 2**30
    assert 23 * 2**30 < memory_limit("4090") == memory_limit("RTX 4090") < memory_limit("24GiB")
    assert 39 * 2**30 < memory_limit("A100-40") < 40 * 2**30


@pytest.mark.parametrize(
    ("text", "hint"), [("a100-41", "a100-40"), ("4091", "4090"), ("24", "24GiB"), ("a100", "a100-40 or a100-80")]
)
def test_the_nearest_is_named(text: str, hint: str) -> None:
    with pytest.raises(BadInput) as raised:
        memory_limit(text)
    assert hint in raised.value.hint


def test_no_memory_at_all_is_refused() -> None:
    with pytest.raises(BadInput, match="no memory at all"):
        memory_limit("0GiB")
