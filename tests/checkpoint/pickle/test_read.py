"""The opcode loop reads every protocol as Python does: its inert nodes are rebuilt into values and compared."""

from __future__ import annotations

import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.nodes import Blob, Dict, PendingCall, PickleNode, SetNode, called, members, pairs
from modelprobe.checkpoint.pickle.reader import HANDLERS, BrokenPickle, op, read_pickle


class Bytes:
    """A source in memory."""

    name, origin = "bytes", None

    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)

    def read(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def value(node: PickleNode) -> Any:
    """The Python value of a node that stands for plain data."""
    if type(node) is Dict:
        return {value(key): value(item) for key, item in pairs(node)}
    if type(node) in (list, tuple):
        return type(node)(value(item) for item in node)
    if type(node) is SetNode:
        return (frozenset if node.frozen else set)(value(item) for item in node.items)
    if type(node) is Blob:
        return node.data if node.data is not None else node.feed.read(node.offset, node.length)
    if type(node) is PendingCall:
        name = called(node)
        if name == "_codecs.encode":
            return node.args[0].encode("latin-1")
        if name.endswith((".set", ".frozenset")):
            return (set if name.endswith(".set") else frozenset)(value(item) for item in members(node))
        if name.endswith(("bytearray", "bytes")):
            return value(node.args[0]) if node.args else b""
    return node


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner)
        | st.sets(st.integers()) | st.frozensets(st.text())
    ),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.zoo
@pytest.mark.parametrize("protocol", range(6))
@settings(max_examples=40, deadline=None)
@given(data=plain)
def test_plain_values_read_as_python_reads_them(protocol: int, data: Any) -> None:
    raw = pickle.dumps(data, protocol)
    found = read_pickle(Bytes(raw))
    assert value(found.root) == data
    assert found.end == len(raw)


def test_every_opcode_has_a_handler() -> None:
    unknown = HANDLERS[0xFF]
    known = {opcode.code.encode("latin-1")[0] for opcode in pickletools.opcodes}
    assert {code for code in range(256) if HANDLERS[code] is not unknown} == known


def test_two_handlers_for_one_opcode_are_refused() -> None:
    with pytest.raises(ValueError, match="two handlers"):
        op(b".")(lambda machine: None)


@pytest.mark.parametrize("size", [4096, 4097, (1 << 16) - 20, 1 << 16, (1 << 16) + 1, 3 << 18])
def test_windows_are_joined_without_a_seam(size: int) -> None:
    """Strings, bytes and lines that straddle the window are read whole."""
    data = ["x" * size, b"y" * size, list(range(50_000)), "z" * 7]
    for protocol in (0, 2, 4):
        assert value(read_pickle(Bytes(pickle.dumps(data, protocol))).root) == data


def test_an_ordered_dict_as_python_2_wrote_it() -> None:
    raw = b"\x80\x02ccollections\nOrderedDict\n]q\0(]q\1(U\1aK\1e]q\2(U\1bK\2ee\x85R."
    assert list(pairs(read_pickle(Bytes(raw)).root)) == [("a", 1), ("b", 2)]
    new = pickle.dumps(OrderedDict(a=1, b=2), 2)
    assert list(pairs(read_pickle(Bytes(new)).root)) == [("a", 1), ("b", 2)]


def test_big_bytes_are_skipped_not_kept() -> None:
    raw = pickle.dumps([b"x" * 1_000_000, 5], 4)
    found = read_pickle(Bytes(raw))
    blob = found.root[0]
    assert (blob.length, blob.data, found.root[1]) == (1_000_000, None, 5)
    assert raw[blob.offset : blob.offset + 3] == b"xxx"


@pytest.mark.parametrize(
    ("limits", "data"),
    [
        (ReadLimits(opcodes=100), b"\x80\x02" + b"N0" * 100 + b"N."),
        (ReadLimits(nodes=1000), b"\x80\x02" + b"]0" * 400_000 + b"N."),
        (ReadLimits(stack=1000), b"\x80\x02" + b"N" * 600_000 + b"."),
        (ReadLimits(pickle_bytes=1000), b"\x80\x02" + b"N0" * 400_000 + b"N."),
        (ReadLimits(globals=2), b"\x80\x02ca\nb\nca\nc\nca\nd\n."),
    ],
)
def test_bounds(limits: ReadLimits, data: bytes) -> None:
    with pytest.raises(BrokenPickle) as caught:
        read_pickle(Bytes(data), 0, limits)
    assert "may be sound" in caught.value.hint


def test_what_was_imported_before_the_break_is_told() -> None:
    with pytest.raises(BrokenPickle) as caught:
        read_pickle(Bytes(b"\x80\x02cos\nsystem\nX\2\0\0\0id\x85R\xff"))
    assert [(entry.spelled, entry.called) for entry in caught.value.globals] == [("os.system", True)]


def test_memo_tricks_read_as_python_reads_them() -> None:
    """MEMOIZE counts the entries of the memo, whatever indices PUT has used before."""
    raw = b"\x80\x04K\x01r\x05\0\0\0K\x02\x94h\x05h\x01\x87."  # index 5, then MEMOIZE at index 1
    assert pickle.loads(raw) == (2, 1, 2)  # a pickle of two numbers
    assert read_pickle(Bytes(raw)).root == (2, 1, 2)
