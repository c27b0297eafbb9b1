"""What the reader concludes: branches, wrappers, buffers by name, trust in imports, the summary, the scan."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from modelprobe.checkpoint.answers.name_tree import name_rows
from modelprobe.checkpoint.answers.scan import scan
from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.branches import branch_named, find_branches
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.pickle.globals import Trust, trust_of
from modelprobe.checkpoint.records import BUFFER, Checkpoint, TensorEntry
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Level, plain
from tests.checkpoint.seeds import Block

W = {"conv.weight": torch.ones(2, 2), "conv.bias": torch.ones(2), "bn.running_mean": torch.ones(2)}
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(500)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}

Saved = Callable[[object], Checkpoint]


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Save an object with torch and list the file."""

    def go(value: object) -> Checkpoint:
        torch.save(value, tmp_path / "m.pth")
        return open_checkpoint(tmp_path / "m.pth")

    return go


@pytest.mark.parametrize(
    ("keys", "chosen", "others"),
    [
        ({"state_dict": W, "optimizer": OPTIMIZER, "epoch": 3}, "state_dict", []),
        ({"state_dict": W, "state_dict_ema": W.copy()}, "state_dict", ["state_dict_ema"]),
        ({"model": W, "model_ema": W.copy(), "optimizer": OPTIMIZER, "scaler": {}}, "model", ["model_ema"]),
        ({"model_state_dict": W, "optimizer_state_dict": OPTIMIZER}, "model_state_dict", []),
        ({"student": W, "teacher": W.copy(), "dino_loss": {"c": torch.ones(2)}}, "teacher", ["student", "dino_loss"]),
        ({"ema_state_dict": W, "state_dict": W.copy(), "message_hub": {}}, "state_dict", ["ema_state_dict"]),
        ({"params_ema": W}, "params_ema", []),
        ({"model_state": W, "cfg": "text"}, "model_state", []),
        ({"generator": W, "discriminator": W.copy()}, "generator", ["discriminator"]),
        ({"model": {"state_dict": W}, "epoch": 1}, "model.state_dict", ["model"]),
        (W, "", []),
        ({"model": {"w": torch.ones(2)}, **W}, "", ["model"]),
        ({"whatever": W}, "whatever", []),
    ],
)  # fmt: skip
def test_branches(keys: dict[str, object], chosen: str, others: list[str], saved: Saved) -> None:
    found = saved({key: dict(value) if isinstance(value, dict) else value for key, value in keys.items()})
    assert found.branch is not None
    assert found.branch.name == chosen
    assert found.branch.rule
    assert [branch.name for branch in found.branches[1:]] == others


def test_a_branch_that_is_a_module(saved: Saved) -> None:
    found = saved({"epoch": 1, "ema": Block(), "model": Block(), "optimizer": OPTIMIZER})
    assert [branch.name for branch in found.branches] == ["model", "ema"]
    assert {entry.role for entry in found.tensors_in(found.branches[0])} == {"parameter", "buffer", "attribute"}


def test_the_same_dictionary_twice_is_shown_once(saved: Saved) -> None:
    found = saved({"state_dict": W, "again": W})
    assert found.tree.child("again").kind == "same"
    assert len(found.tensors) == 3


def test_picking_a_branch(saved: Saved) -> None:
    found = saved({"state_dict": W, "optimizer": OPTIMIZER})
    assert branch_named(found, "state_dict").tensors == 3
    assert branch_named(found, "optimizer.state").tensors == 1
    assert branch_named(found, ".").tensors == 4
    assert summarize_weights(found, branch="optimizer").tensors == 1
    with pytest.raises(BadInput, match="no tensors under nothing"):
        summarize_weights(found, branch="nothing")
    assert find_branches(saved([1, 2])) == ()


@pytest.mark.parametrize(
    ("prefix", "segments"),
    [
        ("module.", ["module"]),
        ("module.module.", ["module"]),
        ("_orig_mod.", ["_orig_mod"]),
        ("_orig_mod.module.", ["_orig_mod", "module"]),
        ("layer.0._orig_mod.", ["_orig_mod"]),
        ("_fsdp_wrapped_module._checkpoint_wrapped_module.", ["_fsdp_wrapped_module", "_checkpoint_wrapped_module"]),
        ("features.module.0.", ["module"]),
        ("submodule.", []),
        ("original_module.", []),
        ("model.", []),
        ("", []),
    ],
)
def test_wrappers(prefix: str, segments: list[str], saved: Saved) -> None:
    found = saved({prefix + key: value for key, value in W.items()})
    assert [wrapper.segment for wrapper in found.wrappers] == segments
    assert all(wrapper.tensors == wrapper.total == 3 for wrapper in found.wrappers)


