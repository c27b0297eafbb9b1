"""The rebuild functions of torch and numpy: which tensor a call in a pickle stands for. None of them is called.

How to add one: write a function from (table, call) to a `TensorView`, decorate it with the function's name and the
first part of its module, add a case to `tests/checkpoint/test_listing.py`. It returns None when the arguments make no
sense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from modelprobe.checkpoint.dtypes import ALIASES, BITS, element_count, numpy_dtype, tensor_bytes
from modelprobe.checkpoint.pickle.nodes import Blob, Global, PendingCall, PickleNode, called, integers, last_part
from modelprobe.checkpoint.pickle.storages import StorageTable
from modelprobe.checkpoint.records import BUFFER, PARAMETER


@dataclass(slots=True)
class TensorView:
    """A tensor as a call declares it. `offset` counts elements of the dtype; `extra` bytes lie in other storages.

    Not frozen, since one is made for every tensor and lives for a moment: freezing takes longer than all the rest.
    """

    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...] | None = None
    offset: int = 0
    storage: str = ""
    device: str = ""
    role: str | None = None
    requires_grad: bool | None = None
    flags: tuple[str, ...] = ()
    extra: int = 0
    quantizer: str = ""


MAX_REBUILD_DEPTH = 5
"""Calls within calls: a parameter of a subclass of a sparse tensor is four; a forged file could nest without end."""

RebuildRule = Callable[[StorageTable, PendingCall], "TensorView | None"]
REBUILD_RULES: dict[str, tuple[str, RebuildRule]] = {}


def rebuilds(names: str, module: str = "torch") -> Callable[[RebuildRule], RebuildRule]:
    """Enter a rule for every name of `names`; a second one for the same name raises."""

    def enter(function: RebuildRule) -> RebuildRule:
        for name in names.split():
            if name in REBUILD_RULES:
                raise ValueError(f"two rules for {name}")
            REBUILD_RULES[name] = (module, function)
        return function

    return enter


def view_of(table: StorageTable, node: PickleNode) -> TensorView | None:
    """The tensor that `node` stands for, or None when it is something else."""
    if type(node) is not PendingCall or type(node.func) is not Global:
        return None
    module, function = REBUILD_RULES.get(node.func.name, ("", None))
    if function is None or node.func.module.partition(".")[0] != module:
        return None
    if node.record is None and type(node.args) is not tuple:
        return None
    if table.depth >= MAX_REBUILD_DEPTH:
        return None
    table.depth += 1
    found = function(table, node)
    table.depth -= 1
    return found


@rebuilds("_rebuild_tensor_v2 _rebuild_tensor _rebuild_tensor_v3")
def strided(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(storage, offset, size, stride, requires_grad, hooks, …)`; v1 has four arguments, v3 carries the dtype."""
    record = call.record
    if record is not None:
        if record.word != "storage":
            return TensorView(record.shape, "", record.strides, record.offset, requires_grad=record.grad)
        key, dtype, device = table.named(record.kind, record.key, record.device, record.numel)
        return TensorView(record.shape, dtype, record.strides, record.offset, key, device, None, record.grad)
    args = call.args
    if len(args) < 4:
        return None
    shape, strides = integers(args[2]), integers(args[3])
    if shape is None or strides is None or type(args[1]) is not int:
        return None
    key, dtype, device = table.storage(args[0])
    third = call.func.name == "_rebuild_tensor_v3"
    if third and len(args) > 6:
        dtype = dtype_name(args[6])
    grad = args[4] if len(args) > 4 and type(args[4]) is bool else None
    meta = args[7 if third else 6] if len(args) > (7 if third else 6) else None
    return TensorView(shape, dtype, strides, args[1], key, device, None, grad, _bits_set(meta))


def _bits_set(metadata: PickleNode) -> tuple[str, ...]:
    """What the numbers of a view are, against those in the storage: torch saves conjugates as bits."""
    flat = getattr(metadata, "pairs", None) or ()
    bits = dict(zip(map(str, flat[::2]), flat[1::2], strict=False))
    return tuple(flag for bit, flag in (("conj", "conjugate"), ("neg", "negated")) if bits.get(bit) is True)


