"""`diff`: every difference between two files is found, with the right numbers, and none where there is none."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modelprobe.checkpoint.answers.diff import TensorDiff, WeightsDiff, diff_weights
from modelprobe.checkpoint.values.compare import measure
from modelprobe.errors import BadInput
from tests.checkpoint.seeds import Block, training
from tests.checkpoint.writing import DTYPES, held, state
from tests.command_line import CommandLine, said

nan, inf = math.nan, math.inf


@pytest.fixture
def compare(tmp_path: Path):
    """Save two state dicts and compare them."""

    def go(a: object, b: object, **more: object) -> WeightsDiff:
        torch.save(a, tmp_path / "a.pt")
        torch.save(b, tmp_path / "b.pt")
        return diff_weights(str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), **more)

    return go


def by_name(result: WeightsDiff) -> dict[str, TensorDiff]:
    return {tensor.name or tensor.other: tensor for tensor in result.tensors}


def of(a: torch.Tensor, b: torch.Tensor, tolerance: float = 0.0):
    return measure(held({"a": a})[0], held({"b": b})[0], tolerance)


def test_by_hand() -> None:
    found = of(torch.tensor([3.0, 4.0, 0.0, 1.0]), torch.tensor([3.0, 0.0, 4.0, 1.5]))
    assert (found.numel, found.equal, found.beyond, found.unbounded) == (4, 1, 3, 0)
    assert found.max_abs == 4.0
    assert found.max_rel == 1.0  # |4 - 0| / max(4, 0)
    assert found.norm_a == pytest.approx(math.sqrt(26))  # 9 + 16 + 0 + 1
    assert found.norm_b == pytest.approx(math.sqrt(27.25))  # 9 + 0 + 16 + 2.25
    assert found.cosine == pytest.approx((9 + 1.5) / math.sqrt(26 * 27.25))


def test_what_is_not_finite() -> None:
    found = of(torch.tensor([nan, nan, inf, inf, -inf, 1.0]), torch.tensor([nan, 0.0, inf, 5.0, inf, 1.0]))
    assert (found.equal, found.unbounded, found.beyond) == (3, 3, 3)
    assert (found.max_abs, found.max_rel) == (0, 0)


def test_tolerance_is_absolute_below_one_and_relative_above() -> None:
    a, b = torch.tensor([0.0, 1000.0], dtype=torch.float64), torch.tensor([1e-4, 1000.1], dtype=torch.float64)
    assert of(a, b, 1e-3).beyond == 0  # 1e-4 <= 1e-3; 0.1 <= 1.0001
    assert of(a, b, 1e-5).beyond == 2


def test_no_tolerance_covers_an_infinite_value() -> None:
    a, b = torch.tensor([inf, inf, 1.0, nan, inf]), torch.tensor([1.0, -inf, -inf, nan, inf])
    assert of(a, b, 1e9).beyond == 3


def test_what_differs_outside_the_branch_is_named(compare) -> None:
    weights = {"w": torch.ones(3)}
    a = {"state_dict": weights, "optimizer": {"m": torch.ones(2), "n": torch.ones(1)}, "ema": {"v": torch.ones(3)}}
    b = {"state_dict": weights, "optimizer": {"m": torch.zeros(2), "n": torch.ones(1)}}
    found = compare(a, b)
    assert not found.differ
    assert [kept.path for side in found.not_compared for kept in side] == ["optimizer.m"]
    assert "1 entry was not compared" in str(found.report())
    assert compare(a, a).not_compared == ((), ())


def test_whole_numbers_are_compared_exactly() -> None:
    found = of(torch.tensor([2**53, 5]), torch.tensor([2**53 + 1, 5]))  # not told apart by float64
    assert (found.equal, found.beyond, found.max_abs) == (1, 1, 1)


def test_complex_numbers() -> None:
    found = of(torch.tensor([3 + 4j, 1j]), torch.tensor([3 + 4j, 2j]))
    assert (found.numel, found.equal, found.max_abs) == (2, 1, 1.0)
    assert found.norm_a == pytest.approx(math.sqrt(26))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype: str) -> None:
    values = torch.tensor([0, 1, 3]).to(getattr(torch, dtype))
    other = torch.tensor([1, 1, 3]).to(getattr(torch, dtype))
    assert of(values, values.clone()).equal == 3
    assert of(values, other).equal == 2


def test_zeros_have_no_direction() -> None:
    assert of(torch.zeros(3), torch.ones(3)).cosine is None
    assert of(torch.zeros(3), torch.zeros(3)).equal == 3
    assert of(torch.zeros(0), torch.zeros(0)).equal == 0
    assert of(torch.tensor([0.0]), torch.tensor([-0.0])).equal == 1


def test_a_file_and_itself(compare) -> None:
    result = compare(state(), state())
    names = {name for name, tensor in by_name(result).items() if tensor.status != "identical"}
    assert names == {"channels_last"}  # random
    assert not compare(Block().state_dict(), Block().state_dict()).counts.get("removed")


def test_every_kind_of_difference(compare) -> None:
    torch.manual_seed(0)
    base = {name: torch.randn(4, 3) for name in ("same", "near", "far", "old", "reshaped", "gone")}
    base["typed"] = torch.ones(3)
    other = {name: value.clone() for name, value in base.items() if name not in ("old", "gone")}
    other["near"] += 1e-7
    other["far"][0, 0] += 1
    other["brand.new"] = base["old"]
    other["reshaped"] = base["reshaped"].reshape(3, 4)
    other["typed"] = torch.ones(3, dtype=torch.float16)
    other["extra"] = torch.zeros(2)
    result = compare(base, other, tolerance=1e-6)
    found = by_name(result)
    assert {name: tensor.status for name, tensor in found.items()} == {
        "same": "identical", "near": "within tolerance", "far": "different", "old": "identical", "reshaped": "reshaped",
        "gone": "removed", "typed": "identical", "extra": "added",
    }  # fmt: skip
    assert (found["old"].other, found["old"].found) == ("brand.new", "equal values")
    assert found["typed"].retyped
    assert found["far"].values.max_abs == pytest.approx(1)
    assert (found["far"].values.numel, found["far"].values.equal) == (12, 11)
    assert result.differ


def test_tolerance_decides(compare) -> None:
    a, b = {"w": torch.zeros(3)}, {"w": torch.full((3,), 1e-4)}
    assert compare(a, b).differ
    assert not compare(a, b, tolerance=1e-3).differ


def test_a_prefix_is_found_also_when_the_values_changed(compare) -> None:
    torch.manual_seed(0)
    base = {f"layer{number}.weight": torch.randn(5, 5) for number in range(4)}
    tuned = {f"module.{name}": value + (0.1 if "2" in name else 0) for name, value in base.items()}
    result = compare(base, tuned)
    found = by_name(result)
    assert {name: tensor.other for name, tensor in found.items()} == {name: f"module.{name}" for name in base}
    assert found["layer2.weight"].found == "name"
    assert found["layer1.weight"].found == "equal values"
    assert any("All 4 renamed tensors gained the `module.` prefix" in note.text for note in result.report().notes)
    back = compare(tuned, base)
    assert {tensor.other for tensor in back.tensors} == set(base)


def test_equal_tensors_are_paired_by_their_names(compare) -> None:
    base = {f"{block}.{kind}": torch.zeros(7) for block in ("a", "b", "c") for kind in ("bias", "mean")}
    result = compare(base, {f"net.{name}": value for name, value in reversed(base.items())})
    assert {tensor.name: tensor.other for tensor in result.tensors} == {name: f"net.{name}" for name in base}


@pytest.mark.zoo
def test_thousands_of_equal_tensors(compare) -> None:
    base = {f"a{number}": torch.zeros(2) for number in range(1500)}
    result = compare(base, {f"x.{name}": value for name, value in base.items()})
    assert len({tensor.other for tensor in result.tensors}) == 1500
    assert result.counts == {"identical": 1500}


def test_formats_and_other_entries(tmp_path: Path) -> None:
    model = Block().state_dict()
    torch.save({"epoch": 3, "state_dict": model}, tmp_path / "a.pt")
    save_file({name: value.clone() for name, value in model.items()}, tmp_path / "b.safetensors", {"made": "today"})
    result = diff_weights(str(tmp_path / "a.pt"), str(tmp_path / "b.safetensors"))
    assert not result.differ
    assert {(other.path, other.before, other.after) for other in result.others} == {
        ("epoch", "3", None),
        ("made", None, "today"),
    }


def test_two_branches_of_one_file(compare) -> None:
    source = training()
    result = compare(source, source, branches=("state_dict", "state_dict_ema"))
    assert (result.a.branch, result.b.branch) == ("state_dict", "state_dict_ema")
    assert result.counts.keys() == {"identical", "different"}


def test_what_cannot_be_compared_is_refused(compare) -> None:
    with pytest.raises(BadInput, match="sparse"):
        compare({"w": torch.eye(3).to_sparse()}, {"w": torch.eye(3)})


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CommandLine(capsys)
    for name, value in (("a", 1.0), ("b", 1.5)):
        torch.save({"w": torch.full((4,), value), "\x1b[31mred": torch.ones(1)}, tmp_path / f"{name}.pt")
    a, b = str(tmp_path / "a.pt"), str(tmp_path / "b.pt")
    same = cli("diff", a, a)
    assert same.code == 0
    assert "identical" in same.out
    other = cli("diff", a, b)
    assert other.code == 1
    assert "different" in other.out
    assert "\x1b" not in other.out
    assert "differ" in other.err.splitlines()[0]
    assert cli("diff", a, b, "--tolerance", "0.5").code == 0
    data = json.loads(cli("diff", a, b, "-f", "json").out)
    assert (data["differ"], data["counts"]) == (True, {"different": 1, "identical": 1})
    assert "was given 3 times" in said(cli("diff", a, b, *["--branch", "."] * 3))
    assert "no such file" in said(cli("diff", a, str(tmp_path / "c.pt")))
    before = (tmp_path / "a.pt").read_bytes()
    assert "one of the files" in said(cli("diff", a, b, "-f", "json", "-o", a, "--force"))
    assert (tmp_path / "a.pt").read_bytes() == before


BOUNDED = """
import sys
import torch
from modelprobe.cli.app import main

