"""How far a name that a pickle imports can be trusted: harmless, unknown or dangerous.

Nothing is ever resolved: a list of bad names cannot be complete, so what stands on neither list is "unknown", and the
reader does not need the answer to be safe.
"""

from __future__ import annotations

import re
from enum import Enum

from modelprobe.checkpoint.dtypes import BITS, STORAGE_CLASSES


class Trust(str, Enum):
    """How far a name can be trusted."""

    HARMLESS = "harmless"
    UNKNOWN = "unknown"
    DANGEROUS = "dangerous"


REBUILDERS = frozenset(
    (
        "_rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_parameter _rebuild_qtensor "
        "_rebuild_parameter_with_state _rebuild_sparse_tensor _rebuild_sparse_csr_tensor "
        "_rebuild_meta_tensor_no_storage _rebuild_nested_tensor _rebuild_device_tensor_from_numpy "
        "_rebuild_device_tensor_from_cpu_tensor _rebuild_wrapper_subclass _rebuild_xla_tensor"
    ).split()
)
HARMLESS: dict[str, frozenset[str]] = {
    "torch._utils": REBUILDERS,
    "torch._tensor": frozenset({"_rebuild_from_type_v2", "Tensor"}),
    "torch.tensor": frozenset({"_rebuild_from_type_v2", "_rebuild_from_type", "Tensor"}),
    "torch.nn.parameter": frozenset({"Parameter", "Buffer", "UninitializedParameter"}),
    "torch.serialization": frozenset({"_get_layout"}),
    "torch.storage": frozenset({"UntypedStorage", "TypedStorage", "_UntypedStorage", "_TypedStorage"}),
    "torch.jit._pickle": frozenset(
        ("build_intlist build_tensorlist build_doublelist build_boollist build_tensor_from_id restore_type_tag").split()
    ),
    "torch": frozenset({"Size", "device", "Tensor", "Generator", *BITS, *STORAGE_CLASSES})
    | {"per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_affine_float_qparams"}
    | {"strided", "sparse_coo", "preserve_format", "contiguous_format", "channels_last", "LongTensor", "FloatTensor"},
    "torch.cuda": frozenset(STORAGE_CLASSES),
    "torch.distributed.checkpoint.metadata": frozenset(
        (
            *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "MetadataIndex"),
            *("TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING"),
        )
    ),
    "torch.distributed.checkpoint.filesystem": frozenset({"_StorageInfo"}),
    "collections": frozenset({"OrderedDict", "Counter", "defaultdict", "deque"}),
    "builtins": frozenset(
        (
            "set frozenset dict list tuple int float str bytes bytearray complex bool object slice range type "
            "Ellipsis NoneType"
        ).split()
    ),
    "_codecs": frozenset({"encode"}),
    "copyreg": frozenset({"_reconstructor", "__newobj__", "__newobj_ex__"}),
    "argparse": frozenset({"Namespace"}),
    "types": frozenset({"SimpleNamespace"}),
    "datetime": frozenset({"datetime", "date", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID"}),
    "pathlib": frozenset({"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"}),
    "pathlib._local": frozenset({"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"}),
    "numpy": frozenset({"dtype", "ndarray", "float64", "float32", "int64", "int32", "bool_", "str_"}),
}
for _core in ("numpy.core.", "numpy._core."):
    HARMLESS[f"{_core}multiarray"] = frozenset({"_reconstruct", "scalar"})
    HARMLESS[f"{_core}numeric"] = frozenset({"_frombuffer"})
del _core

LAYERS = re.compile(r"torch\.nn\.modules\.\w+|torch\.optim\.\w+|torch\.nn\.parallel\.\w+")
"""torch's own layers and optimizers: unpickling makes them without running their constructors."""

OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg", "cPickle": "pickle", "commands": "subprocess"}

BUILTINS = frozenset(
    (
        "eval exec execfile compile open file __import__ getattr setattr delattr apply globals locals vars input "
        "raw_input breakpoint help map filter reduce exit quit reload memoryview super __build_class__ print dir"
    ).split()
)
MODULES = frozenset(
    (
        "copyreg extension",
        *(
            "os posix nt ntpath posixpath sys subprocess _posixsubprocess shutil socket ssl pty tty fcntl runpy "
            "importlib imp zipimport pkgutil ctypes _ctypes cffi code codeop pdb bdb timeit cProfile profile pstats "
            "trace tracemalloc webbrowser urllib urllib2 http httplib httpx requests aiohttp ftplib smtplib "
            "telnetlib poplib imaplib nntplib xmlrpc socketserver asyncio multiprocessing _winapi winreg _winreg "
            "msvcrt pickle _pickle dill cloudpickle joblib marshal shelve operator _operator inspect linecache "
            "atexit signal threading _thread gc tempfile glob fileinput io _io platform getpass pip setuptools "
            "distutils ensurepip venv idlelib lib2to3 pydoc doctest unittest test cgitb cgi logging site sysconfig "
            "_osx_support _aix_support _pyrepl antigravity sqlite3 mailcap mimetypes readline rlcompleter tkinter "
            "turtle zipfile tarfile resource mmap weakref symtable dis ast types builtins _frozen_importlib "
            "_frozen_importlib_external _bootlocale fabric paramiko psutil IPython"
        ).split(),
    )
)
"""Top-level modules of which every name that is not listed as harmless counts as dangerous."""

PREFIXES = tuple(
    (
        "torch.hub torch.jit torch._dynamo torch._inductor torch.utils torch.package torch.onnx "
        "torch.distributed.rpc torch.distributed.run torch.distributed.elastic torch.testing torch.fx numpy.testing "
        "numpy.f2py numpy.distutils numpy.lib numpy.ctypeslib numpy.memmap"
    ).split()
)
DANGEROUS_NAMES = frozenset(
    (
        "functools.reduce torch.serialization.load torch.serialization.save torch.load torch.save torch.compile "
        "numpy.load numpy.save numpy.fromfile numpy.memmap"
    ).split()
)


def trust_of(module: str, name: str) -> Trust:
    """The verdict about one imported name."""
    module = OLD_NAMES.get(module, module)
    if name in HARMLESS.get(module, ()):
        return Trust.HARMLESS
    if module == "builtins":
        return Trust.DANGEROUS if name.partition(".")[0] in BUILTINS or "." in name else Trust.UNKNOWN
    top = module.partition(".")[0]
    if top in MODULES or f"{module}.{name}" in DANGEROUS_NAMES:
        return Trust.DANGEROUS
    if any(f"{module}.{name}.".startswith(f"{prefix}.") for prefix in PREFIXES):
        return Trust.DANGEROUS
    if LAYERS.fullmatch(module) and re.fullmatch(r"[A-Z]\w*", name):
        return Trust.HARMLESS
    odd = not all(part.isidentifier() and not part.startswith("_") for part in name.split("."))
    if "." in name and (odd or name.partition(".")[0] in HARMLESS.get(module, ()) or _through(name)):
        return Trust.DANGEROUS  # an attribute path to something its author did not mean to export, or to a method
    return Trust.UNKNOWN


def _through(name: str) -> bool:
    """Whether an attribute path ends in what is dangerous: `torch.hub.load` by way of a module that imports torch."""
    parts = name.split(".")[-8:]
    return any(
        trust_of(".".join(parts[at:-1]), parts[-1]) is Trust.DANGEROUS for at in range(len(parts) - 1)
    )  # fmt: skip
