"""Would `torch.load` take a file? By torch's own list of what its `weights_only` unpickler allows, without torch.

The list is that of torch 2.6 (`torch._weights_only_unpickler._get_allowed_globals`), whose first release made
`weights_only` the default; later ones added dtypes alone, which are all taken. Tests compare it with the installed one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from modelprobe.checkpoint.pickle.globals import OLD_NAMES, Trust, judged
from modelprobe.checkpoint.records import GlobalEntry

_KINDS = "BFloat16 Bool Byte Char Double Float Half Int Long Short".split()
_SPARSE = frozenset(f"{kind}Tensor" for kind in _KINDS if kind != "Bool")
_STORAGES = frozenset(f"{kind}Storage" for kind in (*_KINDS, "ComplexDouble", "ComplexFloat"))
_DENSE = frozenset(f"{kind}Tensor" for kind in _KINDS)
_DTYPE = re.compile(
    r"u?int\d+|float(16|32|64)|bfloat16|bool|b?complex\d+|float(8|4)_\w+|q(u?int\d+(x\d)?)|bits\d+(x\d)?"
)

ALLOWED: dict[str, frozenset[str]] = {
    "_codecs": frozenset({"encode"}),
    "builtins": frozenset({"bytearray", "complex", "set"}),
    "collections": frozenset({"Counter", "OrderedDict"}),
    "torch": _STORAGES | _DENSE | {"QInt32Storage", "QInt8Storage", "QUInt2x4Storage", "QUInt4x2Storage"}
    | {"QUInt8Storage", "Size", "Tensor", "device", "per_channel_affine", "per_channel_affine_float_qparams"}
    | {"per_channel_symmetric", "per_tensor_affine", "per_tensor_symmetric"},
    "torch.cuda": _STORAGES | _DENSE,
    "torch.sparse": _SPARSE,
    "torch.cuda.sparse": _SPARSE,
    "torch._tensor": frozenset({"_rebuild_from_type_v2"}),
    "torch._utils": frozenset(
        (
            "_rebuild_device_tensor_from_cpu_tensor _rebuild_device_tensor_from_numpy _rebuild_meta_tensor_no_storage "
            "_rebuild_nested_tensor _rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor "
            "_rebuild_sparse_tensor _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_wrapper_subclass"
        ).split()
    ),
    "torch.nn.parameter": frozenset({"Parameter"}),
    "torch.serialization": frozenset({"_get_layout"}),
    "torch.storage": frozenset({"TypedStorage", "UntypedStorage"}),
}  # fmt: skip

_DTYPES_OF_NUMPY = {
    "f2": "Float16DType", "f4": "Float32DType", "f8": "Float64DType", "i1": "Int8DType", "i2": "Int16DType",
    "i4": "Int32DType", "i8": "Int64DType", "u1": "UInt8DType", "u2": "UInt16DType", "u4": "UInt32DType",
    "u8": "UInt64DType", "b1": "BoolDType", "c8": "Complex64DType", "c16": "Complex128DType",
}  # fmt: skip
"""What `numpy.dtype(text)` is an instance of, which the unpickler wants to be told as well."""


NEVER = {("numpy", "memmap"), ("collections", "deque"), ("_collections", "deque"), ("builtins", "getattr")}
"""What the unpickler fills by appending, which it does to lists alone, and what no one should allow."""


def allowed(module: str, name: str) -> bool:
    """Whether torch's `weights_only` unpickler takes a name as it is."""
    return name in ALLOWED.get(module, ()) or (module == "torch" and _DTYPE.fullmatch(name) is not None)


def refused(found: Iterable[GlobalEntry]) -> list[GlobalEntry]:
    """The names for which `torch.load` refuses a file."""
    return [entry for entry in found if not allowed(OLD_NAMES.get(entry.module, entry.module), entry.name)]


def allowing(entries: Sequence[GlobalEntry]) -> str:
    """The line of Python that makes `torch.load` take them; empty where one of them is not harmless to allow."""
    wanted: dict[str, None] = {}
    for entry in entries:
        verdict = judged(entry.module, entry.name, called=entry.called, texts=entry.texts)
        module = OLD_NAMES.get(entry.module, entry.module)
        bad = verdict.trust in (Trust.SUSPICIOUS, Trust.DANGEROUS) or not entry.name.isidentifier()
        if bad or (module, entry.name) in NEVER:
            return ""
        wanted[entry.name if module == "builtins" else f"{module}.{entry.name}"] = None
        if (module, entry.name) == ("numpy", "dtype"):
            wanted |= {
                f"numpy.dtypes.{_DTYPES_OF_NUMPY[text]}": None for text in entry.texts if text in _DTYPES_OF_NUMPY
            }
    modules = dict.fromkeys(name.rpartition(".")[0] for name in wanted if "." in name)
    imports = f"import {', '.join(['torch', *(name for name in modules if name != 'torch')])}; "
    return f"{imports}torch.serialization.add_safe_globals([{', '.join(wanted)}])"
