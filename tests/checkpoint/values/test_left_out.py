"""Nothing is lost by `convert`, `repair` and `diff` without a name: attributes, constants, packed weights, entries."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from modelprobe.checkpoint.answers.convert import Conversion, convert_weights
from modelprobe.checkpoint.answers.diff import diff_weights
from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.errors import BadInput
from tests.checkpoint.writing import same


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without torch's words about TorchScript and quantization being old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Parts(nn.Module):
    """A layer, both kinds of buffers, and tensors that hang on the model and on its parts in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.fc = nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("scratch", torch.full((2,), 5.0), persistent=False)
        self.scale = torch.full((3,), 2.0)
        self.grids = [torch.ones(1), torch.full((2,), 3.0)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.fc(self.body(x).mean((2, 3)))
        return out * self.scale.sum() + self.seen + self.scratch + self.grids[0].sum()


class Strays(nn.Module):
    """Tensors that only a submodule's own list, dictionary and object hold, as YOLOv5's anchors do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.inner.grid = [torch.full((1,), 7.0), {"deep": torch.full((2,), 8.0)}]
        self.inner.unregistered = [nn.Linear(1, 1)]


def outcome(result: Conversion) -> dict[str, str]:
    return {entry.entry: entry.action for entry in result.entries}


def roles(path: Path) -> dict[str, str | None]:
    return {entry.name: entry.role for entry in open_checkpoint(path).tensors}


def without_buffer_lines(path: Path, out: Path) -> Path:
    """The archive as torch 1.0 to 1.3 wrote it: its classes name their parameters alone."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith(".py"):
                data = b"\n".join(line for line in data.split(b"\n") if b"__buffers__" not in line)
            new.writestr(name, data)
    return out


def test_old_torchscript_has_its_weights(tmp_path: Path) -> None:
    model = Parts().eval()
    torch.jit.script(model).save(str(tmp_path / "new.pt"))
    old = without_buffer_lines(tmp_path / "new.pt", tmp_path / "old.pt")
    assert roles(old)["body.0.weight"] == "parameter"
    assert roles(old)["seen"] == "buffer"
    convert_weights(str(old), tmp_path / "m.safetensors")
    loaded = load_file(tmp_path / "m.safetensors")
    state = model.state_dict()
    assert all(same(loaded[name], tensor) for name, tensor in state.items())
    # before torch 1.4 every tensor that was no parameter was a buffer
    assert set(loaded) == {*state, "scratch", "scale"}


def test_torchscript_attributes_and_constants_are_listed(tmp_path: Path) -> None:
    scripted = torch.jit.script(Parts().eval())
    scripted.save(str(tmp_path / "scripted.pt"))
    result = convert_weights(str(tmp_path / "scripted.pt"), tmp_path / "m.safetensors")
    assert outcome(result) == dict.fromkeys(("scale", "grids.0.0", "grids.0.1"), "dropped")
    torch.jit.freeze(scripted).save(str(tmp_path / "frozen.pt"))
    held = open_checkpoint(tmp_path / "frozen.pt")
    assert {entry.shape for entry in held.tensors} >= {(4, 3, 3, 3), (4,), (2, 4), (2,)}
    with pytest.raises(BadInput, match=r"no tensor of .* is in a state_dict: 8 are constants"):
        convert_weights(str(tmp_path / "frozen.pt"), tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()


def quantised(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return torch.ao.quantization.quantize_dynamic(Parts(), {nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("scripted", [False, True])
def test_packed_weights_are_named_and_compared(scripted: bool, tmp_path: Path) -> None:
    for seed in (0, 1):
        model = quantised(seed)
        if scripted:
            torch.jit.script(model).save(str(tmp_path / f"{seed}.pt"))
        else:
            torch.save(model, tmp_path / f"{seed}.pt")
    found = open_checkpoint(tmp_path / "0.pt")
    packed = next(entry for entry in found.tensors if "quantised" in entry.flags)
    assert (packed.shape, packed.dtype) == ((2, 4), "qint8")
    assert not found.unlisted
    result = convert_weights(str(tmp_path / "0.pt"), tmp_path / "m.safetensors")
    assert outcome(result)[packed.name] == "dropped"
    # its scale and zero point are compared beside the integers
    weight = model.fc.weight()
    entry = next(e for e in open_checkpoint(tmp_path / "1.pt").tensors if "quantised" in e.flags)
    assert entry.quantizer == f"per_tensor_affine {weight.q_scale()} {weight.q_zero_point()}"
    same_file = diff_weights(str(tmp_path / "0.pt"), str(tmp_path / "0.pt"))
    assert not same_file.differ
    assert not any(same_file.not_compared)
    other = {t.name: t.status for t in diff_weights(str(tmp_path / "0.pt"), str(tmp_path / "1.pt")).tensors}
    assert other[packed.name] == "different"
    assert other[f"{packed.name}.quantizer"] == "different"


def test_scales_of_channels_are_compared(tmp_path: Path) -> None:
    def save(scales: list[float]) -> str:
        name = f"{scales[0]}.pt"
        zero = torch.zeros(2, dtype=torch.int64)
        tensor = torch._make_per_channel_quantized_tensor(
            torch.ones(2, 3, dtype=torch.int8), torch.tensor(scales, dtype=torch.float64), zero, 0
        )
        torch.save({"w": tensor}, tmp_path / name)
        return str(tmp_path / name)

    a, b = save([0.5, 0.25]), save([0.75, 0.25])
    status = {t.name: t.status for t in diff_weights(a, b).tensors}
    assert status == {
        "w": "identical", "w.quantizer": "identical", "w.quantizer.1": "different", "w.quantizer.2": "identical",
    }  # fmt: skip
    with pytest.raises(BadInput, match="quantized weights, such as w"):
        convert_weights(a, tmp_path / "out.pt")


def test_what_hangs_on_submodules_is_listed(tmp_path: Path) -> None:
    torch.save(Strays(), tmp_path / "m.pt")
    found = open_checkpoint(tmp_path / "m.pt")
    assert not found.unlisted
    assert {entry.name for entry in found.tensors if entry.role == "attribute"} == {
        "inner.grid.0", "inner.grid.1.deep", "inner.unregistered.0.weight", "inner.unregistered.0.bias",
    }  # fmt: skip
    result = convert_weights(str(tmp_path / "m.pt"), tmp_path / "out.safetensors")
    assert set(load_file(tmp_path / "out.safetensors")) == {"inner.weight", "inner.bias"}
    assert {name for name, action in outcome(result).items() if action == "dropped"} == {
        "inner.grid.0", "inner.grid.1.deep", "inner.unregistered.0.weight", "inner.unregistered.0.bias",
    }  # fmt: skip


def test_a_second_name_of_a_weight_is_no_loss(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.again = [model[0].weight]
    torch.save(model, tmp_path / "m.pt")
    assert "dropped" not in outcome(convert_weights(str(tmp_path / "m.pt"), tmp_path / "out.safetensors")).values()


def test_a_storage_that_nothing_uses_is_named(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "in.pt")
    with zipfile.ZipFile(tmp_path / "in.pt", "a") as archive:
        archive.writestr("in/data/9", b"\1" * 12)
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.pt")
    assert [(e.entry, e.why) for e in result.entries if e.action == "dropped"] == [
        ("storages", "1 of 12 bytes that belong to no tensor: 9")
    ]
    left, right = diff_weights(str(tmp_path / "in.pt"), str(tmp_path / "out.pt")).not_compared
    assert ([entry.path for entry in left], right) == (["storages"], ())


def test_values_deep_in_the_model_are_named(tmp_path: Path) -> None:
    state = {"layer": {"weight": torch.ones(2), "config": {"stride": 2}}, "note": "x"}
    torch.save({"model": {"state_dict": state, "extra": {"t": torch.ones(3)}}, "epoch": 1}, tmp_path / "in.pt")
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.safetensors")
    assert outcome(result) == dict.fromkeys(
        ("epoch", "model.extra", "model.state_dict.note", "model.state_dict.layer.config"), "dropped"
    )


def test_a_root_that_cannot_be_written_gives_its_tensors(tmp_path: Path) -> None:
    torch.save([torch.ones(2), torch.zeros(3), Strays], tmp_path / "in.pt")
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.pt")
    assert set(torch.load(tmp_path / "out.pt")) == {"0", "1"}
    assert outcome(result)["2"] == "dropped"


def test_keys_of_other_types_stay_apart(tmp_path: Path) -> None:
    value = {(0, 1): torch.zeros(1), (0, 2): torch.ones(1), 1: torch.full((1,), 2.0), "1": torch.full((1,), 3.0)}
    torch.save({"w": torch.ones(2), "table": value}, tmp_path / "in.pt")
    found = open_checkpoint(tmp_path / "in.pt")
    assert not found.damaged
    assert [e.path[1] for e in found.tensors if len(e.path) > 1] == ["(0, 1)", "(0, 2)", "1", "1~1"]
    convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt")["table"]
    assert list(loaded) == list(value)
    assert all(same(loaded[key], value[key]) for key in value)


@pytest.mark.parametrize("value", [{"epochs": 3, "split": [1, 2, 3]}, nn.ReLU(), 5, []])
def test_sound_files_without_tensors(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "in.pt")
    found = open_checkpoint(tmp_path / "in.pt")
    assert not summarize_weights(found).damaged
    assert any("the file holds no tensors" in finding.text for finding in found.findings)
    with pytest.raises(BadInput, match="holds no tensors"):
        convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.pt")


class Outer:
    """Holds a class whose name only `getattr` finds: how protocol 2 pickles it."""

    class Inner(nn.Linear):
        """Nested."""


def test_a_nested_class_is_no_damage(tmp_path: Path) -> None:
    torch.save(Outer.Inner(2, 3), tmp_path / "in.pt", pickle_protocol=2)
    assert not open_checkpoint(tmp_path / "in.pt").damaged
    convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.safetensors")
    assert set(load_file(tmp_path / "out.safetensors")) == {"weight", "bias"}


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_arrays_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    generator = numpy.random.default_rng(0)
    arrays = {"w": generator.standard_normal((3, 4)).astype("float32"), "f": numpy.asfortranarray(numpy.eye(3)[:2])}
    (tmp_path / "in.pkl").write_bytes(pickle.dumps(arrays, protocol))
    convert_weights(str(tmp_path / "in.pkl"), tmp_path / "out.safetensors")
    loaded = load_file(tmp_path / "out.safetensors")
    assert all(numpy.array_equal(loaded[name].numpy(), array) for name, array in arrays.items())


def test_a_joblib_file_is_not_called_damaged(tmp_path: Path) -> None:
    pytest.importorskip("joblib").dump({"w": numpy.ones((3, 4))}, tmp_path / "in.pkl")
    with pytest.raises(BadInput, match="is a joblib file") as raised:
        open_checkpoint(tmp_path / "in.pkl")
    assert "savez" in raised.value.hint


@pytest.mark.zoo
@pytest.mark.parametrize(
    "other",
    [
        numpy.array(["a", "bc"]),
        numpy.array([b"a"]),
        numpy.array([{"a": 1}, None]),
        numpy.array(["2026-01-01"], dtype="M8[ns]"),
        numpy.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
        numpy.zeros(2, dtype=numpy.longdouble),
    ],
    ids=["texts", "bytes", "objects", "dates", "records", "wide floats"],
)
def test_arrays_without_a_dtype_of_torch_are_named(other: numpy.ndarray, tmp_path: Path) -> None:
    weights = numpy.arange(6, dtype="f4").reshape(2, 3)
    numpy.savez(tmp_path / "a.npz", w=weights, other=other)
    assert not open_checkpoint(tmp_path / "a.npz").damaged
    done = convert_weights(str(tmp_path / "a.npz"), tmp_path / "a.safetensors")
    assert outcome(done) == {"other": "dropped"}
    assert numpy.array_equal(load_file(tmp_path / "a.safetensors")["w"].numpy(), weights)
    result = diff_weights(tmp_path / "a.npz", tmp_path / "a.safetensors")
    assert "other" in str(result.report().notes)


def test_an_array_too_long_to_be_kept_as_text(tmp_path: Path) -> None:
    array = numpy.arange(18 << 20, dtype=numpy.uint32).astype(numpy.uint8)  # every byte, more than 16 MiB of them
    (tmp_path / "in.pkl").write_bytes(pickle.dumps({"w": array}, 2))
    convert_weights(str(tmp_path / "in.pkl"), tmp_path / "out.safetensors")
    assert numpy.array_equal(load_file(tmp_path / "out.safetensors")["w"].numpy(), array)


def test_one_tensor_alone(tmp_path: Path) -> None:
    torch.save(torch.arange(6.0), tmp_path / "in.pt")
    result = convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.safetensors")
    assert [(e.entry, e.why) for e in result.entries] == [("the root", "a tensor without a name is called tensor")]
    assert list(load_file(tmp_path / "out.safetensors")) == ["tensor"]
    convert_weights(str(tmp_path / "in.pt"), tmp_path / "out.pt")
    assert same(torch.load(tmp_path / "out.pt"), torch.arange(6.0))


class Table:
    """Stands for what pandas pickles: an object that holds arrays and is no model."""

    def __init__(self) -> None:
        self.blocks = [numpy.ones(3), numpy.zeros(2)]
        self.kind = "frame"


def test_an_object_is_not_called_a_model(tmp_path: Path) -> None:
    (tmp_path / "in.pkl").write_bytes(pickle.dumps(Table()))
    found = summarize_weights(open_checkpoint(tmp_path / "in.pkl"))
    assert found.branch is not None
    assert found.branch.rule == f"{__name__}.Table, not a torch module"
    assert found.report().blocks[0].items[2].label == "Object"  # type: ignore[union-attr]
