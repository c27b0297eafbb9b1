"""The arrays of a joblib file, which stand between the instructions of its pickle, behind each NumpyArrayWrapper.

Source: joblib/numpy_pickle.py, `NumpyArrayWrapper.read_array`: a pickle of its own where the elements are Python
objects; else, where `numpy_array_alignment_bytes` is set, a byte with the length of a padding and that padding, and the
elements.
"""

from __future__ import annotations

import re
from math import prod

from modelprobe.checkpoint.pickle.nodes import Dict, Global, PendingCall, PickleNode, pairs

WRAPPER = ("joblib.numpy_pickle", "NumpyArrayWrapper")
HAS_OBJECTS = 1
"""numpy's flag of a dtype that holds Python objects."""


def is_wrapper(node: PickleNode) -> bool:
    """Whether an array stands behind the instruction that gives `node` its state."""
    func = node.func if type(node) is PendingCall else None
    return type(func) is Global and (func.module, func.name) == WRAPPER


def array_bytes(state: PickleNode) -> tuple[bool, int | None]:
    """Whether a padding may come first, and the bytes of the array; None where a pickle stands in its place.

    Raises ValueError for a state that joblib does not write.
    """
    if type(state) is not Dict:
        raise ValueError("it describes no array")
    told = {key: value for key, value in pairs(state) if type(key) is str}
    shape, dtype = told.get("shape"), told.get("dtype")
    if type(shape) is not tuple or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("its array has no shape")
    padded = told.get("numpy_array_alignment_bytes") is not None
    size = _item_bytes(dtype)
    return padded, None if size is None else size * prod(shape)


def _item_bytes(dtype: PickleNode) -> int | None:
    """Bytes of an element; None for Python objects."""
    args = dtype.args if type(dtype) is PendingCall else None
    text = args[0] if type(args) is tuple and args else None
    found = re.fullmatch(r"([?a-zA-Z])(\d*)", text) if type(text) is str else None
    if found is None or type(dtype) is not PendingCall:
        raise ValueError("its array has no dtype")
    state = dtype.state if type(dtype.state) is tuple else ()
    flags = state[7] if len(state) > 7 and type(state[7]) is int else 0
    if found[1] == "O" or flags & HAS_OBJECTS:
        return None
    if not found[2]:
        raise ValueError("its array has a dtype without a size")
    return int(found[2]) * (4 if found[1] == "U" else 1)
