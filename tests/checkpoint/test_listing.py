"""What the reader lists is what torch itself says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors import safe_open
from torch import nn

from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.records import ATTRIBUTE, BUFFER, PARAMETER, Checkpoint, TensorEntry
from tests.checkpoint.seeds import Block, Script, save_export, save_script
from tests.command_line import CommandLine

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

SMALL = ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_0", "efficientnet_b0", "regnet_y_400mf")


def described(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[object, ...]]:
    """What torch says of each tensor."""
    return {
        key: (
            tuple(t.shape),
            str(t.dtype).removeprefix("torch."),
            tuple(t.stride()),
            t.storage_offset() * t.element_size(),
        )
        for key, t in tensors.items()
    }


def listed(found: Checkpoint, prefix: tuple[str, ...] = (), attributes: bool = False) -> dict[str, tuple[object, ...]]:
    """What the reader says of each."""
    return {
        ".".join(entry.path[len(prefix) :]): (entry.shape, entry.dtype, entry.strides, entry.offset)
        for entry in found.tensors
        if entry.path[: len(prefix)] == prefix and (attributes or entry.role != ATTRIBUTE)
    }


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, num_classes=3)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_state_dicts(name: str, legacy: bool, tmp_path: Path) -> None:
    state = small(name).state_dict()
    torch.save(state, tmp_path / "m", _use_new_zipfile_serialization=not legacy)
    found = open_checkpoint(tmp_path / "m")
    assert listed(found) == described(state)
    assert list(listed(found)) == list(state)
    assert not found.damaged
    assert not found.findings
    assert found.format == ("torch legacy" if legacy else "torch zip")
    assert found.branch is not None
    assert found.branch.path == ()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("legacy", [False, True])
def test_whole_modules(protocol: int, legacy: bool, tmp_path: Path) -> None:
    model = nn.Sequential(Block(), nn.Linear(4, 2), nn.ModuleDict({"a": nn.LayerNorm(2)}))
    torch.save(model, tmp_path / "m", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    found = open_checkpoint(tmp_path / "m")
    kept = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    buffers = dict(model.named_buffers(remove_duplicate=False))
    assert listed(found) == described({**dict(model.named_parameters(remove_duplicate=False)), **buffers})
    assert {entry.name for entry in found.tensors if entry.role == PARAMETER} == kept
    assert {entry.name for entry in found.tensors if entry.role == BUFFER} == set(buffers)
    left_out = {entry.name for entry in found.tensors if "non-persistent" in entry.flags}
    assert set(buffers) - left_out == set(model.state_dict()) - kept
    assert [".".join(m.path) for m in found.modules] == [key for key, _ in model.named_modules(remove_duplicate=False)]
    assert {entry.name for entry in found.tensors if entry.role == ATTRIBUTE} == {"0.anchors"}
    grads = {entry.name: entry.requires_grad for entry in found.tensors if entry.role == PARAMETER}
    assert not found.findings
    assert found.modules[1].type.endswith("seeds.Block")
    assert grads["0.scale"] is False
    assert grads["0.conv.weight"] is True


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_whole_zoo_models_without_their_classes(name: str, tmp_path: Path) -> None:
    model = small(name)
    torch.save(model, tmp_path / "m")
    found = open_checkpoint(tmp_path / "m")
    assert set(listed(found)) == set(model.state_dict())
    assert sum(entry.role == PARAMETER for entry in found.tensors) == sum(1 for _ in model.parameters())


@pytest.mark.parametrize("how", ["script", "trace", "mobile"])
def test_torchscript(how: str, tmp_path: Path) -> None:
    model = Script().eval()
    if how == "trace":
        torch.jit.trace(model, torch.ones(1, 3, 8, 8)).save(str(tmp_path / "m"))
    elif how == "script":
        save_script(tmp_path / "m")
    else:
        torch.jit.script(model)._save_for_lite_interpreter(str(tmp_path / "m"))
    found = open_checkpoint(tmp_path / "m")
    loaded = torch.jit.load(str(tmp_path / "m")) if how != "mobile" else model
    assert listed(found) == described(loaded.state_dict())
    assert {entry.name for entry in found.tensors if entry.role == PARAMETER} == {
        k for k, _ in loaded.named_parameters()
    }
    assert {entry.name for entry in found.tensors if entry.role == BUFFER} == {k for k, _ in loaded.named_buffers()}
    assert found.code


def test_exported(tmp_path: Path) -> None:
    save_export(tmp_path / "m.pt2")
    found = open_checkpoint(tmp_path / "m.pt2")
    model = Script()
    assert listed(found) == described(model.state_dict())
    parameters = {entry.name for entry in found.tensors if entry.role == PARAMETER}
    assert parameters == {k for k, _ in model.named_parameters()}
    newer = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)
    if newer:  # older archives keep the other tensors inside the program
        assert {entry.name for entry in found.tensors if entry.role == BUFFER} == {k for k, _ in model.named_buffers()}


class Lifting(nn.Module):
    """Its forward makes a tensor, which the exported program holds as a constant of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("table", torch.arange(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + self.table + torch.tensor([1.0, 2.0])


def test_constants_of_an_exported_program_are_no_buffers(tmp_path: Path) -> None:
    program = torch.export.export(Lifting().eval(), (torch.ones(1, 2),), strict=False)
    torch.export.save(program, tmp_path / "m.pt2")
    constants = set(program.graph_signature.lifted_tensor_constants)
    assert constants
    found = open_checkpoint(tmp_path / "m.pt2")
    assert {entry.name for entry in found.tensors if entry.role == BUFFER} <= {"table"}
    assert not constants & {entry.name for entry in found.tensors if entry.role != ATTRIBUTE}


def test_safetensors(seed_files: dict[str, Path]) -> None:
    found = open_checkpoint(seed_files["safetensors"])
    with safe_open(seed_files["safetensors"], "pt") as reference:
        assert {entry.name: list(entry.shape) for entry in found.tensors} == {
            key: reference.get_slice(key).get_shape()
            for key in reference.keys()  # noqa: SIM118
        }
    assert found.metadata == {"format": "pt"}


def test_shards_read_as_one(seed_files: dict[str, Path]) -> None:
    found = open_checkpoint(seed_files["shards"])
    assert {entry.name: entry.shape for entry in found.tensors} == {
        k: tuple(v.shape) for k, v in Block().state_dict().items()
    }
    assert not found.damaged
    assert len(found.files) == 2
    (note,) = open_checkpoint(found.files[0]).findings
    assert "shard 1 of 2" in note.text
    assert open_checkpoint(seed_files["shards"].parent).tensors == found.tensors


def test_distributed(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save({"model": Script().state_dict(), "epoch": 3}, checkpoint_id=tmp_path / "dcp")
    found = open_checkpoint(tmp_path / "dcp")
    assert {key: value[:2] for key, value in listed(found, ("model",)).items()} == {
        key: value[:2] for key, value in described(Script().state_dict()).items()
    }
    assert found.branch is not None
    assert found.branch.name == "model"
    next((tmp_path / "dcp").glob("*.distcp")).unlink()
    assert open_checkpoint(tmp_path / "dcp").damaged


def test_deepspeed(tmp_path: Path) -> None:
    step = tmp_path / "global_step5"
    step.mkdir()
    (tmp_path / "latest").write_text("global_step5")
    shapes = {"layer.weight": torch.Size([3, 2]), "layer.bias": torch.Size([3])}
    torch.save(
        {"param_shapes": [shapes], "buffer_names": [], "dp_world_size": 2, "module": None},
        step / "mp_rank_00_model_states.pt",
    )
    for rank in range(2):
        torch.save({"x": torch.zeros(5)}, step / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    found = open_checkpoint(tmp_path)
    assert {entry.name: entry.shape for entry in found.tensors} == {
        "param_shapes.layer.weight": (3, 2), "param_shapes.layer.bias": (3,),
    }  # fmt: skip
    assert found.format == "DeepSpeed ZeRO"
    assert found.branch is not None
    assert found.branch.name == "param_shapes"


def entry_of(found: Checkpoint, name: str) -> TensorEntry:
    return next(entry for entry in found.tensors if entry.name == name)


def test_numpy_gguf_onnx_and_pickle(seed_files: dict[str, Path]) -> None:
    npz = open_checkpoint(seed_files["npz"])
    assert {entry.name: (entry.shape, entry.dtype) for entry in npz.tensors} == {
        "a": ((2, 3), "float32"), "block/kernel": ((5,), "float64"),
    }  # fmt: skip
    (one,) = open_checkpoint(seed_files["npy"]).tensors
    assert (one.shape, one.strides, one.flags) == ((2, 3), (1, 2), ("big-endian",))
    gguf = open_checkpoint(seed_files["GGUF"])
    assert [(e.name, e.shape, e.dtype, e.nbytes) for e in gguf.tensors] == [
        ("output.weight", (2, 32), "float32", 256),
        ("blk.0.weight", (64,), "Q8_0", 68),  # 64 elements in 2 blocks of 34 bytes
    ]
    assert gguf.metadata["general.architecture"] == "llama"
    assert not gguf.damaged
    onnx = open_checkpoint(seed_files["ONNX"])
    assert [(e.name, e.shape, e.dtype) for e in onnx.tensors] == [
        ("conv.weight", (2, 3), "float32"),
        ("axes", (4,), "int64"),
    ]
    assert not onnx.damaged
    pickled = open_checkpoint(seed_files["pickle"])
    assert (entry_of(pickled, "model.w").shape, entry_of(pickled, "model.b").nbytes) == ((2, 3), 16000)
    assert entry_of(pickled, "t").shape == (3,)
    assert pickled.tree.child("n").value == 3
    assert not pickled.damaged


def test_storages_are_where_the_reader_says(tmp_path: Path) -> None:
    """The bytes at the recorded place are the tensor's, in the formats that keep them as they are."""
    state = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.arange(5)}
    torch.save(state, tmp_path / "old", _use_new_zipfile_serialization=False)
    found = open_checkpoint(tmp_path / "old")
    data = (tmp_path / "old").read_bytes()
    for entry in found.tensors:
        storage = found.storages[entry.storage]
        held = data[storage.position : storage.position + storage.length]
        assert held == state[entry.name].numpy().tobytes()


def test_views_ties_and_odd_dtypes(tmp_path: Path) -> None:
    base = torch.arange(20.0)
    tied = torch.ones(2, 2)
    state = {
        "slice": base[5:10], "t": base.reshape(4, 5).t(), "x": tied, "y": tied, "half": torch.ones(2).half(),
        "f8": torch.ones(3).to(torch.float8_e4m3fn), "c": torch.ones(2, dtype=torch.complex64),
        "u": torch.ones(2, dtype=torch.uint16),
        "wide": torch.zeros(1).expand(4, 4), "empty": torch.empty(0, 3), "scalar": torch.tensor(1),
        "meta": torch.empty(2, 3, device="meta"), "q": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        "s": torch.eye(3).to_sparse(), "p": nn.Parameter(torch.ones(2)), "b": torch.ones(2, dtype=torch.bfloat16),
    }  # fmt: skip
    torch.save(state, tmp_path / "m")
    found = open_checkpoint(tmp_path / "m")
    assert [entry.name for entry in found.tensors] == list(state)
    plain = {key: value for key, value in state.items() if key not in ("s", "q")}
    assert {key: value for key, value in listed(found).items() if key in plain} == described(plain)
    assert entry_of(found, "x").storage == entry_of(found, "y").storage
    assert entry_of(found, "slice").storage_nbytes == 80
    assert "sparse" in entry_of(found, "s").flags
    assert "quantised" in entry_of(found, "q").flags
    assert entry_of(found, "p").role == PARAMETER
    assert not found.damaged


@pytest.mark.zoo
def test_the_reader_imports_neither_torch_nor_numpy(seed_files: dict[str, Path]) -> None:
    code = (
        "import sys\n"
        "from modelprobe.checkpoint.open import open_checkpoint\n"
        "from modelprobe.checkpoint.answers.summary import summarize_weights\n"
        "from modelprobe.checkpoint.answers.scan import scan\n"
        "for path in sys.argv[1:]:\n"
        "    summarize_weights(open_checkpoint(path)).report(); scan(path).report()\n"
        "assert not {'torch', 'numpy', 'timm', 'safetensors'} & set(sys.modules), 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, seed_files.values())], check=True)


def test_a_tensor_beside_the_model_is_among_the_contents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = {"w": torch.zeros(2, 2), "b": torch.zeros(2)}
    torch.save({"state_dict": model, "mean": torch.ones(3), "std": torch.ones(())}, tmp_path / "m.pt")
    answer = json.loads(CommandLine(capsys)("summary", str(tmp_path / "m.pt"), "-f", "json").out)
    listed = [(c["key"], c["kind"], c["type"], c["nbytes"]) for c in answer["contents"]]
    assert listed[1:] == [("mean", "tensor", "3 float32", 12), ("std", "tensor", "scalar float32", 4)]
