"""The figure: benign files of every saved form, converted and back: each tensor is there, bit for bit, or named.

`pytest -m zoo tests/checkpoint/test_conversion_figure.py -s` prints the sums. What a file holds is found by loading it
the ordinary way (our own files, so nothing is risked) and walking all that it gives.
"""

from __future__ import annotations

import argparse
import collections
import copy
import io
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modelprobe.checkpoint.answers.convert import Conversion, convert_weights
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.errors import BadInput
from tests.checkpoint.values.test_left_out import Outer, Parts, Strays, without_buffer_lines
from tests.checkpoint.writing import bits
from tests.sampling import sampled

pytestmark = pytest.mark.zoo

ARCHITECTURES = (
    *("test_vit", "test_resnet", "test_convnext", "test_efficientnet", "test_byobnet", "test_vit2", "resnet10t"),
    *("lcnet_050", "mobilenetv3_small_050", "levit_128s", "xcit_nano_12_p16_224", "edgenext_xx_small"),
)


def network(name: str) -> nn.Module:
    if name == "parts":
        return Parts().eval()
    return timm.create_model(name, num_classes=5).eval()


def trained(model: nn.Module) -> dict[str, Any]:
    """A checkpoint of a training run, with an optimizer that has taken a step."""
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    return {
        "epoch": 3, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1), "best": numpy.float64(0.5), "history": collections.defaultdict(list),
        "rng": torch.get_rng_state(),
    }  # fmt: skip


def in_other_dtypes(model: nn.Module) -> dict[str, torch.Tensor]:
    kinds = (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float64)
    return {
        name: value.to(kinds[index % 4]) if value.is_floating_point() else value
        for index, (name, value) in enumerate(model.state_dict().items())
    }


def script(model: nn.Module) -> Any:
    side = model.default_cfg["input_size"][-1] if hasattr(model, "default_cfg") else 64
    return torch.jit.trace(model, torch.zeros(1, 3, side, side), check_trace=False)


def with_packed_layers(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)


def views(model: nn.Module) -> dict[str, Any]:
    base = torch.arange(60.0)
    weight = next(iter(model.state_dict().values()))
    table = {(0, 1): torch.ones(1), (0, 2): torch.zeros(1)}
    several = [torch.ones(2), {"x": torch.ones(3)}]
    return {"a": base[5:9], "t": base.reshape(6, 10).t(), "e": base[:1].expand(3, 3), "tied": weight, "again": weight,
            "table": table, "list": several}  # fmt: skip


def arrays(model: nn.Module) -> dict[str, numpy.ndarray]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def write_npz(model: nn.Module, path: Path) -> None:
    buffer = io.BytesIO()
    numpy.savez(buffer, **arrays(model))
    path.write_bytes(buffer.getvalue())


def write_old_script(model: nn.Module, path: Path) -> None:
    script(model).save(f"{path}.new")
    without_buffer_lines(Path(f"{path}.new"), path)


FORMS: dict[str, Callable[[nn.Module, Path], object]] = {
    "state dict": lambda m, p: torch.save(m.state_dict(), p),
    "legacy": lambda m, p: torch.save(m.state_dict(), p, _use_new_zipfile_serialization=False),
    "protocol 4": lambda m, p: torch.save(m.state_dict(), p, pickle_protocol=4),
    "DataParallel": lambda m, p: torch.save({"state_dict": nn.DataParallel(m).state_dict()}, p),
    "training run": lambda m, p: torch.save(trained(m), p),
    "whole": lambda m, p: torch.save(m, p),
    "whole legacy": lambda m, p: torch.save(m, p, _use_new_zipfile_serialization=False),
    "whole in a dict": lambda m, p: torch.save({"model": m, "ema": copy.deepcopy(m), "epoch": 1}, p),
    "other dtypes": lambda m, p: torch.save(in_other_dtypes(m), p),
    "views": lambda m, p: torch.save(views(m), p),
    "quantised whole": lambda m, p: torch.save(with_packed_layers(m), p),
    "quantised state": lambda m, p: torch.save(with_packed_layers(m).state_dict(), p),
    "TorchScript": lambda m, p: script(m).save(str(p)),
    "TorchScript of torch 1.3": write_old_script,
    "TorchScript frozen": lambda m, p: torch.jit.freeze(script(m)).save(str(p)),
    "safetensors": lambda m, p: save_file({k: v.clone() for k, v in m.state_dict().items()}, p),
    "numpy pickle": lambda m, p: p.write_bytes(pickle.dumps(arrays(m), 2)),
    "joblib": lambda m, p: pytest.importorskip("joblib").dump(arrays(m), p),
    "npz": write_npz,
    "strays": lambda m, p: torch.save({"model": Strays(), "nested": Outer.Inner(2, 2)}, p),
    "one tensor": lambda m, p: torch.save(next(iter(m.state_dict().values())), p),
    "list": lambda m, p: torch.save([m.state_dict(), 5, None], p),
}