@rebuilds("_rebuild_parameter _rebuild_parameter_with_state")
def parameter(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(data, requires_grad, hooks[, state])`."""
    inner = view_of(table, call.args[0]) if call.args else None
    grad = call.args[1] if len(call.args) > 1 and type(call.args[1]) is bool else None
    flags = _attributes_given(call)
    return replace(inner, role=PARAMETER, requires_grad=grad, flags=(*inner.flags, *flags)) if inner else None


def _attributes_given(call: PendingCall) -> tuple[str, ...]:
    """Whether the fourth argument of a call, a state, has attributes for the tensor."""
    state = call.args[3] if len(call.args) > 3 else None
    held = state if type(state) is tuple else (state,)  # of slots, behind the attributes
    return ("attributes",) if any(getattr(each, "pairs", None) for each in held) else ()


@rebuilds("Parameter Buffer Variable")
def old_parameter(table: StorageTable, call: PendingCall) -> TensorView | None:
    """Before torch 0.4 a parameter was an object: the tensor is its argument or the first item of its state."""
    given = call.args or (call.state if type(call.state) is tuple else ())
    inner = view_of(table, given[0]) if given else None
    role = {"Parameter": PARAMETER, "Buffer": BUFFER}.get(call.func.name)
    grad = next((item for item in given[1:] if type(item) is bool), None)
    return replace(inner, role=role, requires_grad=grad) if inner else None


@rebuilds("_rebuild_from_type_v2 _rebuild_from_type")
def typed(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(function, class, arguments, state)`: a tensor subclass or a tensor with attributes."""
    if len(call.args) < 3 or type(call.args[2]) is not tuple:
        return None
    inner = view_of(table, PendingCall(call.args[0], call.args[2]))
    kind = call.args[1].spelled if type(call.args[1]) is Global else "?"
    if inner is None or kind in ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"):
        return replace(inner, flags=(*inner.flags, *_attributes_given(call))) if inner else None
    role = BUFFER if kind == "torch.nn.parameter.Buffer" else inner.role
    return replace(inner, role=role, flags=(*inner.flags, "subclass"))


@rebuilds("_rebuild_qtensor")
def quantised(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(storage, offset, size, stride, quantizer, requires_grad, hooks)`."""
    found = strided(table, PendingCall(Global("torch._utils", "_rebuild_tensor"), call.args[:4]))
    words = [item.name if type(item) is Global else str(item) for item in scheme_of(call) if type(item) in SIMPLE]
    return replace(found, flags=(*found.flags, "quantised"), quantizer=" ".join(words)) if found else None


SIMPLE = (Global, int, float)


def scheme_of(call: PickleNode) -> tuple[PickleNode, ...]:
    """The quantizer of a call that makes a quantized tensor: its scheme, scale and zero point; empty for others."""
    args = call.args if last_part(called(call)) == "_rebuild_qtensor" else ()
    return args[4] if type(args) is tuple and len(args) > 4 and type(args[4]) is tuple else ()


@rebuilds("_rebuild_sparse_tensor _rebuild_sparse_csr_tensor")
def sparse(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(layout, (indices, values, size[, coalesced]))`, compressed layouts with two index tensors."""
    parts = call.args[1] if len(call.args) > 1 and type(call.args[1]) is tuple else ()
    parts = parts[:4]
    inner = [view for view in (view_of(table, part) for part in parts) if view]
    shape = next((found for found in map(integers, reversed(parts)) if found is not None), None)
    if not inner or shape is None:
        return None
    values = inner[-1]
    extra = sum(table.length(view.storage) for view in inner)
    return TensorView(shape, values.dtype, None, 0, values.storage, values.device, None, None, ("sparse",), extra)


@rebuilds("_rebuild_nested_tensor")
def nested(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(buffer, sizes, strides, offsets)`: shown as its flat buffer."""
    inner = view_of(table, call.args[0]) if call.args else None
    return replace(inner, flags=(*inner.flags, "nested")) if inner else None


@rebuilds("_rebuild_meta_tensor_no_storage")
def meta(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(dtype, size, stride, requires_grad)`."""
    if len(call.args) < 3:
        return None
    shape, strides = integers(call.args[1]), integers(call.args[2])
    if shape is None:
        return None
    return TensorView(shape, dtype_name(call.args[0]), strides, device="meta", flags=("no-storage",))


@rebuilds("_rebuild_wrapper_subclass")
def wrapper(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(class, dtype, size, stride, offset, layout, device, requires_grad)`: the data stand in inner tensors."""
    if len(call.args) < 4 or integers(call.args[2]) is None:
        return None
    return TensorView(
        integers(call.args[2]) or (), dtype_name(call.args[1]), integers(call.args[3]), flags=("no-storage",)
    )


@rebuilds("_rebuild_device_tensor_from_numpy _rebuild_device_tensor_from_cpu_tensor _rebuild_xla_tensor")
def moved_tensor(table: StorageTable, call: PendingCall) -> TensorView | None:
    """`(data, dtype, device, requires_grad)`."""
    inner = view_of(table, call.args[0]) if call.args else None
    if inner is None or len(call.args) < 3:
        return None
    return replace(inner, device=call.args[2] if type(call.args[2]) is str else inner.device)


@rebuilds("_reconstruct", "numpy")
def array(table: StorageTable, call: PendingCall) -> TensorView | None:
    """numpy's array: the state is `(version, shape, dtype, fortran order, bytes)`."""
    state = call.state
    if type(state) is not tuple or len(state) < 4 or not class_of(call).endswith("ndarray"):
        return None
    shape, fortran, data = integers(state[-4]), state[-2], state[-1]
    return _numpy_array(table, shape, state[-3], fortran is True or fortran == 1, data)


@rebuilds("_frombuffer", "numpy")
def frombuffer(table: StorageTable, call: PendingCall) -> TensorView | None:
    """numpy's array under pickle protocol 5: `(buffer, dtype, shape, order)`."""
    if len(call.args) < 4:
        return None
    return _numpy_array(table, integers(call.args[2]), call.args[1], call.args[3] == "F", call.args[0])


def class_of(call: PendingCall) -> str:
    """The class that is the first argument of a call."""
    return call.args[0].spelled if call.args and type(call.args[0]) is Global else ""


def _numpy_array(
    table: StorageTable, shape: tuple[int, ...] | None, dtype: PickleNode, fortran: bool, data: PickleNode
) -> TensorView | None:
    name, big = array_dtype(dtype)
    if shape is None or not name:
        return None
    if type(data) is PendingCall and called(data).endswith("bytearray") and type(data.args) is tuple and data.args:
        data = data.args[0]
    if called(data) == "_codecs.encode" and type(data.args) is tuple and data.args:
        data = data.args[0]  # how Python 3 writes bytes for protocols below 3: as Latin-1 text
    key = table.inline(data if type(data) in (Blob, str) else None, tensor_bytes(element_count(shape, name) or 0, name))
    flags = ("big-endian",) if big else ()
    return TensorView(shape, name, packed_strides(shape, fortran), 0, key, "cpu", None, None, flags)


def packed_strides(shape: tuple[int, ...], fortran: bool = False) -> tuple[int, ...]:
    """The strides of a tensor without gaps, last dimension fastest (first with `fortran`)."""
    strides, step = [], 1
    for dim in shape if fortran else reversed(shape):
        strides.append(step)
        step *= max(dim, 1)
    return tuple(strides if fortran else reversed(strides))


def array_dtype(node: PickleNode) -> tuple[str, bool]:
    """A pickled numpy dtype: `dtype('f4', …)` with the byte order in its state."""
    if (
        type(node) is not PendingCall
        or last_part(called(node)) != "dtype"
        or type(node.args) is not tuple
        or not node.args
    ):
        return "", False
    descr = node.args[0]
    name, big = numpy_dtype(descr) if type(descr) is str else ("", False)
    order = node.state[1] if type(node.state) is tuple and len(node.state) > 1 else "<"
    return name, big or order == ">"


def dtype_name(node: PickleNode) -> str:
    """The dtype that `torch.float32` names; empty for anything else."""
    if type(node) is Global and node.module == "torch":
        name = ALIASES.get(node.name, node.name)
        return name if name in BITS else ""
    return ""
