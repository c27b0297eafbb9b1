"""A short cut for the opcodes of one tensor: the commonest spelling is matched as a whole.

`torch.save` spells every tensor alike, but for its numbers. What matches is kept in one `Packed` instead of a dozen
nodes, and becomes those nodes when somebody asks; whatever is spelled in any other way goes through the opcodes.
The effect is the same to the last node: `tests/checkpoint/pickle/test_fast_tensor.py` reads files both ways.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache

from modelprobe.checkpoint.pickle.nodes import Global, PendingCall, PickleNode, TensorRecord
from modelprobe.checkpoint.pickle.reader import UNSET, PickleReader

_REF, _INT, _PUT = rb"(?:h.|j....)", rb"(K.|M..|J....)", rb"r(....)"
_DIMS = rb"(\)|\((?:K.|M..|J....){4,16}tr....|(?:K.|M..|J....){1,3}[\x85-\x87]r....)"
_RECORD = re.compile(
    rb"\(\((" + _REF * 2 + rb")X(.)\0\0\0([0-9]{1,18})" + _PUT + b"(" + _REF + b")" + _INT + b"(N?)t" + _PUT + b"Q"
    + _INT + _DIMS + _DIMS  # offset, size, stride
    + rb"([\x88\x89]" + _REF + rb")\)R(r....tr....Rr....)",  # requires_grad and hooks; the end of the call
    re.DOTALL,
).match  # fmt: skip
_FRONT = {count: struct.Struct(f"<{count}I").pack for count in (2, 3, 4)}
_CALL_END = struct.Struct("<sI2sI2sI").pack
_RECORD_NODES = 8  # what the limits count for one record


def read_record(m: PickleReader) -> bool:
    """Read a whole tensor from its first mark on, which is already behind; False, and nothing done, for anything else.

    On the stack stands what is called with it (`torch._utils._rebuild_tensor_v2`).
    """
    found = _RECORD(m.buf, m.pos - 1)
    if found is None or type(m.stack[-1]) is not Global:
        return False
    words, length, key, put_key, device, numel, extra, put_id, offset, size, stride, hooks, end = found.groups()
    refs = m.refs.get(words + device + hooks) or _referred(m, words, device, hooks)
    shape, strides, base = _record_dims(size[:-4]), _record_dims(stride[:-4]), len(m.memo)
    if refs is None or shape is None or strides is None or length[0] != len(key):
        return False
    puts = put_key + put_id + (size[-4:] if shape else b"") + (stride[-4:] if strides else b"")
    last = base + len(puts) // 4
    if puts != _FRONT[last - base](*range(base, last)) or end != _CALL_END(
        b"r", last, b"tr", last + 1, b"Rr", last + 2
    ):
        return False
    word, kind, place, grad, hook = refs
    m.stack[-1].called = hook.called = True
    storage = word, kind, key.decode("ascii"), place, _int(numel), bool(extra)
    record = TensorRecord(base, storage, (_int(offset), shape, strides), grad, hook)
    m.stack[-1] = made = PendingCall(m.stack[-1], record)
    m.memo.extend([record] * (last - base + 2))
    m.memo.append(made)
    m.persistent.append(record)
    m.nodes += _RECORD_NODES
    m.pos = found.end()
    return True


def _referred(m: PickleReader, words: bytes, device: bytes, hooks: bytes) -> tuple[PickleNode, ...] | None:
    """What the references of a record refer to, kept for the next one; None where that has to be looked at closely."""
    at = 2 if words[:1] == b"h" else 5
    word, kind, place, hook = (_known(m, raw) for raw in (words[:at], words[at:], device, hooks[1:]))
    if UNSET in (word, kind, place) or word == "module" or type(hook) is not Global:
        return None
    found = m.refs[words + device + hooks] = word, kind, place, hooks[:1] == b"\x88", hook
    return found


def _known(m: PickleReader, raw: bytes) -> PickleNode:
    """What a reference refers to, if it can be had without unpacking anything."""
    index = raw[1] if len(raw) == 2 else int.from_bytes(raw[1:], "little")
    value = m.memo[index] if index < len(m.memo) else UNSET
    return UNSET if type(value) is TensorRecord else value


@lru_cache(1 << 12)
def _record_dims(raw: bytes) -> tuple[int, ...] | None:
    """The numbers of a size or stride; None for a tuple that takes more or fewer than there are."""
    if not raw:
        return ()  # the pickle has one empty tuple, and does not remember it
    body, end = raw.removeprefix(b"(").removesuffix(b"r")[:-1], raw[-2]
    found, at = [], 0
    while at < len(body):
        width = _WIDTHS[body[at]]
        found.append(_int(body[at : at + width]))
        at += width
    return tuple(found) if end == ord("t") or len(found) == end - 0x84 else None


_WIDTHS = {ord("K"): 2, ord("M"): 3, ord("J"): 5}


@lru_cache(1 << 12)
def _int(raw: bytes) -> int:
    return int.from_bytes(raw[1:], "little", signed=len(raw) == 5)
