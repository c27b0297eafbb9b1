"""How far a name that a pickle imports can be trusted, and what it could reach.

Nothing is ever resolved. A list of bad names cannot be complete, so the lists here are of what is harmless: what
torch's own `weights_only` allows, and the rebuilders of well-known libraries. Of the standard library, torch and numpy,
whatever else is called is at least suspicious; the lists of what is dangerous only say why.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from modelprobe.checkpoint.dtypes import BITS, STORAGE_CLASSES
from modelprobe.checkpoint.pickle.abilities import (
    BUILTINS,
    CLASS_WORDS,
    DANGEROUS_NAMES,
    EVALUATE,
    MODULES,
    PREFIXES,
    REACH,
    REBUILDS,
    RUN,
    UNPICKLE,
    ability_of,
    owner_of,
)
from modelprobe.checkpoint.pickle.arguments import ARGUMENTS, HIDING_CODECS, LOUD, SENSITIVE_MODULES, SHELLS


class Trust(str, Enum):
    """How far a name can be trusted."""

    HARMLESS = "harmless"
    UNKNOWN = "unknown"
    SUSPICIOUS = "suspicious"
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
    "torch.nn.modules.module": frozenset({"_WrappedHook"}),
    "torch.utils.data.dataset": frozenset({"TensorDataset", "ConcatDataset", "StackDataset", "Subset"}),
    "torch.utils.data.dataloader": frozenset({"DataLoader"}),
    "torch.utils.data._utils.collate": frozenset({"default_collate"}),
    "torch.utils.data.sampler": frozenset(
        f"{kind}Sampler" for kind in ("", "Batch", "Random", "Sequential", "SubsetRandom", "WeightedRandom")
    ),
    "torch.nn.parameter": frozenset({"Parameter", "Buffer", "UninitializedParameter"}),
    "torch._C": frozenset({"Generator"}),
    "torch._dynamo.decorators": frozenset({"_DimRange"}),
    "torch.nested._internal.nested_tensor": frozenset({"NestedTensor", "_rebuild_njt"}),
    "torch.serialization": frozenset({"_get_layout"}),
    "torch.storage": frozenset({"UntypedStorage", "TypedStorage", "_UntypedStorage", "_TypedStorage"}),
    "torch.jit._pickle": frozenset(
        ("build_intlist build_tensorlist build_doublelist build_boollist build_tensor_from_id restore_type_tag").split()
    ),
    "torch": frozenset({"Size", "device", "Tensor", "Generator", "ScriptObject", *BITS, *STORAGE_CLASSES})
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
    "collections": frozenset({"OrderedDict", "Counter", "defaultdict", "deque", "ChainMap", "UserDict", "UserList"}),
    "_collections": frozenset({"OrderedDict", "defaultdict", "deque"}),
    "array": frozenset({"array", "_array_reconstructor"}),
    "functools": frozenset({"partial"}),
    "io": frozenset({"BytesIO", "StringIO"}),
    "_io": frozenset({"BytesIO", "StringIO"}),
    "random": frozenset({"Random"}),
    "re": frozenset({"_compile"}),
    "regex._regex": frozenset({"compile"}),
    "dateutil.tz.tz": frozenset({"tzutc", "tzlocal", "tzoffset", "tzrange", "tzstr"}),
    "dateutil.tz._tzfile": frozenset({"_unpickle"}),
    "logging": frozenset({"getLogger"}),
    "operator": frozenset({"itemgetter"}),
    "time": frozenset({"struct_time"}),
    "ipaddress": frozenset({"IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network"}),
    "torch.torch_version": frozenset({"TorchVersion"}),
    "zoneinfo": frozenset({"ZoneInfo", "ZoneInfo._unpickle"}),
    "joblib.numpy_pickle": frozenset({"NumpyArrayWrapper", "NDArrayWrapper", "ZNDArrayWrapper"}),
    "numpy.ma.core": frozenset({"_mareconstruct", "MaskedArray"}),
    "numpy.ma": frozenset({"MaskedArray"}),
    "numpy.matrixlib.defmatrix": frozenset({"matrix"}),
    "numpy.random._pickle": frozenset({"__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor"}),
    "sklearn.utils._bunch": frozenset({"Bunch"}),
    "pandas._libs.internals": frozenset({"_unpickle_block"}),
    "pandas._libs.tslibs.nattype": frozenset({"_nat_unpickle"}),
    "pandas._libs.tslibs.timedeltas": frozenset({"_timedelta_unpickle"}),
    "pandas._libs.tslibs.timestamps": frozenset({"_unpickle_timestamp"}),
    "pandas.core.internals.blocks": frozenset({"new_block"}),
    "pandas.core.indexes.base": frozenset({"_new_Index"}),
    "builtins": frozenset(
        (
            "set frozenset dict list tuple int float str bytes bytearray complex bool object slice range type "
            "Ellipsis NoneType"
        ).split()
    ),
    "_codecs": frozenset({"encode"}),
    "copyreg": frozenset({"_reconstructor", "__newobj__", "__newobj_ex__"}),
    "argparse": frozenset({"Namespace"}),
    "types": frozenset({"SimpleNamespace", "MethodType"}),
    "inspect": frozenset({"Signature", "Parameter", "_ParameterKind", "_empty"}),
    "datetime": frozenset({"datetime", "date", "time", "timedelta", "timezone", "tzinfo"}),
    "decimal": frozenset({"Decimal", "Context"}),
    "itertools": frozenset({"count", "cycle", "repeat"}),
    "fractions": frozenset({"Fraction"}),
    "uuid": frozenset({"UUID"}),
    "pathlib": frozenset({"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"}),
    "pathlib._local": frozenset({"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"}),
    "numpy": frozenset(
        "dtype ndarray float64 float32 int64 int32 bool_ str_ matrix poly1d recarray record vectorize".split()
    ),
    "numpy.rec": frozenset({"recarray", "record"}),
    **{
        f"numpy.polynomial.{kind.lower()}": frozenset({kind})
        for kind in ("Polynomial", "Chebyshev", "Legendre", "Hermite", "Laguerre")
    },
}
for _core in ("numpy.core.", "numpy._core."):
    HARMLESS[f"{_core}multiarray"] = frozenset({"_reconstruct", "scalar"})
    HARMLESS[f"{_core}numeric"] = frozenset({"_frombuffer"})
    HARMLESS[f"{_core}records"] = frozenset({"recarray", "record"})
del _core

LAYERS = re.compile(
    r"torch\.(nn|optim|ao|quantization|distributions)(\.(?!fx\.|ns\.|_numeric_suite)\w+)+\."
    r"(?!(GraphModule|Graph|Node|Tracer|Library|RRef|ExceptionWrapper)$)[A-Z]\w*"
)
"""torch's own layers, optimizers and observers: unpickling makes them without running their constructors.

