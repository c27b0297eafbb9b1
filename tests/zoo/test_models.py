"""`models`: by name, by cost, by accuracy; families; the Pareto front; what no index knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelprobe.cli.app import main
from modelprobe.errors import BadInput
from modelprobe.model.zoo import index
from modelprobe.report.amounts import parse_amount, parse_share
from modelprobe.zoo.build_index import add_to_user_index
from modelprobe.zoo.models import ModelFilter, families_of, find_models, with_front


@pytest.mark.parametrize(
    ("text", "amount"), [("30M", 30_000_000), ("4.2G", 4_200_000_000), ("1,500", 1500), ("2e6", 2_000_000), ("0", 0)]
)
def test_amounts(text: str, amount: int) -> None:
    assert parse_amount(text, "--max-params") == amount


def test_amounts_of_bytes_and_giga_macs() -> None:
    assert parse_amount("500MB", "--max-memory", of_bytes=True) == 500_000_000
    assert parse_amount("1.5GiB", "--max-memory", of_bytes=True) == 3 * 2**29
    assert parse_amount("5", "--max-gmacs", scale=10**9) == parse_amount("5G", "--max-gmacs", scale=10**9)
    assert (parse_share("1%", "--tolerance"), parse_share("0.5", "--tolerance")) == (0.01, 0.5)


@pytest.mark.parametrize("text", ["", "M", "-3M", "3 apples", "1e999", "nan", "5MB"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(BadInput):
        parse_amount(text, "--max-params")


@pytest.mark.parametrize("text", ["", "one", "-1%", "101%", "2", "nan"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(BadInput):
        parse_share(text, "--tolerance")


def test_limits_hold_and_the_least_comes_first() -> None:
    found = find_models(ModelFilter("vit*", max_params=30_000_000, max_macs=5 * 10**9, has_weights=True, sort="gmacs"))
    macs = [model.macs for model in found.models]
    assert len(macs) > 10
    assert macs == sorted(macs)
    assert all(m.parameters <= 30_000_000 and m.macs <= 5 * 10**9 and m.weights for m in found.models)


@pytest.mark.zoo
def test_accuracy_is_of_the_input_that_the_costs_are_of() -> None:
    found = find_models(ModelFilter("vit_b_16"))
    assert found.models[0].top1 == 81.886  # the best is 85.304, on images of 384
    assert {entry.top1 for entry in found.models[0].weights} >= {85.304}


def test_limits_that_nothing_keeps_say_which_to_loosen() -> None:
    with pytest.raises(BadInput) as raised:
        find_models(ModelFilter("resnet18", max_params=1000, min_top1=50))
    assert raised.value.hint.startswith("without --max-params there are")
    with pytest.raises(BadInput) as raised:  # no vision transformer of torchvision is so small
        find_models(ModelFilter("vit*", max_params=30_000_000, min_top1=78))
    assert "whose accuracy their library's metadata does not give" in raised.value.hint


def test_a_pattern_of_one_library() -> None:
    of_timm = find_models(ModelFilter("timm:*_tiny"))
    assert {model.origin for model in of_timm.models} == {"timm"}
    both = find_models(ModelFilter("*_tiny"))
    assert (of_timm.timm, both.timm > 0, both.torchvision > 0) == (both.timm, True, True)
    assert find_models(ModelFilter("torchvision:convnext_t")).torchvision == 1


def test_families_are_lines_of_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (xcit,) = [line for line in lines if line.startswith("xcit")]
    assert xcit.split() == ["xcit", "timm", "28", "3.049", "M", "189.1", "M", "414.2", "G"]


@pytest.mark.zoo
def test_parts_of_a_package_that_are_no_networks_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path / "cache"))
    source = (
        "from torch import nn\n\n\nclass Few(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 2)\n"
    )
    (tmp_path / "few_nets.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["index", "add", "few_nets", "--workers", "1"]) == 2
    assert "fewer than 6 tensors, as parts of networks have: Few" in capsys.readouterr().err
    many = "\n\nclass Many(nn.Sequential):\n    def __init__(self):\n        super().__init__(*[nn.Linear(4, 4)] * 3)\n"
    (tmp_path / "few_nets.py").write_text(
        source + many.replace("*[nn.Linear(4, 4)] * 3", "Few(), nn.Linear(2, 4), Few()")
    )
    monkeypatch.delitem(sys.modules, "few_nets")
    assert main(["index", "add", "few_nets", "--workers", "1"]) == 0
    assert "Left out: fewer than 6 tensors" in capsys.readouterr().out


def test_families_count_every_model() -> None:
    found = find_models(ModelFilter())
    assert sum(family.count for family in found.families) == len(found.models)
    resnet = next(f for f in families_of(found.models) if (f.name, f.origin) == ("resnet", "torchvision"))
    assert resnet.count == 10  # 18, 34, 50, 101, 152; ResNeXt-50, two ResNeXt-101; two wide ones
    assert resnet.parameters[0] == 11_689_512


def test_nothing_beats_the_front() -> None:
    found = with_front(find_models(ModelFilter("e*")), "gmacs")
    priced = {m.target: (m.macs, m.top1) for m in found.models if m.top1 is not None}
    for target in found.front:
        cost, accuracy = priced[target]
        assert not [t for t, (c, a) in priced.items() if (c <= cost and a > accuracy) or (c < cost and a >= accuracy)]


@pytest.mark.zoo
def test_a_name_in_no_index_is_counted_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path))
    rows = list(index.rows_of(index.open_index(index.PACKAGED)))[:3]
    (tmp_path / "packaged.zip").write_bytes(index.pack(rows, {}))
    monkeypatch.setattr(index, "PACKAGED", tmp_path / "packaged.zip")
    monkeypatch.setattr(index, "user_index", lambda: tmp_path / "user.zip")
    monkeypatch.setattr("modelprobe.zoo.build_index.user_index", lambda: tmp_path / "user.zip")
    found = find_models(ModelFilter("test_vit[2]"))
    assert [(m.target, m.parameters) for m in found.models] == [("timm:test_vit2", 455_720)]
    assert any("were counted now" in note.text for note in found.notes)
    again = find_models(ModelFilter("test_vit[2]"))
    assert again.models == found.models
    assert not any("were counted now" in note.text for note in again.notes)


def test_a_cache_directory_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    monkeypatch.setenv("MODELPROBE_CACHE_DIR", str(tmp_path / "file"))
    assert "cannot be written" in add_to_user_index([])


@pytest.mark.zoo
@pytest.mark.parametrize("line", [["models", "resnet*"], ["models"], ["identify", "samples/digit_cnn.pth"]])
def test_no_library_is_imported(line: list[str]) -> None:
    code = (
        f"import sys; from modelprobe.cli.app import main; code = main({line!r}); "
        "print(code, sorted({'torch', 'torchvision', 'timm', 'numpy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert done.stderr.splitlines()[-1] == "0 []"
