"""Attack files, all inert: callables of different reach, hidden in every way, in every container. None scans clean."""

from __future__ import annotations

import base64
import bz2
import codecs
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.pickle.globals import Trust
from tests.checkpoint.payloads import text

CALLABLES = [
    ("os", "system", ("touch /tmp/never",)),
    ("uuid", "_get_command_stdout", ("touch", "/tmp/never")),
    ("subprocess", "getoutput", ("id",)),
    ("dataclasses", "_create_fn", ("f", (), ("pass",))),
    ("typing", "_eval_type", ("x", None, None)),
    ("sympy", "sympify", ("1 + 1",)),
    ("torch.storage", "_load_from_bytes", (b"x",)),
    ("torch.serialization", "_legacy_load", ("x",)),
    ("pandas", "read_pickle", ("/tmp/never",)),
    ("yaml", "unsafe_load", ("x",)),
    ("torch.ops", "load_library", ("/tmp/never.so",)),
    ("torch._classes.classes", "load_library", ("/tmp/never.so",)),
    ("codecs", "open", ("/tmp/never", "w")),
    ("lzma", "open", ("/tmp/never", "wb")),
    ("argparse", "FileType", ("w",)),
    ("numpy", "savetxt", ("/tmp/never", [1.0])),
    ("torch", "from_file", ("/tmp/never", True, 8)),
    ("transformers.dynamic_module_utils", "get_class_from_dynamic_module", ("a/b--c.D", "a/b")),
    ("_codecs", "decode", (b"x", "zlib")),
    ("urllib.request", "urlopen", ("http://127.0.0.1",)),
]


def value(of: object) -> bytes:
    """The opcodes of an argument."""
    if isinstance(of, str):
        return text(of)
    return pickle.dumps(of, 2)[2:-1]


def arguments(given: tuple) -> bytes:
    return b"(" + b"".join(map(value, given)) + b"t"


def rot13(name: str) -> bytes:
    """The opcodes that compute a text."""
    return b"c_codecs\nencode\n(" + text(codecs.encode(name, "rot13")) + text("rot13") + b"tR"


def by_global(module: str, name: str, given: tuple) -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments(given) + b"R."


def by_oldest(module: str, name: str, given: tuple) -> bytes:
    return b"c" + f"{module}\n{name}\n".encode() + arguments(given) + b"R."


def by_stack(module: str, name: str, given: tuple) -> bytes:
    return b"\x80\x05" + text(module) + text(name) + b"\x93" + arguments(given) + b"R."


def by_memo(module: str, name: str, given: tuple) -> bytes:
    names = text(module) + b"q\0" + b"0" + text(name) + b"q\1" + b"0h\0h\1\x93q\2"
    return b"\x80\x04" + names + b"0h\2" + arguments(given) + b"R."


def by_inst(module: str, name: str, given: tuple) -> bytes:
    return b"(" + b"".join(map(value, given)) + b"i" + f"{module}\n{name}\n".encode() + b"."


def by_obj(module: str, name: str, given: tuple) -> bytes:
    return b"(c" + f"{module}\n{name}\n".encode() + b"".join(map(value, given)) + b"o."


def by_new_object(module: str, name: str, given: tuple) -> bytes:
    return b"\x80\x04c" + f"{module}\n{name}\n".encode() + arguments(given) + b"}\x92."


def by_computed(module: str, name: str, given: tuple) -> bytes:
    return b"\x80\x02" + rot13(module) + rot13(name) + b"\x93" + arguments(given) + b"R."


def by_dotted(module: str, name: str, given: tuple) -> bytes:
    return (
        b"\x80\x04" + text("collections") + text(f"_sys.modules.{module}.{name}") + b"\x93" + arguments(given) + b"R."
    )


def by_build(module: str, name: str, given: tuple) -> bytes:
    """Planted on a class by BUILD, and read back as an attribute of it."""
    planted = b"\x80\x04ccollections\nOrderedDict\n}" + text("f") + b"c" + f"{module}\n{name}\n".encode() + b"sb0"
    return planted + text("collections") + text("OrderedDict.f") + b"\x93" + arguments(given) + b"R."


WAYS = [
    by_global, by_oldest, by_stack, by_memo, by_inst, by_obj, by_new_object, by_computed, by_dotted, by_build,
]  # fmt: skip

