"""The kinds of files that other scanners were found to pass, built anew and inert: none of them exits 0."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.pickle.globals import Trust
from tests.checkpoint.payloads import text
from tests.checkpoint.scan.test_attacks import by_global, zipped

START = b"\x80\x04"
RUNS = by_global("os", "system", ("true",))


def name(module: str, path: str) -> bytes:
    return text(module) + text(path) + b"\x93"


def call(function: bytes, *given: bytes) -> bytes:
    return function + b"(" + b"".join(given) + b"tR"


def made_class(method: str, function: bytes) -> bytes:
    """`type("D", (str,), {method: function})`."""
    body = b"}" + text(method) + function + b"s"
    return call(name("builtins", "type"), text("D"), name("builtins", "str") + b"\x85", body)


def attribute(owner: bytes, of: str) -> bytes:
    return call(name("builtins", "getattr"), owner, text(of))


def twice_in_a_zip() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("a/data.pkl", RUNS)
        archive.writestr("a/data.pkl", pickle.dumps({"w": 1}))
    return buffer.getvalue()


def wrong_checksum(raw: bytes) -> bytes:
    """Some readers stop at a member whose checksum does not agree; torch does not look."""
    packed = bytearray(zipped(raw, "a/data.pkl"))
    directory = packed.rfind(b"PK\1\2")
    packed[14:18] = packed[directory + 16 : directory + 20] = b"\1\2\3\4"
    return bytes(packed)


def npy(described: str, raw: bytes) -> bytes:
    header = f"{{'descr': {described}, 'fortran_order': False, 'shape': (1,), }}".encode()
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + raw


OPEN, FOREIGN = name("codecs", "open"), name("pkg", "helper")
GENERATOR = name("numpy.random._pickle", "__generator_ctor")
KINDS: dict[str, bytes] = {
    # Calls that are made for the pickle by something harmless.
    "a class with a method": made_class("__repr__", FOREIGN),
    "a class told of its name": made_class("__set_name__", name("pathlib", "Path.touch")),
    "called by a rebuilder": call(GENERATOR, text("x"), OPEN),
    "called by a rebuilder, wrapped": call(GENERATOR, text("x"), call(name("functools", "partial"), FOREIGN)),
    "called by a hook of tensors": call(name("torch._tensor", "_rebuild_from_type_v2"), OPEN, text("x"), text("w")),
    "partial, called": call(call(name("functools", "partial"), OPEN, text("x"), text("w"))),
    "called for each of a list": call(
        name("builtins", "list"), call(name("itertools", "starmap"), FOREIGN, b"](K\x01ta")
    ),
    "for a missing key": call(name("collections", "defaultdict"), OPEN),
    "run in a context": call(name("contextvars", "Context.run"), FOREIGN),
    "submitted to a pool": call(name("concurrent.futures", "ThreadPoolExecutor.submit"), FOREIGN),
    # Names by a way round.
    "a module of a module": call(name("random", "_os.system"), text("true")),
    "a module of a package's module": call(name("pkg.sub", "_os.system"), text("true")),
    "getattr of getattr": call(attribute(attribute(name("pkg", "mod"), "os"), "system"), text("true")),
    "getattr of a constructor": attribute(attribute(name("argparse", "Namespace"), "__init__"), "__globals__"),
    "getattr that seems to have been resolved": attribute(call(name("pkg", "C")), "taken by name"),
    "a field of a format": name("string", "Formatter.get_field"),
    "a bound __getattribute__": b"cstatistics\nmean.__getattribute__\n",
    "resolved later": call(name("unittest.mock", "_get_target"), text("builtins:eval.x")),
    "a table of lazy imports": name("pydantic", "_dynamic_imports") + text("_os") + text("a") + text("b") + b"\x86s",
    "a state for a singleton": name("scipy.stats", "norm") + b"}" + text("a") + text("b") + b"sb",
    "imports as a side effect": call(name("pkgutil", "iter_importers"), text("evil.sub")),
    "types by the name of a module": call(name("cloudpickle.cloudpickle", "_builtin_type"), text("CodeType")),
    "bytes for a name": b"C\x02osC\x06system\x93" + b"(" + text("true") + b"tR",
    "a mutable name": text("os") + b"\x96" + struct.pack("<Q", 6) + b"system\x93(" + text("true") + b"tR",
    "a number for a name": b"K*" + text("os") + b"\x93(" + text("true") + b"tR",
    # Functions of packages that do it.
    "collect_env": call(name("torch.utils.collect_env", "run"), text("true")),
    "an entry point": call(name("mlflow.projects.backend.local", "_run_entry_point"), text("true"), text(".")),
    "a query": call(name("pandas", "DataFrame.query"), text("@pd.compat.os.system('true')")),
    "an address to read": call(name("pandas.io.parsers.readers", "read_csv"), text("https://host/x")),
    "a mail capability": call(name("mailcap", "findmatch"), b"}", text("text/plain")),
    "a pipeline": call(name("pipes", "Template.copy"), text("a"), text("b")),
    "hints that are evaluated": call(name("typing", "get_type_hints"), FOREIGN),
    "site directories": call(name("site", "addsitedir"), text("/data")),
    "test discovery": call(name("unittest.loader", "TestLoader.discover"), text("/data")),
    "distutils by another name": call(name("setuptools._distutils.spawn", "spawn"), b"]" + text("true") + b"a"),
    "a scanner that is switched off": call(name("picklescan.scanner", "scan_pickle_bytes"), name("os", "system")),
    # Streams that break a scanner and not the loader.
    "a call whose result is dropped": call(name("os", "system"), text("true")) + b"0N",
    "broken after the call": call(name("os", "system"), text("true")) + b"\xff",
    "too little on the stack after the call": call(name("os", "system"), text("true")) + b"000",
    "a wrong frame": b"\x95" + struct.pack("<Q", 5) + call(name("os", "system"), text("true")),
    "an extension": b"\x82\x01(" + text("x") + b"tR",
}

FILES: dict[str, bytes] = {
    **{kind: START + stream + b"." for kind, stream in KINDS.items()},
    "after many pickles": pickle.dumps(1) * 1200 + RUNS,
    "two members of a name": twice_in_a_zip(),
    "a wrong checksum": wrong_checksum(RUNS),
    "a pickle for a storage": zipped(RUNS, "archive/data/0"),
    "objects in a field": npy("[('a', 'O'), ('b', '<f8')]", RUNS),
    "objects without a byte order": npy("'O'", RUNS),
    "objects with one": npy("'>O8'", RUNS),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_none_exits_0(kind: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(FILES[kind])
    found = scan(tmp_path)
    assert found.worst in (Trust.SUSPICIOUS, Trust.DANGEROUS), found
