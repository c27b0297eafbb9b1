"""Cases of the project's list that need more than bytes: checksums of values, size, links beside a file, collisions."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.values.checksums import verify
from modelprobe.errors import BadInput
from tests.checkpoint.hostile import rezipped, state_bytes
from tests.checkpoint.seeds import field, onnx, torch_zip, varint
from tests.command_line import CommandLine

EMPTY = b"\x80\x02}."


@pytest.fixture
def cli(capsys):
    return CommandLine(capsys)


@pytest.mark.parametrize("name", ["a/data/0/", "a/data.pkl/", "a/da\0ta/0", "a//data/0", "a/./data/0"])
def test_12_13_odd_member_names(name, tmp_path):
    """zipfile cuts names at NUL, so it is written in afterwards."""
    data = torch_zip(EMPTY, {name.replace("\0", "~"): b""}).replace(b"da~ta", b"da\0ta")
    (tmp_path / "x").write_bytes(data)
    try:
        found = open_checkpoint(tmp_path / "x")
    except BadInput:
        return
    assert not any(storage.located for storage in found.storages.values())
    assert not found.tensors


@pytest.mark.parametrize("alignment", [b"x", b"", b"-1", b"9" * 400, b"0"])
def test_26_storage_alignment(alignment, tmp_path):
    members = {"archive/.storage_alignment": alignment}
    (tmp_path / "x").write_bytes(rezipped(lambda held: held.update(members)))
    assert [entry.name for entry in open_checkpoint(tmp_path / "x").tensors] == ["w", "b"]


def test_33_pickles_inside_pickles_and_inside_text(tmp_path):
    """In base64, and in bytes, as deep as bytes are in bytes."""
    inner = b"cos\nsystem\n(S'id'\ntR."
    (tmp_path / "x").write_bytes(pickle.dumps({"payload": base64.b64encode(inner).decode()}))
    assert scan(tmp_path / "x").dangerous
    for _ in range(3):
        inner = pickle.dumps([b"..", inner], 4)
        (tmp_path / "x").write_bytes(inner)
        assert scan(tmp_path / "x").dangerous


def test_41_tensors_and_classes_as_keys(tmp_path):
    torch.save(
        {torch.ones(1): 1, torch.nn.Linear: torch.ones(2), (torch.ones(3),): 2, "w": torch.ones(4)}, tmp_path / "x"
    )
    found = open_checkpoint(tmp_path / "x")
    assert (4,) in [entry.shape for entry in found.tensors]
    summarize_weights(found).report()


def test_16_changed_values_are_found_by_verify_alone(tmp_path, cli):
    data = bytearray(state_bytes())
    at = data.index(struct.pack("<6f", *[1.0] * 6))
    data[at] ^= 1
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    listed = open_checkpoint(path)
    assert not listed.damaged
    assert not listed.findings
    assert verify(listed).failed
    assert cli("summary", str(path)).code == 0
    answer = cli("summary", str(path), "--verify")
    assert answer.code == 1
    assert "does not match its checksum" in " ".join(answer.out.split())
    path.write_bytes(state_bytes())
    assert cli("summary", str(path), "--verify").code == 0


def test_24_more_entries_than_allowed(tmp_path):
    (tmp_path / "x").write_bytes(torch_zip(EMPTY, {f"a/data/{index}": b"" for index in range(2000)}))
    with pytest.raises(BadInput, match="entries"):
        open_checkpoint(tmp_path / "x", ReadLimits(members=1000))
    assert open_checkpoint(tmp_path / "x", ReadLimits(members=3000)).format == "torch zip"


@pytest.mark.slow
def test_24_two_hundred_thousand_entries(tmp_path):
    (tmp_path / "x").write_bytes(torch_zip(EMPTY, {f"a/data/{index}": b"" for index in range(200_000)}))
    assert open_checkpoint(tmp_path / "x").format == "torch zip"


OPENED = """
import sys
from contextlib import suppress
opened = []
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.errors import ProbeError
import modelprobe.checkpoint.formats.onnx
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
with suppress(ProbeError):
    summarize_weights(open_checkpoint(sys.argv[1])).report()