def test_the_model_prefix_of_lightning(saved: Saved) -> None:
    state = {f"model.{key}": value for key, value in W.items()}
    found = saved({"state_dict": state, "pytorch-lightning_version": "2.0.0", "loops": {}})
    assert [wrapper.source for wrapper in found.wrappers] == ["LightningModule"]


def test_buffers_by_name_are_flagged_as_guessed(saved: Saved) -> None:
    found = saved(W)
    assert [(entry.role, entry.flags) for entry in found.tensors] == [(None, ()), (None, ()), (BUFFER, ("by-name",))]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("torch._utils:_rebuild_tensor_v2", Trust.HARMLESS),
        ("collections:OrderedDict", Trust.HARMLESS),
        ("torch.nn.modules.conv:Conv2d", Trust.HARMLESS),
        ("__builtin__:set", Trust.HARMLESS),
        ("ultralytics.nn.tasks:DetectionModel", Trust.UNKNOWN),
        ("functools:partial", Trust.HARMLESS),
        ("os:system", Trust.DANGEROUS),
        ("posix:system", Trust.DANGEROUS),
        ("builtins:eval", Trust.DANGEROUS),
        ("__builtin__:getattr", Trust.DANGEROUS),
        ("torch.hub:load", Trust.DANGEROUS),
        ("torch.nn.modules.conv:torch.hub.load", Trust.DANGEROUS),
        ("torch.nn.modules.conv:a.os.system", Trust.DANGEROUS),
        ("torch.nn.modules.conv:F.conv2d", Trust.SUSPICIOUS),
        ("torch.optim.sgd:SGD.step", Trust.SUSPICIOUS),
        ("my.models:Outer.Inner", Trust.UNKNOWN),
        ("x:a.__globals__", Trust.DANGEROUS),
        ("numpy.testing._private.utils:runstring", Trust.DANGEROUS),
    ],
)
def test_verdicts(name: str, expected: Trust) -> None:
    module, _, attribute = name.partition(":")
    assert trust_of(module, attribute) is expected


def test_summary(saved: Saved) -> None:
    tied = torch.ones(4, 4)
    base = torch.zeros(1000)
    state = {"module.a": tied, "module.b": tied, "module.c": base[:10], "module.n.running_mean": torch.ones(2)}
    args = argparse.Namespace(lr=0.1, name="run")
    found = saved({"state_dict": state, "optimizer": OPTIMIZER, "epoch": 3, "args": args})
    result = summarize_weights(found)
    assert result.tensors == 4
    assert result.undecided == 16 + 10  # a and b are one tensor of 4 x 4, c has 10 elements
    assert result.buffers == 2
    assert result.wasted_bytes == (1000 - 10) * 4
    assert result.optimizer_bytes == 500 * 4
    assert result.shared[0].names == ("module.a", "module.b")
    assert result.shared[0].tied
    values = {value.path: value.value for value in result.values}
    assert values["epoch"] == 3
    assert values["args.name"] == "run"
    assert values["optimizer.param_groups.0.lr"] == 0.1
    assert not result.damaged
    report = result.report()
    assert any("modelprobe repair" in note.text for note in report.notes)
    assert report.tables[0].key == "tensors"
    assert plain(result)["format"] == "torch zip"


def test_equal_blocks_are_folded_and_everything_can_be_listed(saved: Saved) -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(50)), nn.Linear(3, 2))
    found = saved(model.state_dict())
    rows = summarize_weights(found).rows
    assert rows[0].copies[-1] == "49"
    assert rows[0].numel == 12  # 3 x 3 + 3, of one block
    everything = summarize_weights(found, all_tensors=True).rows
    assert [row.path for row in everything] == list(model.state_dict())
    assert max(row.depth for row in summarize_weights(found, depth=1).rows) == 0