THIRD_PARTY = [
    ("hydra.utils", "instantiate", ({"_target_": "mypkg.f"},)),
    ("hydra._internal.utils", "_locate", ("mypkg.f",)),
    ("lightning.pytorch.cli", "instantiate_class", ((), {"class_path": "mypkg.f"})),
    ("keras.saving", "deserialize_keras_object", ({"module": "mypkg", "class_name": "f"},)),
    ("mmengine.utils", "get_object_from_string", ("mypkg.f",)),
    ("mmengine.registry", "build_from_cfg", ({"type": "F"}, None)),
    ("monai.bundle", "ConfigParser", ({"_target_": "mypkg.f"},)),
    ("gevent.subprocess", "Popen", (["x"],)),
    ("sh", "bash", ("x",)),
    ("win32api", "ShellExecute", (0, "open", "x")),
    ("ultralytics.utils.checks", "check_requirements", ("x",)),
    ("pandas", "to_pickle", (1, "x.pkl")),
    ("pandas", "test", ()),
    ("pandas", "HDFStore", ("x.h5",)),
    ("pandas", "ExcelWriter", ("x.xlsx",)),
    ("pandas", "read_csv", ("s3://evil/x",)),
    ("safetensors", "serialize_file", ({}, "x")),
    ("tensorboard.summary.writer.event_file_writer", "EventFileWriter", ("x",)),
    ("fsspec.implementations.ftp", "FTPFileSystem", ("x",)),
    ("transformers.pipelines.audio_utils", "ffmpeg_read", (b"x", 16000)),
    ("matplotlib", "_get_executable_info", ("gs",)),
    ("huggingface_hub", "upload_file", ("x",)),
    ("huggingface_hub.cli.repos", "repo_delete", ("me/x",)),
    ("timm.models._hub", "push_to_hf_hub", (None, "me/x")),
    ("mypkg", "Thing", ([{"a": ["os.system"]}],)),
    ("mypkg", "Thing", ("builtins.exec",)),
    ("mypkg", "Thing", ("subprocess:run",)),
    ("mypkg", "Thing", ({"module": "os", "class_name": "system"},)),
    ("mypkg", "Thing", (["bash", "-c", "x"],)),
    ("mypkg", "Thing", ("https://evil/x.pt",)),
    ("mypkg", "Thing", ([*"abcdefghij", "os.system"],)),
]
"""Packages that run what they are given, and unknown ones that are given something to run."""


