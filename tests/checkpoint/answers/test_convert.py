"""`convert`: a checkpoint of every format arrives with all its values, and the rest is named."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed import checkpoint as dcp

from modelprobe.checkpoint.answers.convert import Conversion, convert_weights
from modelprobe.checkpoint.answers.diff import diff_weights
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.write.convert import parse_byte_size
from modelprobe.errors import BadInput, ProbeError
from modelprobe.report.blocks import Level
from tests.checkpoint.seeds import Block, gguf, training
from tests.checkpoint.writing import same, snapshot
from tests.command_line import CommandLine, said


def entries(result: Conversion) -> dict[str, str]:
    return {action.entry: action.action for action in result.entries}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(same(a[name], b[name]) for name in a)


STATES = ("torch zip", "state dict", "torch legacy", "whole", "whole legacy", "TorchScript", "torch.export", "shards")


@pytest.mark.parametrize("kind", STATES)
def test_there_and_back_again(kind: str, seed_files: dict[str, Path], tmp_path: Path) -> None:
    before = snapshot(seed_files[kind].parent)
    one = convert_weights(str(seed_files[kind]), tmp_path / "m.safetensors")
    two = convert_weights(str(tmp_path / "m.safetensors"), tmp_path / "m.pt")
    three = convert_weights(str(tmp_path / "m.pt"), tmp_path / "again.safetensors")
    assert (tmp_path / "m.safetensors").read_bytes()[8:200] != b""
    assert equal(load_file(tmp_path / "m.safetensors"), load_file(tmp_path / "again.safetensors"))
    assert one.tensors == three.tensors <= two.tensors
    torch.load(tmp_path / "m.pt", weights_only=True)
    assert snapshot(seed_files[kind].parent) == before


def test_tied_names_come_back(tmp_path: Path) -> None:
    model = Block()
    torch.save(model.state_dict(), tmp_path / "in.pt")
    convert_weights(str(tmp_path / "in.pt"), tmp_path / "m.safetensors")
    assert "again.weight" not in load_file(tmp_path / "m.safetensors")
    convert_weights(str(tmp_path / "m.safetensors"), tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt")
    Block().load_state_dict(loaded)
    assert loaded["again.weight"].data_ptr() == loaded["bn.weight"].data_ptr()


def test_a_training_checkpoint_keeps_everything_in_pt(tmp_path: Path) -> None:
    torch.save({**training(), "callback": print}, tmp_path / "in.pt")
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.pth")
    assert entries(result) == {
        **dict.fromkeys(("epoch", "state_dict", "state_dict_ema", "optimizer", "args"), "kept"),
        "callback": "dropped",
    }
    loaded = torch.load(tmp_path / "out.pth", weights_only=True)
    assert loaded["epoch"] == 7
    assert len(loaded["optimizer"]["state"]) == 4


def test_safetensors_takes_the_model_and_names_the_rest(tmp_path: Path) -> None:
    torch.save(training(), tmp_path / "in.pt")
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.safetensors")
    assert entries(result) == dict.fromkeys(("epoch", "state_dict_ema", "optimizer", "args"), "dropped")
    assert all(name.startswith("module.") for name in load_file(tmp_path / "out.safetensors"))


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_branch_alone(suffix: str, tmp_path: Path) -> None:
    torch.save(training(), tmp_path / "in.pt")
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / f"out.{suffix}", branch="state_dict_ema")
    assert set(entries(result).values()) == {"dropped"}
    loaded = torch.load(tmp_path / "out.pt") if suffix == "pt" else load_file(tmp_path / "out.safetensors")
    assert "conv.weight" in loaded
    if suffix == "pt":
        assert loaded._metadata["bn"] == {"version": 2}
    with pytest.raises(BadInput, match="no tensors under nowhere"):
        convert_weights(str(tmp_path / "in.pt"), tmp_path / "x.pt", branch="nowhere")


def test_a_whole_module_inside_a_dictionary(tmp_path: Path) -> None:
    model = Block()
    torch.save({"model": model, "epoch": 3, "date": "today"}, tmp_path / "yolo.pt")
    result = convert_weights(str(tmp_path / "yolo.pt"), tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(loaded) == ["model", "epoch", "date"]
    Block().load_state_dict(loaded["model"])
    assert entries(result)["model.scratch"] == "dropped"


@pytest.mark.parametrize(("suffix", "load"), [("safetensors", load_file), ("bin", torch.load)])
def test_cut_into_shards_and_put_together(suffix: str, load, tmp_path: Path) -> None:
    tensors = OrderedDict((f"layer{number}.w", torch.randn(100)) for number in range(10))
    tensors["tied.w"] = tensors["layer0.w"]
    torch.save(tensors, tmp_path / "in.pt")
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / f"m.{suffix}", shard_size=1000)
    # 400 bytes each: two fit into 1000
    names = [f"m-{number:05}-of-00005.{suffix}" for number in range(1, 6)]
    assert [Path(file).name for file in result.files] == [*names, f"m.{suffix}.index.json"]
    index = json.loads((tmp_path / f"m.{suffix}.index.json").read_text())
    assert index["metadata"]["total_size"] == (4000 if suffix == "safetensors" else 4400)
    assert set(index["weight_map"].values()) == set(names)
    for name, file in index["weight_map"].items():
        assert same(load(tmp_path / file)[name], tensors[name])
    convert_weights(result.files[-1], tmp_path / "back.pt")
    assert equal(torch.load(tmp_path / "back.pt"), dict(tensors))


def test_one_shard_is_one_file(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "in.pt")
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / "m.safetensors", shard_size=10**9)
    assert result.files == (str(tmp_path / "m.safetensors"),)


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    tensors = {f"w{number}": torch.ones(100) for number in range(4)}
    save_file(tensors, tmp_path / "in.safetensors")
    result = convert_weights(str(tmp_path / "in.safetensors"), tmp_path / "m.safetensors", shard_size=500)
    Path(result.files[1]).unlink()
    with pytest.raises(BadInput, match="damaged or incomplete: a shard is missing"):
        convert_weights(result.files[-1], tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("500 MB", 5 * 10**8), ("1.5KiB", 1536), ("7", 7), ("2GiB", 2 << 30), ("1tb", 10**12)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_byte_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1GB", "2XB", "1e9", "9" * 40])
def test_no_sizes(text: str) -> None:
    with pytest.raises(BadInput, match="is no size"):
        parse_byte_size(text)


# Directories


def test_a_distributed_checkpoint(tmp_path: Path) -> None:
    source = {
        "model": {"a.w": torch.randn(3, 4), "b": torch.arange(5)},
        "epoch": 3,
        "optimizer": {"state": {0: {"m": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(source, checkpoint_id=str(tmp_path / "dcp"))
    result = convert_weights(str(tmp_path / "dcp"), tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert equal(loaded["model"], source["model"])
    assert loaded["epoch"] == 3
    assert loaded["optimizer"]["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert set(entries(result).values()) == {"kept"}
    convert_weights(str(tmp_path / "dcp"), tmp_path / "out.safetensors")
    assert equal(load_file(tmp_path / "out.safetensors"), source["model"])


def test_parameters_become_plain_tensors_and_it_is_said(tmp_path: Path) -> None:
    torch.save({"w": torch.nn.Parameter(torch.ones(2)), "v": torch.ones(2)}, tmp_path / "x.pt")
    result = convert_weights(str(tmp_path / "x.pt"), tmp_path / "out.pt")
    assert "1 tensor with requires_grad became plain" in str(result.report())
    assert not torch.load(tmp_path / "out.pt")["w"].requires_grad
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "y.pt")
    assert "requires_grad" not in str(convert_weights(str(tmp_path / "y.pt"), tmp_path / "z.pt").report())


def test_a_distributed_batch_norm(tmp_path: Path) -> None:
    """Buffers that are told by their names are tensors like the others."""
    source = torch.nn.BatchNorm2d(2).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": source}, checkpoint_id=str(tmp_path / "dcp"))
    convert_weights(str(tmp_path / "dcp"), tmp_path / "out.safetensors")
    assert equal(load_file(tmp_path / "out.safetensors"), dict(source))


def test_conjugates_and_negatives_are_written_as_numbers(tmp_path: Path) -> None:
    base = torch.complex(torch.arange(6.0).reshape(2, 3), torch.arange(6.0, 12).reshape(2, 3))
    state = {
        "plain": base,
        "conjugate": (base + 1).conj(),
        "turned": (base + 2).t().conj(),
        "negative": (base + 3).conj().imag,
    }
    assert (state["negative"].is_neg(), state["conjugate"].is_conj()) == (True, True)
    torch.save(state, tmp_path / "x.pt")
    for name, load in (("out.safetensors", load_file), ("out.pt", torch.load)):
        result = convert_weights(str(tmp_path / "x.pt"), tmp_path / name)
        assert not result.dropped
        assert equal(load(tmp_path / name), {key: value.resolve_conj().resolve_neg() for key, value in state.items()})
        assert not diff_weights(tmp_path / "x.pt", tmp_path / name).differ


def test_attributes_of_tensors_and_arrays_of_numpy_are_named(tmp_path: Path) -> None:
    tensor, parameter, plain = torch.ones(2), torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.zeros(1))
    tensor.note, parameter.tag = "x", 5
    torch.save({"t": tensor, "p": parameter, "plain": plain, "array": numpy.ones(3)}, tmp_path / "x.pt")
    for name in ("out.safetensors", "out.pt"):
        done = convert_weights(str(tmp_path / "x.pt"), tmp_path / name)
        told = {entry.entry: entry.why for entry in done.entries if entry.action == "changed"}
        assert [told[key] for key in ("t", "p")] == ["its Python attributes were left out"] * 2
        assert "plain" not in told
    assert told["array"] == "a numpy array became a tensor"


@pytest.mark.parametrize("odd", [torch.eye(3).to_sparse(), torch.ones(2, device="meta")])
def test_an_odd_tensor_is_left_out_by_name(odd: torch.Tensor, tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2), "odd": odd, "b.weight": torch.ones(3)}, tmp_path / "x.pt")
    for name in ("out.safetensors", "out.pt"):
        result = convert_weights(str(tmp_path / "x.pt"), tmp_path / name)
        assert entries(result)["odd"].startswith("dropped")
    assert set(load_file(tmp_path / "out.safetensors")) == {"a.weight", "b.weight"}
    assert set(torch.load(tmp_path / "out.pt")) == {"a.weight", "b.weight"}


def test_a_distributed_checkpoint_without_a_data_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"w": torch.ones(3)}, checkpoint_id=str(tmp_path / "dcp"))
    next((tmp_path / "dcp").glob("*.distcp")).unlink()
    with pytest.raises(BadInput, match="damaged or incomplete"):
        convert_weights(str(tmp_path / "dcp"), tmp_path / "out.pt")


def zero_folder(folder: Path, stage: int, ranks: int) -> dict[str, torch.Tensor]:
    """What DeepSpeed writes for two parameter groups, a buffer and a tied parameter, and what it stands for."""
    groups = [{"a.w": torch.randn(3, 5), "a.b": torch.randn(7)}, {"c.w": torch.randn(2, 2, 3), "c.s": torch.randn(())}]
    flats: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
    for group in groups:
        if stage == 3:  # each parameter in equal parts, padded
            parts = [[] for _ in range(ranks)]
            for value in group.values():
                size = -(-value.numel() // ranks)
                padded = torch.cat([value.reshape(-1), torch.zeros(size * ranks - value.numel())])
                for rank, part in enumerate(padded.split(size)):
                    parts[rank].append(part)
            for rank in range(ranks):
                flats[rank].append(torch.cat(parts[rank]))
        else:  # the whole group end to end, padded to a multiple of 2 x ranks
            whole = torch.cat([value.reshape(-1) for value in group.values()])
            size = -(-whole.numel() // (2 * ranks)) * 2
            padded = torch.cat([whole, torch.zeros(size * ranks - whole.numel())])
            for rank, part in enumerate(padded.split(size)):
                flats[rank].append(part)
    step = folder / "global_step5"
    step.mkdir(parents=True)
    (folder / "latest").write_text("global_step5")
    buffer = torch.arange(3)
    states = {
        "module": {**{name: value.half() for group in groups for name, value in group.items()}, "bn.count": buffer},
        "param_shapes": [OrderedDict((name, value.shape) for name, value in group.items()) for group in groups],
        "buffer_names": ["bn.count"],
        "shared_params": {"tied.w": "a.w"},
        "dp_world_size": ranks,
    }
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    for rank in range(ranks):
        optimizer = {"optimizer_state_dict": {"zero_stage": stage, "partition_count": ranks, key: flats[rank]}}
        torch.save(optimizer, step / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    torch.save(
        states, step / ("zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt")
    )
    expected = {name: value for group in groups for name, value in group.items()}
    return {**expected, "bn.count": buffer, "tied.w": expected["a.w"]}


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_shards(stage: int, ranks: int, tmp_path: Path) -> None:
    expected = zero_folder(tmp_path / "z", stage, ranks)
    convert_weights(str(tmp_path / "z"), tmp_path / "out.pt")
    assert equal(torch.load(tmp_path / "out.pt", weights_only=True), expected)
    convert_weights(str(tmp_path / "z"), tmp_path / "out.safetensors")
    assert equal(load_file(tmp_path / "out.safetensors"), {k: v for k, v in expected.items() if k != "tied.w"})


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_shards_of_a_rank_are_missing(stage: int, tmp_path: Path) -> None:
    zero_folder(tmp_path / "z", stage, 3)
    (tmp_path / "z" / "global_step5" / "zero_pp_rank_2_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(BadInput, match="incomplete"):
        convert_weights(str(tmp_path / "z"), tmp_path / "out.pt")


# What is not converted


def test_arrays(tmp_path: Path) -> None:
    arrays = {"a": numpy.arange(6, dtype=">f4").reshape(2, 3), "b/kernel": numpy.asfortranarray(numpy.ones((2, 3)))}
    numpy.savez(tmp_path / "m.npz", **arrays)
    convert_weights(str(tmp_path / "m.npz"), tmp_path / "m.safetensors")
    loaded = load_file(tmp_path / "m.safetensors")
    assert loaded["a"].tolist() == arrays["a"].tolist()
    assert loaded["b/kernel"].shape == (2, 3)


def test_plain_gguf(tmp_path: Path) -> None:
    data = bytearray(gguf())
    (tmp_path / "q.gguf").write_bytes(data)
    with pytest.raises(BadInput, match=r"quantized in blocks, as blk\.0\.weight \(Q8_0\)"):
        convert_weights(str(tmp_path / "q.gguf"), tmp_path / "out.pt")
    place = data.find(b"blk.0.weight") + len("blk.0.weight") + 4 + 8
    data[place : place + 4] = (1).to_bytes(4, "little")  # float16 instead of Q8_0
    (tmp_path / "f.gguf").write_bytes(data + b"\0" * 60)
    convert_weights(str(tmp_path / "f.gguf"), tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt")
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in loaded.items()} == {
        "output.weight": (torch.float32, (2, 32)),
        "blk.0.weight": (torch.float16, (64,)),
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"w": torch.eye(3).to_sparse()}, "sparse"),
        ({"w": torch.empty(2, device="meta")}, "without data"),
        ([1, 2], "holds no tensors"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_refused(value: object, expected: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "in.pt")
    with pytest.raises(BadInput, match=expected):
        convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_quantised_tensors_are_named_and_alone_refused(suffix: str, tmp_path: Path) -> None:
    packed = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    torch.save({"q": packed, "w": torch.ones(3)}, tmp_path / "in.pt")
    done = convert_weights(str(tmp_path / "in.pt"), tmp_path / f"out.{suffix}")
    assert done.tensors == 1
    assert [(one.entry, one.action) for one in done.entries if "quantized" in one.why] == [("q", "dropped")]
    torch.save({"q": packed}, tmp_path / "alone.pt")
    with pytest.raises(BadInput, match="quantized"):
        convert_weights(str(tmp_path / "alone.pt"), tmp_path / f"none.{suffix}")


# The command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CommandLine(capsys)
    torch.save(training(), tmp_path / "in.pt")
    answer = cli("convert", str(tmp_path / "in.pt"), "-o", str(tmp_path / "out.safetensors"))
    assert answer.code == 0
    assert "optimizer" in answer.out
    assert "not in the new file" in answer.out
    again = cli("convert", str(tmp_path / "in.pt"), "-o", str(tmp_path / "out.safetensors"))
    assert again.code == 2
    assert "exists | --force replaces it" in said(again)
    data = json.loads(cli("convert", str(tmp_path / "in.pt"), "-o", str(tmp_path / "x.bin"), "-f", "json").out)
    assert data["schema"] == "modelprobe.convert/2"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "{}/in.pt", "--force"], "is the input itself"),
        (["-o", "{}/out"], "tells no format"),
        (["-o", "{}/out.pt", "--to", "zip"], "--to 'zip' is not known"),
        (["-o", "{}/out.pt", "--shard-size", "2XB"], "is no size"),
        (["-o", "{}/no/out.pt"], "there is no directory"),
        (["-o", "{}/out.pt", "--branch", "nowhere"], "no tensors under nowhere"),
    ],
)
def test_what_the_command_refuses(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "in.pt")
    before = snapshot(tmp_path)
    answer = CommandLine(capsys)("convert", str(tmp_path / "in.pt"), *(part.format(tmp_path) for part in arguments))
    assert answer.code == 2
    assert expected in said(answer)
    assert snapshot(tmp_path) == before


# Damage


@pytest.mark.zoo
@pytest.mark.parametrize("kind", ["torch zip", "torch legacy", "whole", "safetensors", "shards", "zero", "distributed"])
def test_damaged_files_convert_whole_or_not_at_all(kind: str, seed_files: dict[str, Path], tmp_path: Path) -> None:
    """Bytes changed at random: the answer is a file that was read back, or one line; never a trace of half a file."""
    source = tmp_path / "source"
    if kind == "zero":
        zero_folder(source, 2, 2)
    elif kind == "distributed":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save({"model": {"w": torch.randn(3, 4)}, "epoch": 3}, checkpoint_id=str(source))
    else:
        shutil.copytree(seed_files[kind].parent, source)
    given = source / seed_files[kind].name if kind in seed_files else source
    files = [path for path in source.rglob("*") if path.is_file()]
    chance = random.Random(5)
    refused = 0
    for _ in range(40):
        file = chance.choice(files)
        whole = file.read_bytes()
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            data[chance.randrange(len(data))] = chance.choice((0, 255, chance.randrange(256)))
        file.write_bytes(data)
        for out in (tmp_path / "out.pt", tmp_path / "out.safetensors"):
            try:
                convert_weights(str(given), out, force=True)
            except ProbeError as error:
                refused += "\n" not in error.message
        assert not list(tmp_path.glob(".modelprobe-*"))
        file.write_bytes(whole)
    assert refused  # seldom is every byte that was hit one that nothing reads


def test_texts_of_a_header_are_kept_or_named(tmp_path: Path) -> None:
    save_file({"w": torch.ones(3)}, tmp_path / "a.safetensors", {"format": "pt", "author": "me", "step": "7"})
    kept = convert_weights(str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (kept.entries, open_checkpoint(tmp_path / "b.safetensors").metadata["author"]) == ((), "me")
    lost = convert_weights(str(tmp_path / "a.safetensors"), tmp_path / "b.pt")
    assert entries(lost) == {"__metadata__": "dropped"}
    assert lost.entries[0].why == "2 values that a torch file has no place for: author, step"
    assert any(note.level is Level.WARNING for note in lost.report().notes)
    save_file({"w": torch.ones(3)}, tmp_path / "plain.safetensors", {"format": "pt"})
    assert convert_weights(str(tmp_path / "plain.safetensors"), tmp_path / "c.pt").entries == ()
