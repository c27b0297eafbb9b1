"""`--verify` sees a flipped bit, a wrong name, a wrong list beside the file, and says what nothing covers."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.values.checksums import Check, Verification, verify
from modelprobe.errors import BadInput
from tests.command_line import CommandLine


def check(path: Path, kind: str) -> Check:
    """The one check of a kind."""
    (found,) = [check for check in verify(open_checkpoint(path)).checks if check.kind == kind]
    return found


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    path = tmp_path / "m.pth"
    torch.save({"w": torch.arange(300.0), "b": torch.ones(2)}, path)
    return path


def test_every_member_of_a_zip(zipped: Path) -> None:
    members = len(zipfile.ZipFile(zipped).namelist())
    assert check(zipped, "zip checksums") == Check(str(zipped), "zip checksums", members)
    assert verify(open_checkpoint(zipped)).values
    flip(zipped, open_checkpoint(zipped).storages["0"].position + 600)
    found = check(zipped, "zip checksums")
    assert (found.compared, found.failed) == (members, 1)
    assert found.failures == ("m/data/0 does not match its checksum: it was changed or damaged",)


def test_deflated_members(tmp_path: Path, zipped: Path) -> None:
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(zipped) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info), zipfile.ZIP_DEFLATED)
    assert check(packed, "zip checksums").failed == 0
    flip(packed, open_checkpoint(packed).storages["0"].position + 80)
    assert check(packed, "zip checksums").failed == 1


def test_the_hash_in_a_name(tmp_path: Path, zipped: Path) -> None:
    digest = hashlib.sha256(zipped.read_bytes()).hexdigest()
    os.link(zipped, tmp_path / f"net-{digest[:8]}.pth")
    os.link(zipped, tmp_path / "net-00000000.pth")
    (tmp_path / "blobs").mkdir()
    os.link(zipped, tmp_path / "blobs" / digest)
    (tmp_path / "model.bin").symlink_to(tmp_path / "blobs" / digest)  # as the Hub's cache keeps it
    assert check(tmp_path / f"net-{digest[:8]}.pth", "hash in the name").failed == 0
    assert check(tmp_path / "net-00000000.pth", "hash in the name").failures == ("the content does not match 00000000",)
    assert check(tmp_path / "model.bin", "hash in the name").detail == digest


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("{hash}  m.pth\n", 0),
        ("{hash}\n", 0),
        ("{other}  other.pth\n{hash} *m.pth\n", 0),
        ("{other}  m.pth\n", 1),
        ("{hash}  other.pth\n", 1),
        ("none\n", 1),
    ],
)
def test_a_hash_beside_the_file(text: str, failed: int, zipped: Path) -> None:
    digest = hashlib.sha256(zipped.read_bytes()).hexdigest()
    zipped.with_name("m.pth.sha256").write_text(text.format(hash=digest, other="0" * 64))
    assert check(zipped, "SHA-256 beside it").failed == failed


def test_counts_of_legacy_files(tmp_path: Path) -> None:
    path = tmp_path / "m"
    torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert check(path, "element counts").failed == 0
    assert not verify(open_checkpoint(path)).values
    (storage,) = open_checkpoint(path).storages.values()
    flip(path, storage.position - 8)
    (failure,) = check(path, "element counts").failures
    assert "counts 2 elements" in failure


def test_safetensors_have_no_checksums(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "m.safetensors")
    found = verify(open_checkpoint(tmp_path / "m.safetensors"))
    assert found == Verification(
        (Check(str(tmp_path / "m.safetensors"), "structure", 1, 0, (), found.checks[0].detail),), False
    )


def test_addresses_are_refused() -> None:
    from modelprobe.checkpoint.records import Checkpoint

    with pytest.raises(BadInput, match="not on this machine"):
        verify(Checkpoint("https://example.org/m.pth", "torch zip"))


def test_on_the_command_line(zipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CommandLine(capsys)
    good = cli("summary", str(zipped), "--verify")
    assert (good.code, good.err) == (0, "")
    assert "comparisons agree" in good.out
    flip(zipped, open_checkpoint(zipped).storages["0"].position + 600)
    assert cli("summary", str(zipped)).code == 0  # a listing reads no values
    bad = cli("summary", str(zipped), "--verify")
    assert bad.code == 1
    assert "m/data/0 does not match its checksum" in " ".join(bad.out.split())
    assert "does not match its checksums" in bad.err


def test_what_is_written_from_damaged_bytes_says_so(
    zipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = CommandLine(capsys)
    out = str(tmp_path / "o.safetensors")
    assert "checksum" not in run("convert", str(zipped), "-o", out).out
    flip(zipped, zipped.read_bytes().find(torch.arange(300.0).numpy().tobytes()) + 100)
    for line in (("convert", str(zipped)), ("repair", str(zipped), "--drop", "b")):
        said = " ".join(run(*line, "-o", out, "--force").out.split())
        assert "does not match its checksum: it was changed or damaged; it was written as it is" in said


def test_a_distributed_checkpoint_has_none(tmp_path: Path) -> None:
    torch.distributed.checkpoint.save({"w": torch.ones(3)}, checkpoint_id=tmp_path / "dcp")
    assert not verify(open_checkpoint(tmp_path / "dcp")).values