def peak():  # not ru_maxrss, which begins with that of the parent
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

start = peak()
code = main(sys.argv[1:])
print(code, (peak() - start) // 1024, file=sys.stderr)
"""


def added_memory(*arguments: str) -> tuple[int, int]:
    """Exit code, and MiB that a command took beyond torch itself."""
    done = subprocess.run([sys.executable, "-c", BOUNDED, *arguments], capture_output=True, text=True, check=True)
    code, peak = done.stderr.splitlines()[-1].split()
    return int(code), int(peak)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_files_of_a_gigabyte_in_bounded_memory(tmp_path: Path) -> None:
    """One tensor of a whole gigabyte, and sixteen smaller ones."""
    one = torch.zeros(1 << 28)
    for name, place in (("a", 5), ("b", 1 << 27)):
        one[place] = 1
        torch.save({"w": one}, tmp_path / f"{name}.pt")
        one[place] = 0
    del one
    a, b, out = str(tmp_path / "a.pt"), str(tmp_path / "b.pt"), str(tmp_path / "c.safetensors")
    code, peak = added_memory("diff", a, b)
    print(f"diff of two files of 1 GiB: {peak} MiB beyond torch")
    assert (code, peak < 400) == (1, True)
    code, peak = added_memory("convert", a, "-o", out)
    print(f"convert of a file of 1 GiB: {peak} MiB beyond torch")
    assert (code, peak < 400) == (0, True)
    code, peak = added_memory("diff", a, out)
    assert (code, peak < 400) == (0, True)


def test_how_renamed_tensors_were_found_is_said_once(compare) -> None:
    before = {f"layer{n}.weight": torch.full((2,), float(n)) for n in range(5)}
    found = compare(before, {f"module.{name}": values for name, values in before.items()})
    report = found.report()
    assert {row.cells[2] for row in report.tables[0].rows} == {"renamed"}
    told = [note.text for note in report.notes if "renamed" in note.text]
    assert told == [
        "5 renamed tensors found: their values are equal.",
        "All 5 renamed tensors gained the `module.` prefix.",
    ]
