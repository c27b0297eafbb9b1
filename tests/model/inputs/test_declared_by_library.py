"""Inputs that come from a library's own records, from the first layers by their bases, or from a question."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.command_line import CommandLine

NET = '''
from collections import OrderedDict
import torch
from torch import nn

class Scaled(nn.Embedding):
    def forward(self, i):
        return super().forward(i) * 2

class Padded(nn.Conv2d):
    pass

class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.l = Scaled(100, 8), nn.Linear(8, 8)
    def forward(self, input_ids):
        return self.l(self.e(input_ids))

class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.b = Padded(3, 32, 3), nn.BatchNorm2d(32)
    def forward(self, x):
        return self.b(self.c(x))

class Audio(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.r = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 32, 7)), nn.LSTM(32, 32)
    def forward(self, x):
        return self.r(self.c(x).permute(2, 0, 1))[0]

class Either(nn.Module):
    def __init__(self):
        super().__init__()
        self.v, self.t = nn.Conv2d(3, 8, 3), nn.Embedding(100, 8)
    def forward(self, image=None, text=None):
        return (self.v(image) if image is not None else None), (self.t(text) if text is not None else None)

class Deep(nn.Module):
    """Its first layer takes 4 values, at the end of a shape that nobody can guess."""
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
    def forward(self, x):
        return self.fc(x).reshape(2, 3, 4)

class Cache:
    def __init__(self):
        self.k = torch.zeros(1, 7, 8)

class Cached(nn.Module):
    def __init__(self):
        super().__init__()
        self.l = nn.Linear(8, 8)
    def forward(self, x, cache):
        cache.k = torch.cat([cache.k, self.l(x)], 1)
        return cache.k

CACHE = Cache()
def cached():
    return (torch.zeros(1, 1, 8), CACHE), {}

class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(16, 8)
    def forward(self, ids):
        places = torch.arange(ids.shape[1], device=ids.device).unsqueeze(0)
        return self.words(ids) + self.places(places)

class Switches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
    def forward(self, x, twice: bool = True, keep=0, scale=None):
        x = self.fc(x) * (scale if scale is not None else 1)
        return self.fc(x[:, -keep:]) if twice else x
'''


@pytest.fixture
def cli(capsys, monkeypatch) -> CommandLine:
    monkeypatch.delenv("MODELPROBE_DEBUG", raising=False)
    return CommandLine(capsys)


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return str(tmp_path / "net.py")


def macs(cli: CommandLine, *command: str) -> int:
    found = cli("flops", *command, "-f", "json")
    assert found.code == 0, found.err
    return int(json.loads(found.out)["macs"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Text", 16 * 64),
        ("Image", 222 * 222 * 32 * 27),
        ("Audio", 1018 * 32 * 7 + 1018 * 4 * 32 * (32 + 32)),
    ],
)
def test_layers_are_known_by_the_classes_they_are_made_from(cli, net, name, expected) -> None:
    assert macs(cli, f"{net}:{name}") == expected


def test_a_forward_without_required_inputs_is_asked_about_and_the_hint_works(cli, net) -> None:
    found = cli("flops", f"{net}:Either")
    assert found.code == 2
    assert "does nothing without an input: forward takes image, text" in found.err
    hint = found.err.rstrip().rpartition(" ")[2]
    assert macs(cli, f"{net}:Either", "--input", hint) == 222 * 222 * 8 * 27


@pytest.mark.zoo
def test_a_wrong_guess_is_a_question(cli, net) -> None:
    found = cli("flops", f"{net}:Deep")
    assert found.code == 2
    assert "did not run on an input that was guessed, x: 1x4 float32: Deep raised" in found.err
    assert cli("flops", f"{net}:Deep", "--input", "x=1x4").code == 4
    assert macs(cli, f"{net}:Deep", "--input", "x=6x4") == 96


@pytest.mark.zoo
def test_tensors_in_objects_go_where_the_model_is(cli, net) -> None:
    found = cli("flops", f"{net}:Cached", "--inputs-from", f"{net}:cached", "-f", "json")
    answer = json.loads(found.out)
    assert (answer["macs"], answer["env"]["device"]) == (64, "meta")
    assert answer["inputs"] == ["x: 1x1x8 float32", "cache: Cache of k: 1x7x8 float32"]
    again = json.loads(cli("flops", f"{net}:Cached", "--inputs-from", f"{net}:cached", "-f", "json").out)
    assert again["inputs"] == answer["inputs"]


@pytest.mark.zoo
@pytest.mark.parametrize("device", [[], ["--device", "cpu"]])
def test_a_figure_beyond_the_table_of_positions_is_refused(cli, net, device) -> None:
    assert cli("flops", f"{net}:Positions", "--input", "ids=1x16:int64", *device).code == 0
    found = cli("flops", f"{net}:Positions", "--input", "ids=1x17:int64", *device)
    assert found.code == 4
    assert "IndexError" in found.err


@pytest.mark.zoo
def test_flags_and_numbers_are_inputs_too(cli, net) -> None:
    target = f"{net}:Switches"
    assert macs(cli, target, "--input", "x=2x4") == 64
    assert macs(cli, target, "--input", "x=2x4", "--input", "twice=false") == 32
    assert macs(cli, target, "--input", "x=2x4", "--input", "scale=0.5", "--input", "twice=false") == 32
    assert cli("flops", target, "--input", "x=2x4", "--input", "keep=1").code == 4  # three of four columns are missing
    assert macs(cli, target, "--input", "x=2x4", "--input", "keep=4") == 64
    assert cli("flops", target, "--input", "x=2x4", "--input", "scale=none").code == 0


def test_a_lazy_module_in_sys_modules_is_not_woken_up(cli, net, monkeypatch) -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"asked for {name}")

    monkeypatch.setitem(sys.modules, "a_lazy_module", Lazy("a_lazy_module"))
    assert macs(cli, f"{net}:Text") == 1024


def test_constants_of_a_module_that_a_constructor_imports_are_real(cli, tmp_path) -> None:
    (tmp_path / "late_table.py").write_text("import torch\nTABLE = torch.tensor([1.0, 2.0, 3.0, 4.0])\n")
    (tmp_path / "late.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        import late_table\n        self.t, self.l = late_table, nn.Linear(4, 4)\n\n"
        "    def forward(self, x):\n        x = self.l(x)\n        return x if x.sum() > 1e9 else x * self.t.TABLE\n"
    )
    assert macs(cli, f"{tmp_path / 'late.py'}:Net", "--input", "x=1x4") == 16


def test_nothing_is_downloaded_while_a_model_is_built(cli, tmp_path) -> None:
    (tmp_path / "fetch.py").write_text(
        "import urllib.request\nfrom torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(2, 2)\n        urllib.request.urlopen('http://weights.example/net.pth')\n"
    )
    found = cli("flops", f"{tmp_path / 'fetch.py'}:Net")
    assert found.code == 4
    assert "wants to download from weights.example" in found.err


def test_configurations_that_are_none(cli, tmp_path) -> None:
    (tmp_path / "config.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"size": 3}')
    assert "holds a list, not a configuration" in cli("flops", str(tmp_path)).err
    assert "does not say which library" in cli("flops", str(tmp_path / "other.json")).err
    (tmp_path / "config.json").write_text("{")
    found = cli("flops", str(tmp_path / "config.json"))
    assert (found.code, found.err.count("\n")) == (2, 2)


@pytest.mark.zoo
def test_a_configuration_of_timm(cli, tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"architecture": "mobilenetv3_small_050", "num_classes": 1000}')
    assert macs(cli, str(tmp_path)) == macs(cli, "timm:mobilenetv3_small_050")


def test_a_dot_for_a_colon(cli) -> None:
    found = cli("flops", "json.JSONDecoder")
    assert found.code == 2
    assert "did you mean json:JSONDecoder?" in found.err