print("\\n".join(path for path in opened if not path.endswith((".py", ".pyc"))))
"""


@pytest.mark.zoo
@pytest.mark.parametrize("how", ["symlink", "hard link", "fifo", "file"])
def test_61_what_an_onnx_file_points_to_is_not_opened(how, tmp_path):
    """Not through a link either: a FIFO would hang, a link could lead anywhere."""
    (tmp_path / "secret").write_bytes(b"s" * 64)
    place = tmp_path / "weights.bin"
    if how == "symlink":
        place.symlink_to("/etc/passwd")
    elif how == "hard link":
        place.hardlink_to(tmp_path / "secret")
    elif how == "fifo":
        os.mkfifo(place)
    else:
        place.write_bytes(b"\0" * 32)
    (tmp_path / "x.onnx").write_bytes(onnx("weights.bin"))
    command = [sys.executable, "-c", OPENED, str(tmp_path / "x.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert set(done.stdout.split()) == {str(tmp_path / "x.onnx")}


def test_61_onnx_numbers_without_end_and_graphs_in_graphs(tmp_path):
    for huge in (b"\x08" + b"\xff" * 11 + b"\x01", b"\x3a" + varint(2**64 - 1), b"\x3a" + varint(2**70) + b"\0" * 100):
        (tmp_path / "x.onnx").write_bytes(onnx() + huge)
        with pytest.raises(BadInput):
            open_checkpoint(tmp_path / "x.onnx")
    graph = field(1, field(4, b"Identity"))
    for depth in range(66):
        tensor = field(5, field(1, 2) + field(2, 1) + field(8, f"w{depth}".encode()) + field(9, b"\0" * 8))
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph))) + tensor
        model = field(1, 8) + field(2, b"pytorch") + field(7, graph) + field(8, field(2, 17))
        (tmp_path / "x.onnx").write_bytes(model)
        if depth == 65:
            with pytest.raises(BadInput, match="64 deep"):
                open_checkpoint(tmp_path / "x.onnx")
        elif depth in (0, 1, 63):
            found = open_checkpoint(tmp_path / "x.onnx")
            assert not found.damaged
            assert {entry.name for entry in found.tensors} == {f"w{index}" for index in range(depth + 1)}


@pytest.mark.zoo
@pytest.mark.parametrize("command", ["repair", "convert"])
def test_65_every_name_of_the_input_is_refused_as_output(command, tmp_path, cli, monkeypatch):
    folder = tmp_path / "a"
    folder.mkdir()
    source = folder / "in.pt"
    torch.save({"module.w": torch.arange(4.0)}, source)
    (folder / "soft.pt").symlink_to(source)
    (folder / "hard.pt").hardlink_to(source)
    (tmp_path / "b").symlink_to(folder, target_is_directory=True)
    monkeypatch.chdir(folder)
    before = source.read_bytes()
    for out in ("in.pt", "./in.pt", "../a/in.pt", "soft.pt", "hard.pt", str(tmp_path / "b" / "in.pt"), str(source)):
        for force in ([], ["--force"]):
            answer = cli(command, str(source), "-o", out, *force)
            assert (answer.code, answer.out) == (2, ""), (out, answer.err)
            assert re.search("is the input itself|symbolic link|exists", answer.err)
            assert source.read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["hard.pt", "in.pt", "soft.pt"]


COLLISIONS = {
    "two wrappers": ({"a._orig_mod.w": 1, "a.w": 2}, []),
    "nested": ({"_orig_mod.module.w": 1, "module._orig_mod.w": 2}, []),
    "TensorFlow's name beside torch's": ({"LayerNorm.gamma": 1, "LayerNorm.weight": 2}, []),
    "checkpointing": ({"b._checkpoint_wrapped_module.w": 1, "b.w": 2}, []),
}


@pytest.mark.parametrize("case", COLLISIONS)
def test_67_collisions_write_nothing(case, tmp_path, cli):
    names, more = COLLISIONS[case]
    torch.save({name: torch.full((2,), float(value)) for name, value in names.items()}, tmp_path / "x.pt")
    answer = cli("repair", str(tmp_path / "x.pt"), *more, "-o", str(tmp_path / "new.pt"))
    assert (answer.code, answer.out) == (1, "")
    assert "would both be called" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_67_nothing_to_repair_says_so_and_writes_nothing(tmp_path, cli):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "x.pt")
    planned = cli("repair", str(tmp_path / "x.pt"))
    assert (planned.code, planned.err) == (0, "")
    assert "Nothing to repair." in planned.out
    written = cli("repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "new.pt"))
    assert (written.code, written.out) == (1, "")
    assert "there is nothing to repair" in written.err
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_every_case_of_the_list_has_a_test():
    """The numbers of `CHECKPOINTS.md`, 1 to 67, in the names of tests: `test_27_28_32_34_broken_pickles`."""
    found: set[int] = set()
    for path in Path(__file__).parent.glob("test_bad_*.py"):
        for name in re.findall(r"def test_((?:\d\d_|to_)+)", path.read_text()):
            numbers = [int(number) for number in re.findall(r"\d\d", name)]
            found.update(range(numbers[0], numbers[-1] + 1) if "to_" in name else numbers)
    assert found >= set(range(1, 68)), json.dumps(sorted(set(range(1, 68)) - found))