@pytest.mark.parametrize("called", THIRD_PARTY, ids=lambda called: f"{called[0]}.{called[1]}")
def test_packages_that_run_what_they_are_given(called: tuple, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(by_stack(*called))
    assert scan(tmp_path / "m.pkl").worst in (Trust.SUSPICIOUS, Trust.DANGEROUS)


def test_an_unknown_class_with_harmless_texts_is_unknown(tmp_path: Path) -> None:
    given = ("test.accuracy", "io.x", {"os": "linux", "module": "encoder"}, ["-c"], "torch.nn.Linear")
    (tmp_path / "m.pkl").write_bytes(by_stack("mypkg", "Thing", given))
    assert scan(tmp_path / "m.pkl").worst is Trust.UNKNOWN


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("called", CALLABLES, ids=lambda called: f"{called[0]}.{called[1]}")
def test_no_callable_scans_clean_in_any_way(called: tuple, way: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(way(*called))
    found = scan(tmp_path / "m.pkl")
    assert found.worst in (Trust.SUSPICIOUS, Trust.DANGEROUS)
    assert any(one.reason for one in found.imports if one.trust in (Trust.SUSPICIOUS, Trust.DANGEROUS))


def zipped(raw: bytes, name: str = "m.pkl", how: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr(name, raw)
    return buffer.getvalue()


def tarred(raw: bytes, name: str = "weights.ckpt", how: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=how) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(raw)
        archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


def stable_baselines(raw: bytes) -> bytes:
    data = {"gamma": 0.99, "lr_schedule": {":type:": "function", ":serialized:": base64.b64encode(raw).decode()}}
    return zipped(json.dumps(data).encode(), "data")


def object_array(raw: bytes) -> bytes:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + raw


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip twice": lambda raw: gzip.compress(gzip.compress(raw)),
    "gzip in two members": lambda raw: gzip.compress(b"") + gzip.compress(raw),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda raw: lzma.compress(raw, lzma.FORMAT_ALONE),
    "zlib": zlib.compress,
    "tar": tarred,
    "tar.gz": lambda raw: tarred(raw, how="w:gz"),
    "nemo": lambda raw: tarred(zipped(raw, "a/data.pkl")),
    "zip": zipped,
    "deflated zip": lambda raw: zipped(raw, how=zipfile.ZIP_DEFLATED),
    "zip in zip": lambda raw: zipped(zipped(raw), "inner.bin"),
    "gzip in zip": lambda raw: zipped(gzip.compress(raw), "weights"),
    "zip of odd names": lambda raw: zipped(raw, "notes.txt"),
    "stable-baselines3": stable_baselines,
    "json": lambda raw: json.dumps({"state": base64.b64encode(raw).decode()}).encode(),
    "json with zlib": lambda raw: json.dumps({"s": base64.b64encode(zlib.compress(raw)).decode()}).encode(),
    "text": lambda raw: b"# weights\nstate = " + base64.b64encode(raw) + b"\n",
    "bytes in a pickle": lambda raw: pickle.dumps({"a": raw}, 4),
    "zlib in a pickle": lambda raw: pickle.dumps({"a": zlib.compress(raw)}, 4),
    "base64 in a pickle": lambda raw: pickle.dumps({"a": base64.b64encode(raw).decode()}, 4),
    "appended": lambda raw: pickle.dumps({"a": 1}, 4) + raw,
    "objects in npy": object_array,
    "objects in npz": lambda raw: zipped(object_array(raw), "a.npy"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("called", [CALLABLES[0], CALLABLES[1], CALLABLES[12]], ids=lambda called: called[0])
def test_every_container_is_opened(called: tuple, container: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(CONTAINERS[container](by_global(*called)))
    found = scan(tmp_path / "m.bin")
    assert found.worst is Trust.DANGEROUS, found.problems
    assert any(one.name == f"{called[0]}.{called[1]}" for one in found.imports)


UNREAD = {
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(30), Trust.SUSPICIOUS, "7z"),
    "rar": (b"Rar!\x1a\x07" + bytes(30), Trust.SUSPICIOUS, "RAR"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(30), Trust.SUSPICIOUS, "lz4"),
    "cut gzip": (gzip.compress(b"weights" * 900)[:-12], Trust.SUSPICIOUS, "end early"),
    "damaged xz": (lzma.compress(b"x" * 500)[:40] + bytes(60), Trust.SUSPICIOUS, "damaged"),
    "unknown bytes": (bytes(range(1, 250)) * 3, Trust.UNKNOWN, "unknown format"),
    "empty": (b"", Trust.UNKNOWN, "it is empty"),
    "zeros": (bytes(900), Trust.UNKNOWN, "zeros only"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", Trust.UNKNOWN, "LFS pointer"),
    "web page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", Trust.UNKNOWN, "web page"),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_what_was_not_read_is_never_clean(kind: str, tmp_path: Path) -> None:
    raw, trust, says = UNREAD[kind]
    (tmp_path / "m.bin").write_bytes(raw)
    found = scan(tmp_path / "m.bin")
    assert found.worst is trust
    assert [one.unread for one in found.problems] == [True]
    assert says in found.problems[0].text
    texts = " ".join(note.text for note in found.report().notes)
    assert "Not read: " in texts
    assert "nothing in it" not in texts


@pytest.mark.zoo
def test_a_bomb_a_deep_nest_and_links_out_of_a_tar(tmp_path: Path) -> None:
    for name, compress in (("gz", gzip.compress), ("xz", lzma.compress), ("bz2", bz2.compress)):
        (tmp_path / name).write_bytes(compress(bytes(80 << 20)))
        found = scan(tmp_path / name)
        assert found.worst is Trust.SUSPICIOUS
        assert any("more than 64 MiB" in one.text for one in found.problems)
    raw = b"x"
    for _ in range(8):
        raw = zipped(raw)
    (tmp_path / "deep").write_bytes(raw)
    assert any("archives more than 5 deep" in one.text for one in scan(tmp_path / "deep").problems)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        out = tarfile.TarInfo("../../out")
        out.size = 1
        archive.addfile(out, io.BytesIO(b"x"))
    (tmp_path / "links.tar").write_bytes(buffer.getvalue())
    found = scan(tmp_path / "links.tar")
    assert found.worst is Trust.SUSPICIOUS
    assert {one.where for one in found.problems} >= {"link", "../../out"}
    assert not (tmp_path.parent / "out").exists()


@pytest.mark.zoo
def test_many_small_bombs_are_bounded_together(tmp_path: Path) -> None:
    """Not one by one: each is below the bound, all of them would be a gigabyte and a half."""
    bombs = [gzip.compress(bytes(50 << 20) + bytes([number])) for number in range(30)]
    files = {
        "pickle": pickle.dumps(bombs, 4),
        "json": json.dumps([base64.b64encode(bomb).decode() for bomb in bombs]).encode(),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, bomb in enumerate(bombs):
            archive.writestr(f"{number}.gz", bomb)
    files["zip"] = buffer.getvalue()
    for name, raw in files.items():
        (tmp_path / name).write_bytes(raw)
        tracemalloc.start()
        found = scan(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 300 << 20, name
        assert found.worst is Trust.SUSPICIOUS, name
        assert any("more than is read of one file" in one.text for one in found.problems), name


TEMPLATE = "{% for m in messages %}{{ ''.__class__.__mro__[1].__subclasses__() }}{% endfor %}"


def test_templates_and_lambda_layers(tmp_path: Path) -> None:
    for name, data in (
        ("tokenizer_config.json", json.dumps({"chat_template": TEMPLATE}).encode()),
        ("model.gguf", b"GGUF\3\0\0\0" + bytes(16) + TEMPLATE.encode()),
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64) + b'{"class_name": "Lambda", "config": {"name": "l"}}'),
    ):
        (tmp_path / name).write_bytes(data)
        assert scan(tmp_path / name).worst is Trust.SUSPICIOUS, name
    plain = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    (tmp_path / "plain.json").write_text(json.dumps({"chat_template": plain}))
    assert scan(tmp_path / "plain.json").worst is Trust.HARMLESS