Without what those modules import from elsewhere in torch, and what compiles the code of a graph.
"""

OLD_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg", "cPickle": "pickle", "commands": "subprocess"}

RESOLVED = ("taken by name",)
"""In place of the texts of a `getattr` that was given names and texts alone: what it gives is a name of its own."""


@dataclass(frozen=True, slots=True)
class TrustVerdict:
    """How far a name can be trusted in this file, and why not further."""

    trust: Trust
    reason: str = ""


def trust_of(module: str, name: str) -> Trust:
    """The verdict about one imported name, whether it is called or not."""
    return judged(module, name, called=False).trust


def judged(module: str, name: str, *, called: bool, texts: Sequence[str] = (), reduced: bool = False) -> TrustVerdict:
    """The verdict about a name of a pickle: by what it can reach, whether it is called, and with which texts.

    `reduced`: it is called itself, as functions are, and not the `__new__` of a class.
    """
    if "?" in (module, name):
        return TrustVerdict(Trust.DANGEROUS, "a name that the pickle computes, which no honest writer does")
    module = OLD_NAMES.get(module, module)
    if name in HARMLESS.get(module, ()):
        return _by_texts(module, name, texts)
    if (texts == RESOLVED and not called) or ((module, name) == ("numpy", "memmap") and {*texts} <= {"b"}):
        return TrustVerdict(Trust.HARMLESS)  # of a memmap a pickle makes an empty array by its class alone
    known = _listed(module, name, called, texts)
    if known is not None:
        return known
    if LAYERS.fullmatch(f"{module}.{name}"):
        return TrustVerdict(Trust.HARMLESS)
    if name.startswith("__pyx_unpickle_"):
        return TrustVerdict(Trust.UNKNOWN)  # how Cython makes an object of a class of the package
    own = _is_own(owner_of(module))
    if own and not called:
        return _by_name_alone(name)
    verdict = _by_call(own, name, texts, module.partition(".")[0]) if called else TrustVerdict(Trust.UNKNOWN)
    function = not re.fullmatch(r"_*[A-Z]\w*", name.rpartition(".")[2])
    if reduced and function and verdict.trust is Trust.UNKNOWN and not REBUILDS.search(name.rpartition(".")[2]):
        top = module.partition(".")[0]
        return TrustVerdict(Trust.SUSPICIOUS, f"a function of {top} that no weight file needs is called")
    return verdict


def _is_own(owner: str) -> bool:
    """Whether nothing else of a package is called by an honest writer than what is listed."""
    return owner in sys.stdlib_module_names or owner in ("torch", "numpy")


def _by_texts(module: str, name: str, texts: Sequence[str]) -> TrustVerdict:
    """Of a rebuilder, by what it is given."""
    if (module, name) == ("_codecs", "encode") and not HIDING_CODECS.isdisjoint(map(str.lower, texts)):
        return TrustVerdict(Trust.SUSPICIOUS, "decodes hidden text")
    if (module, name) == ("builtins", "type") and texts:
        return TrustVerdict(Trust.DANGEROUS, "makes a class, whose methods loading may call")
    return TrustVerdict(Trust.HARMLESS)


def _by_name_alone(name: str) -> TrustVerdict:
    """Of something of the standard library, torch or numpy that the pickle itself does not call: others may."""
    if name in MODULES:
        return TrustVerdict(Trust.DANGEROUS, REACH)
    last = name.rpartition(".")[2]
    ability = "" if re.fullmatch(r"_*[A-Z]\w*", last) else ability_of(name)
    if ability or name.startswith("_"):
        return TrustVerdict(Trust.SUSPICIOUS, ability or REACH)
    if "." in name and not last[:1].isupper():
        return TrustVerdict(Trust.SUSPICIOUS, "a method, taken from its class")
    return TrustVerdict(Trust.UNKNOWN)


def _listed(module: str, name: str, called: bool, texts: Sequence[str]) -> TrustVerdict | None:
    """Names that are known, and names that no honest writer gives."""
    if module == "builtins":
        first = name.partition(".")[0]
        if name == "print" and not called:
            return TrustVerdict(Trust.UNKNOWN)
        if name == "getattr" and len(texts) == 1 and texts[0].isidentifier() and not texts[0].startswith("_"):
            return TrustVerdict(Trust.SUSPICIOUS, f"takes an attribute, {texts[0]!r}")
        if first in HARMLESS["builtins"] and not called and re.fullmatch(r"[a-z]+\.[a-z]+", name):
            return TrustVerdict(Trust.SUSPICIOUS, "a method, taken from its class")
        if first in BUILTINS or "." in name or name.startswith("__"):
            return TrustVerdict(Trust.DANGEROUS, EVALUATE if first in ("eval", "exec", "compile") else REACH)
        return TrustVerdict(Trust.UNKNOWN)
    owner = owner_of(module)
    if owner in MODULES:
        return TrustVerdict(Trust.DANGEROUS, ability_of(name) or MODULES[owner])
    if f"{module}.{name}" in DANGEROUS_NAMES or any(f"{module}.{name}.".startswith(f"{p}.") for p in PREFIXES):
        return TrustVerdict(Trust.DANGEROUS, ability_of(name) or EVALUATE)
    if re.fullmatch(r"__\w+__", name) and name not in ("__newobj__", "__newobj_ex__"):
        return TrustVerdict(Trust.DANGEROUS, REACH)
    parts = name.split(".") if called or _is_own(owner) else re.sub(r"\._(?=[a-z]\w*$)", ".", name).split(".")
    odd = not all(part.isidentifier() and not part.startswith("_") for part in parts)
    if "." in name and (odd or name.partition(".")[0] in HARMLESS.get(module, ()) or _through(name)):
        return TrustVerdict(Trust.DANGEROUS, "an attribute path to something that its author did not mean to export")
    return None


def _by_call(own: bool, name: str, texts: Sequence[str], top: str) -> TrustVerdict:
    """Of something that is called and on no list: by whose it is, its name, and the texts that it is given."""
    shown = [f"is given {what}" for what, shape in ARGUMENTS if any(re.search(shape, text) for text in texts)]
    if any(SHELLS.fullmatch(text) for text in texts) and not {"-c", "/c", "-m"}.isdisjoint(texts):
        shown.append("is given a command")
    if not own and _names_harm(texts):
        shown.append("is given the name of a function that does harm")
    told = next((one for one in shown if one in LOUD), shown[0] if shown else "")
    ability = ability_of(name)
    last = name.rpartition(".")[2]
    function = not re.fullmatch(r"_*[A-Z]\w*", last)
    if not own and ability == UNPICKLE and re.fullmatch(r"_\w*unpickle\w*|unpickle_\w+", last):
        ability = ""  # how a package makes its own objects again
    reason = "; ".join(filter(None, (ability, told)))
    if own and (ability or told):
        return TrustVerdict(Trust.DANGEROUS, reason)
    if own:
        kind = "function" if function else "class"
        return TrustVerdict(Trust.SUSPICIOUS, f"a {kind} of {top} that no weight file needs is called")
    if function and ability:
        return TrustVerdict(Trust.DANGEROUS if told or ability in (RUN, EVALUATE) else Trust.SUSPICIOUS, reason)
    if not own and not function:
        ability = next((what for what, shape in CLASS_WORDS if re.search(shape, last)), "")
    if told in LOUD or (function and told) or (ability and not function):
        return TrustVerdict(Trust.SUSPICIOUS, "; ".join(filter(None, (ability, told))))
    return TrustVerdict(Trust.UNKNOWN)


def _names_harm(texts: Sequence[str]) -> bool:
    """Whether texts name something like `os.system`, in one or as a module and a name in it."""
    for text in texts:
        found = re.fullmatch(r"(\w+(?:\.\w+)*)[.:](\w+)", text)
        module, names = (found[1], (found[2],)) if found else (text, texts)
        if module.partition(".")[0] in SENSITIVE_MODULES:
            harm = (trust_of(module, name) is Trust.DANGEROUS and (found or ability_of(name)) for name in names)
            if any(harm):
                return True
    return False


def _through(name: str) -> bool:
    """Whether an attribute path ends in what is dangerous: `torch.hub.load` by way of a module that imports torch."""
    parts = name.split(".")[-8:]
    return any(trust_of(".".join(parts[at:-1]), parts[-1]) is Trust.DANGEROUS for at in range(len(parts) - 1))