def loaded(form: str, path: Path) -> Any:
    if form.startswith("TorchScript"):
        module = torch.jit.load(str(path))
        return [*module.parameters(), *module.state_dict().values()]
    if form == "safetensors":
        return load_file(path)
    if form == "joblib":
        return pytest.importorskip("joblib").load(path)
    if form == "npz":
        return dict(numpy.load(path))
    if form == "numpy pickle":
        return pickle.loads(path.read_bytes())
    return torch.load(path, weights_only=False)


def reachable(value: Any, seen: set[int]) -> Iterator[torch.Tensor]:
    """Every tensor that can be reached from a value."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        yield value.detach()
    elif isinstance(value, numpy.ndarray):
        yield torch.from_numpy(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from reachable(item, seen)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from reachable(item, seen)
    elif isinstance(value, nn.Module) or hasattr(value, "__dict__"):
        yield from reachable(vars(value), seen)


Print = tuple[str, tuple[int, ...], bytes]


def fingerprint(tensor: torch.Tensor) -> Print:
    if tensor.is_quantized:
        return "int", tuple(tensor.shape), bits(tensor.int_repr())
    return str(tensor.dtype), tuple(tensor.shape), bits(tensor)


def named_prints(path: Path, result: Conversion) -> set[Print]:
    """What the listing of the source has under the names that the conversion gives as left out."""
    found = open_checkpoint(path)
    names = [entry.entry for entry in result.entries if entry.action == "dropped"]
    made = set()
    with TensorReader(found) as reader:
        for entry in found.tensors:
            if any(entry.name == name or entry.name.startswith(f"{name}.") for name in names):
                packed = "quantised" in entry.flags
                data = reader.raw(entry)[0] if packed else bits(reader.load(entry))
                made.add(("int" if packed else f"torch.{entry.dtype}", entry.shape, data))
    return made


def outcome(form: str, path: Path, suffix: str, folder: Path) -> str:
    """What became of the file: `kept`, `named`, `refused: …`, or `LOST: …`."""
    out = folder / f"out.{suffix}"
    out.unlink(missing_ok=True)
    wanted = {fingerprint(t) for t in reachable(loaded(form, path), set()) if t.numel()}
    try:
        result = convert_weights(str(path), out)
    except BadInput as error:
        return f"refused: {error.message}" if error.hint and not out.exists() else f"LOST: {error.message}"
    convert_weights(str(out), folder / "back.safetensors", force=True)
    held = torch.load(out, weights_only=True) if suffix == "pt" else load_file(out)
    there = {fingerprint(t) for t in reachable(held, set()) if t.numel()}
    if suffix == "safetensors":
        back = {fingerprint(t) for t in load_file(folder / "back.safetensors").values() if t.numel()}
        assert back == there
    lost = wanted - there
    missing = lost - named_prints(path, result) if lost else lost
    return f"LOST: {len(missing)} of {len(wanted)}" if missing else "named" if lost else "kept"


@pytest.fixture(scope="module")
def sums() -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    yield counts
    print(f"\nconversions: {dict(counts)}")


@pytest.mark.parametrize("name", ["parts", *sampled(ARCHITECTURES, 6)])
@pytest.mark.filterwarnings("ignore")
def test_every_tensor_is_there_or_named(name: str, tmp_path: Path, sums: Counter[str]) -> None:
    torch.manual_seed(0)
    model = network(name)
    wrong = {}
    for form, write in FORMS.items():
        path = tmp_path / f"{form.replace(' ', '_').replace('.', '_')}.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write(copy.deepcopy(model), path)
            for suffix in ("safetensors", "pt"):
                answer = outcome(form, path, suffix, tmp_path)
                kind = answer.partition(":")[0]
                sums[f"{kind}: {form}" if kind == "refused" else kind] += 1
                if kind == "LOST":
                    wrong[f"{form} to {suffix}"] = answer
        path.unlink()
    assert not wrong
