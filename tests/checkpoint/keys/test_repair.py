"""Every kind of mangled names is repaired or refused, never repaired wrongly; the file written is what was planned."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelprobe.checkpoint.keys.draft import PlanOptions
from modelprobe.errors import BadInput, CheckFailed
from modelprobe.model.target import resolve
from modelprobe.model.weights.load import load_state_dict_for
from tests.checkpoint.mangling import MANGLINGS, naive, prefixed, randomised
from tests.command_line import SAMPLES, CommandLine

HERE = str(Path(__file__).parents[1] / "mangling.py")
SMALL = {
    f"{HERE}:Named": (1, 3, 16, 16),
    f"{HERE}:OnlyModule": (1, 3, 16, 16),
    f"{HERE}:Alike": (2, 12),
    f"{SAMPLES}:TinyCNN": (1, 3, 16, 16),
}


@pytest.fixture
def cli(capsys):
    return CommandLine(capsys)


def tried(spec: str, shape: tuple[int, ...], mangling: str, path: Path) -> str:
    """`equal`, `refused: why` or `WRONG` for one network and one mangling; and how the naive repair fares."""
    target = resolve(spec)
    model = randomised(target.build("cpu").module)
    torch.save(MANGLINGS[mangling](model.state_dict()), path)
    other = target.build("cpu", seed=1).module.eval()
    try:
        state, _ = load_state_dict_for(other, path, target=target)
    except CheckFailed as refused:
        return f"refused: {refused.message}"
    other.load_state_dict(state, strict=True)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return "equal" if torch.equal(model(x), other(x)) else "WRONG"


@pytest.mark.zoo
@pytest.mark.parametrize("mangling", MANGLINGS)
@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.rpartition(":")[2])
def test_small_networks(spec, mangling, tmp_path):
    assert tried(spec, SMALL[spec], mangling, tmp_path / "mangled.pth") == "equal"


@pytest.mark.parametrize("mangling", ["DataParallel", "inner DataParallel", "Lightning"])
def test_the_naive_repair_fails_on_these(mangling):
    target = resolve(f"{HERE}:Named")
    state = target.build("cpu").module.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        target.build("cpu").module.load_state_dict(naive(MANGLINGS[mangling](state)), strict=True)


def test_two_networks_that_fit_alike_are_refused(tmp_path):
    model = resolve(f"{HERE}:Alike").build("cpu").module
    torch.save({**prefixed(model.state_dict(), "left"), **prefixed(model.state_dict(), "right")}, tmp_path / "x.pt")
    with pytest.raises(CheckFailed, match="2 networks in the file fit alike: left, right"):
        load_state_dict_for(model, tmp_path / "x.pt")
    state, _ = load_state_dict_for(model, tmp_path / "x.pt", options=PlanOptions(prefix="right"))
    assert list(state) == list(model.state_dict())


def test_two_renamed_blocks_of_one_shape_are_refused(tmp_path):
    model = resolve(f"{HERE}:Alike").build("cpu").module
    names = {"features.1": "features.b", "features.2": "features.a"}
    state = {names.get(n.rpartition(".")[0], n.rpartition(".")[0]) + "." + n.rpartition(".")[2]: v
             for n, v in model.state_dict().items()}  # fmt: skip
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckFailed, match="assigned by their order alone"):
        load_state_dict_for(model, tmp_path / "x.pt")
    repaired, _ = load_state_dict_for(model, tmp_path / "x.pt", options=PlanOptions(unproven=True))
    model.load_state_dict(repaired, strict=True)


def test_numbers_that_count_otherwise_are_refused(tmp_path):
    """A Sequential without its activations: `0, 1, 2, 3` were `0, 2, 4, 6`, and two of the names agree by accident."""
    model = resolve(f"{HERE}:Alike").build("cpu").module
    state = OrderedDict()
    for name, value in model.state_dict().items():
        parts = name.split(".")
        parts[1] = str(2 * int(parts[1])) if parts[1].isdigit() else parts[1]
        state[".".join(parts)] = value
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckFailed):
        load_state_dict_for(model, tmp_path / "x.pt")


def test_a_larger_network_is_not_cut_down(tmp_path):
    small = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    large = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    torch.save(large.state_dict(), tmp_path / "large.pt")
    with pytest.raises(CheckFailed, match="2 tensors are unexpected"):
        load_state_dict_for(small, tmp_path / "large.pt")


# The command


@pytest.fixture
def training(tmp_path):
    """A training checkpoint of DataParallel with an optimiser that keeps names, tied tensors and a view."""
    model = randomised(resolve(f"{SAMPLES}:TinyCNN").build("cpu").module)
    wrapped = torch.nn.DataParallel(model)
    optimizer = torch.optim.AdamW(wrapped.named_parameters())
    for parameter in wrapped.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    path = tmp_path / "train.pth"
    torch.save({"epoch": 7, "state_dict": wrapped.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path, model


@pytest.mark.zoo
def test_everything_around_the_model_survives(training, tmp_path, cli):
    path, model = training
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    answer = cli("repair", str(path), "--arch", f"{SAMPLES}:TinyCNN", "-o", str(tmp_path / "new.pth"))
    assert answer.code == 0, answer.err
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    old, new = torch.load(path), torch.load(tmp_path / "new.pth")
    assert new["epoch"] == 7
    assert list(new["state_dict"]) == list(model.state_dict())
    assert set(new["state_dict"]._metadata) == set(model.state_dict()._metadata)
    model.load_state_dict(new["state_dict"], strict=True)
    names = new["optimizer"]["param_groups"][0].get("param_names")
    assert names is None or names == [name for name, _ in model.named_parameters()]
    assert torch.equal(new["optimizer"]["state"][0]["exp_avg"], old["optimizer"]["state"][0]["exp_avg"])


@pytest.mark.zoo
def test_without_an_output_nothing_is_written(training, cli, tmp_path):
    path, _ = training
    answer = cli("repair", str(path), "--arch", f"{SAMPLES}:TinyCNN")
    assert answer.code == 0
    assert "Nothing was written" in answer.out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.pth"]


def test_safetensors_holds_the_model_alone(training, cli, tmp_path):
    path, model = training
    answer = cli("repair", str(path), "-o", str(tmp_path / "new.safetensors"))
    assert answer.code == 0, answer.err
    model.load_state_dict(load_file(tmp_path / "new.safetensors"), strict=True)
    assert "Not in the new file: epoch" in answer.out


@pytest.mark.parametrize("how", ["path", "symlink", "hardlink", "roundabout"])
def test_the_input_is_never_written_to(training, cli, tmp_path, how):
    path, _ = training
    out = {"path": path, "roundabout": tmp_path / "." / ".." / tmp_path.name / path.name}.get(how, tmp_path / "l.pth")
    if how == "symlink":
        out.symlink_to(path)
    elif how == "hardlink":
        os.link(path, out)
    before = path.read_bytes()
    answer = cli("repair", str(path), "-o", str(out), "--force")
    assert answer.code == 2
    assert "is the input itself" in answer.err
    assert path.read_bytes() == before


def test_an_existing_file_is_kept(training, cli, tmp_path):
    path, _ = training
    (tmp_path / "there.pth").write_text("precious")
    answer = cli("repair", str(path), "-o", str(tmp_path / "there.pth"))
    assert answer.code == 2
    assert (tmp_path / "there.pth").read_text() == "precious"


def test_nothing_to_repair_writes_nothing(tmp_path, cli):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "fine.pt")
    answer = cli("repair", str(tmp_path / "fine.pt"), "-o", str(tmp_path / "new.pt"))
    assert answer.code == 1
    assert "there is nothing to repair" in answer.err
    assert not (tmp_path / "new.pt").exists()


def test_a_collision_writes_nothing(tmp_path, cli):
    torch.save({"a._orig_mod.weight": torch.ones(2), "a.weight": torch.ones(2)}, tmp_path / "x.pt")
    answer = cli("repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "new.pt"))
    assert answer.code == 1
    assert "would both be called a.weight" in answer.err
    assert not (tmp_path / "new.pt").exists()


def test_a_cast_that_overflows_is_refused(tmp_path, cli):
    torch.save({"module.w": torch.tensor([1.0, 70000.0, -1e9]), "module.n": torch.tensor([3])}, tmp_path / "x.pt")
    arguments = ["repair", str(tmp_path / "x.pt"), "--dtype", "float16", "-o", str(tmp_path / "new.pt")]
    answer = cli(*arguments)
    assert answer.code == 1
    assert "2 values of 1 tensor would become infinite, such as 2 in w" in answer.err
    assert not (tmp_path / "new.pt").exists()
    assert cli(*arguments, "--allow-inf").code == 0
    found = torch.load(tmp_path / "new.pt")
    assert found["w"].dtype is torch.float16
    assert found["n"].dtype is torch.int64


def test_a_cast_says_what_becomes_zero_and_what_stays(tmp_path, cli):
    small = torch.tensor([1e-9, 0.0, 1.0, -1e-10])
    torch.save({"module.w": small, "module.f": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "x.pt")
    answer = cli("repair", str(tmp_path / "x.pt"), "--dtype", "float16", "-o", str(tmp_path / "new.pt"))
    assert answer.code == 0
    said = " ".join(answer.out.split())
    assert "2 values became zero in the new type" in said
    assert "1 tensor stays as in the file, such as f (float8_e4m3fn)" in said


def test_a_view_is_written_without_the_rest_of_its_storage(tmp_path, cli):
    torch.save({"module.w": torch.arange(1_000_000.0)[:10]}, tmp_path / "x.pt")
    assert cli("repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "new.pt")).code == 0
    assert (tmp_path / "new.pt").stat().st_size < 5000


def test_compaction_alone_is_a_repair(tmp_path, cli):
    torch.save({"w": torch.arange(1_000_000.0)[:10], "b": torch.ones(2)}, tmp_path / "x.pt")
    answer = cli("repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "new.pt"))
    assert answer.code == 0, answer.err
    assert "compaction" in answer.out
    assert (tmp_path / "new.pt").stat().st_size < 5000


def test_tied_tensors_of_safetensors_are_known(tmp_path, cli):
    weight = torch.rand(3, 3)
    torch.save({"module.a.weight": weight, "module.b.weight": weight}, tmp_path / "x.pt")
    assert cli("convert", str(tmp_path / "x.pt"), "-o", str(tmp_path / "x.safetensors")).code == 0
    assert cli("repair", str(tmp_path / "x.safetensors"), "-o", str(tmp_path / "new.pt")).code == 0
    assert sorted(torch.load(tmp_path / "new.pt")) == ["a.weight", "b.weight"]


def test_tied_tensors_stay_tied(tmp_path, cli):
    weight = torch.rand(3, 3)
    torch.save({"module.a.weight": weight, "module.b.weight": weight}, tmp_path / "x.pt")
    assert cli("repair", str(tmp_path / "x.pt"), "-o", str(tmp_path / "new.pt")).code == 0
    found = torch.load(tmp_path / "new.pt")
    assert found["a.weight"].data_ptr() == found["b.weight"].data_ptr()


def test_a_branch_asked_for_is_written_alone(tmp_path, cli):
    held = {"state_dict": {"module.w": torch.ones(2)}, "state_dict_ema": {"module.w": torch.zeros(2)}, "epoch": 1}
    torch.save(held, tmp_path / "x.pt")
    answer = cli("repair", str(tmp_path / "x.pt"), "--branch", "state_dict_ema", "-o", str(tmp_path / "new.pt"))
    assert answer.code == 0, answer.err
    assert torch.equal(torch.load(tmp_path / "new.pt")["w"], torch.zeros(2))


@pytest.mark.parametrize("grid", ["7", "0x4", "axb", "3x4x5"])
def test_a_bad_grid(tmp_path, cli, grid):
    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    assert cli("repair", str(tmp_path / "x.pt"), "--grid", grid).code == 2


def test_set_needs_a_model(tmp_path):
    from modelprobe.model.weights.request import RepairOptions, plan_repair

    torch.save({"w": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(BadInput, match="--set needs a model"):
        plan_repair(RepairOptions(str(tmp_path / "x.pt"), settings=("a=1",)))