def test_flags_and_findings_reach_the_report(saved: Saved, tmp_path: Path) -> None:
    torch.save(W, tmp_path / "m", _use_new_zipfile_serialization=False)
    (tmp_path / "m").write_bytes((tmp_path / "m").read_bytes()[:-4])
    notes = summarize_weights(open_checkpoint(tmp_path / "m")).report().notes
    assert any("4 bytes are missing" in note.text and note.level is Level.WARNING for note in notes)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_scanning_a_folder(tmp_path: Path) -> None:
    torch.save(W, tmp_path / "good.pth")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "bad.bin").write_bytes(pickle.dumps([Evil()]))
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "broken.pt").write_bytes(b"PK\3\4broken")
    (tmp_path / "loop").symlink_to(tmp_path)
    result = scan(tmp_path)
    assert result.dangerous
    assert result.files == 4
    assert [Path(found.file).name for found in result.imports if found.trust is Trust.DANGEROUS] == ["bad.bin"]
    assert [Path(problem.file).name for problem in result.problems] == ["broken.pt"]
    assert any("would execute code" in note.text for note in result.report().notes)


def test_scanning_archives(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{}")
        archive.writestr("handler.py", "print(1)")
        archive.writestr("weights.bin", pickle.dumps(Evil(), 4))
    result = scan(tmp_path / "x.mar")
    assert result.code == ("handler.py",)
    assert result.dangerous


def test_a_clean_file_scans_clean(tmp_path: Path) -> None:
    torch.save(W, tmp_path / "m")
    result = scan(tmp_path / "m")
    assert {found.trust for found in result.imports} == {Trust.HARMLESS}
    assert not result.problems
    (tmp_path / "t.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert scan(tmp_path / "t.safetensors").pickles == 0


def rows_of(names: list[str], depth: int | None = None) -> tuple[list[tuple[str, int, int]], int]:
    """Labels, depths and copies of the tree of equal tensors with these names, and how many rows are left out."""
    named = [(name, TensorEntry((name,), (2,), "float32", numel=2, nbytes=8)) for name in names]
    rows, left_out = name_rows(named, depth)
    return [(row.label, row.depth, len(row.copies)) for row in rows], left_out


def test_a_tree_of_names() -> None:
    names = [f"net.layers.{n}.{part}.weight" for n in range(30) for part in ("a", "b")]
    assert rows_of([*names, "head.weight", "head.bias"]) == (
        [("net.layers", 0, 0), ("0", 1, 29), ("a", 2, 0), ("weight", 3, 0), ("b", 2, 0), ("weight", 3, 0),
         ("head", 0, 0), ("weight", 1, 0), ("bias", 1, 0)], 0,
    )  # fmt: skip
    assert rows_of(names, 2) == ([("net.layers", 0, 0), ("0", 1, 29)], 0)
    assert rows_of(["a", "a.b", "a.b.c"]) == ([("a", 0, 0), ("a", 0, 0), ("b", 1, 0), ("b", 1, 0), ("c", 2, 0)], 0)


def test_a_tree_without_dots_is_cut() -> None:
    rows, left_out = rows_of([f"w{n}" for n in range(5_000)])
    assert (len(rows), left_out) == (1_000, 4_000)


def test_sums_of_a_tree() -> None:
    named = [
        (f"{n // 10}.{n % 10}", TensorEntry((str(n),), (n % 10,), "float32", numel=n % 10, nbytes=4 * (n % 10)))
        for n in range(40)
    ]
    ((row, *below), _) = name_rows(named)
    assert (row.label, row.tensors, row.numel, row.nbytes, row.copies) == ("0", 10, 45, 180, ("1", "2", "3"))
    assert [found.numel for found in below] == list(range(10))


def test_scan_of_a_directory_names_each_import_once(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth", "below/c.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    (tmp_path / "bad.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    names, files = scan(tmp_path).report().tables
    keys = [column.key for column in names.columns]
    rows = [dict(zip(keys, row.cells, strict=True)) for row in names.rows]
    assert rows[0]["name"] == "os.system"
    assert (rows[0]["files"], rows[0]["where"]) == (1, "bad.pkl")
    (common,) = [row for row in rows if row["name"] == "torch._utils._rebuild_tensor_v2"]
    assert (common["files"], common["count"], common["where"]) == (3, 3, "a.pth and 2 more")
    assert [row.cells for row in files.rows] == [("bad.pkl", None, "os.system")]
