"""Another library's names: repaired when equal outputs prove the assignment, refused in every other case."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelprobe.checkpoint.keys.draft import PlanOptions
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.errors import BadInput
from modelprobe.model.target import resolve
from modelprobe.model.weights.equivalence import order_of_use
from modelprobe.model.weights.identify import similar_names
from modelprobe.model.weights.load import fit, load_state_dict_for, load_strictly, refusals
from tests.checkpoint.mangling import prefixed, randomised
from tests.command_line import CommandLine

HERE = str(Path(__file__).parents[1] / "mangling.py")
ON = PlanOptions(inputs=("2x5x8",))
X = torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def cli(capsys):
    return CommandLine(capsys)


def saved(path: Path, spec: str, *settings: str):
    model = randomised(resolve(spec, settings).build("cpu").module)
    torch.save(prefixed(model.state_dict(), "module"), path)
    return model


@pytest.mark.zoo
@pytest.mark.parametrize(("one", "other"), [("Mine", "Theirs"), ("Theirs", "Mine")])
def test_equal_outputs_prove_an_assignment(one, other, tmp_path):
    source, target = resolve(f"{HERE}:{one}"), resolve(f"{HERE}:{other}")
    model = saved(tmp_path / "x.pt", source.spec)
    result = target.build("cpu", seed=1).module.eval()
    state, plan = load_state_dict_for(result, tmp_path / "x.pt", target=target, origin=source, options=ON)
    assert plan.proven
    result.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.allclose(model(X), result(X), atol=1e-6)


@pytest.mark.zoo
def test_other_outputs_refuse_it(tmp_path):
    """A network of the same shapes that computes something else."""
    saved(tmp_path / "x.pt", f"{HERE}:Theirs", "activation=relu")
    origin = resolve(f"{HERE}:Theirs", ("activation=relu",))
    fitted = fit(open_checkpoint(tmp_path / "x.pt"), target=resolve(f"{HERE}:Mine"), origin=origin, options=ON)
    assert fitted.plan.complete
    assert not fitted.plan.good
    assert "the outputs of" in refusals(fitted)[0][0]


@pytest.mark.zoo
def test_layers_that_are_registered_in_another_order_than_they_are_used(tmp_path):
    """The norm that is registered first is used last: the order of use is proven where that of names is not."""
    model = saved(tmp_path / "x.pt", f"{HERE}:Theirs", "swapped=True")
    origin, target = resolve(f"{HERE}:Theirs", ("swapped=True",)), resolve(f"{HERE}:Mine")
    result = target.build("cpu", seed=1).module.eval()
    state, plan = load_state_dict_for(result, tmp_path / "x.pt", target=target, origin=origin, options=ON)
    assert plan.proven
    assert plan.renames["module.after.weight"] == "norms.0.weight"
    result.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.allclose(model(X), result(X), atol=1e-6)


@pytest.mark.zoo
def test_epsilons_that_are_all_the_difference(tmp_path):
    saved(tmp_path / "x.pt", f"{HERE}:Theirs")
    origin, target = resolve(f"{HERE}:Theirs"), resolve(f"{HERE}:Mine", ("epsilon=1e-3",))
    fitted = fit(open_checkpoint(tmp_path / "x.pt"), target=target, origin=origin, options=ON)
    assert "epsilons 1e-05 and 0.001, and that is all the difference" in refusals(fitted)[0][0]


@pytest.mark.zoo
def test_what_no_output_depends_on_is_not_proven(tmp_path):
    saved(tmp_path / "x.pt", f"{HERE}:Sides")
    fitted = fit(
        open_checkpoint(tmp_path / "x.pt"), target=resolve(f"{HERE}:OtherSides"), origin=resolve(f"{HERE}:Sides")
    )
    assert not fitted.plan.good
    assert "the outputs do not depend on left" in refusals(fitted)[0][0]


@pytest.mark.zoo
def test_without_the_files_own_network_it_is_refused(tmp_path):
    saved(tmp_path / "x.pt", f"{HERE}:Theirs")
    fitted = fit(open_checkpoint(tmp_path / "x.pt"), target=resolve(f"{HERE}:Mine"))
    assert not fitted.plan.good
    assert "outputs could not be compared" in refusals(fitted)[0][0]
    accepted = fit(
        open_checkpoint(tmp_path / "x.pt"), target=resolve(f"{HERE}:Mine"), options=PlanOptions(unproven=True)
    )
    assert accepted.plan.good


@pytest.mark.zoo
def test_the_wrong_network_of_origin(tmp_path):
    saved(tmp_path / "x.pt", f"{HERE}:Theirs")
    with pytest.raises(BadInput, match="is not saved from"):
        fit(open_checkpoint(tmp_path / "x.pt"), target=resolve(f"{HERE}:Mine"), origin=resolve(f"{HERE}:Sides"))


@pytest.mark.zoo
def test_the_command_prints_both_differences(tmp_path, cli):
    saved(tmp_path / "x.pt", f"{HERE}:Theirs")
    arguments = ["repair", str(tmp_path / "x.pt"), "--arch", f"{HERE}:Mine", "--from", f"{HERE}:Theirs"]
    arguments += ["--input", "2x5x8"]
    answer = cli(*arguments, "-o", str(tmp_path / "new.pt"))
    assert answer.code == 0, answer.err
    assert "random weights, float64" in answer.out
    assert "the weights of the file" in answer.out
    resolve(f"{HERE}:Mine").build("cpu").module.load_state_dict(torch.load(tmp_path / "new.pt"), strict=True)


@pytest.mark.parametrize(
    ("name", "library", "expected"),
    [
        ("vit_b_16", "timm", "vit_base_patch16_224"),
        ("vit_base_patch16_224", "torchvision", "vit_b_16"),
        ("swin_t", "timm", "swin_tiny_patch4_window7_224"),
        ("convnext_tiny", "timm", "convnext_tiny"),
        ("regnety_004", "torchvision", "regnet_y_400mf"),
        ("regnet_x_400mf", "timm", "regnetx_004_tv"),
        ("regnetx_004_tv", "torchvision", "regnet_x_400mf"),
    ],
)
def test_candidates_of_the_other_library(name, library, expected):
    assert expected in similar_names(name, library)


@pytest.mark.zoo
def test_the_order_of_use():
    """`after` is used first here; `token` belongs to the network itself, which is called before its children."""
    swapped = order_of_use(resolve(f"{HERE}:Theirs", ("swapped=True",)), ["2x5x8"])
    assert swapped[:3] == ("cls", "embed.weight", "embed.bias")
    assert swapped.index("after.weight") < swapped.index("before.weight")
    plain = order_of_use(resolve(f"{HERE}:Theirs"), ["2x5x8"])
    assert plain.index("before.weight") < plain.index("after.weight")
    assert order_of_use(resolve(f"{HERE}:Theirs"), ["2x5x9"]) == ()  # it cannot run on that
    assert order_of_use(resolve(f"{HERE}:ready"), ["2x12"]) == ()  # an object of the user's is not hooked into
    assert not any(name.startswith("aux") for name in order_of_use(resolve(f"{HERE}:Sides"), ["2x8"]))


def test_a_model_that_exists_already_is_not_changed(tmp_path):
    saved(tmp_path / "x.pt", f"{HERE}:Alike")
    target = resolve(f"{HERE}:ready")
    before = {name: value.clone() for name, value in target.build().module.state_dict().items()}
    fitted = fit(open_checkpoint(tmp_path / "x.pt"), target=target)
    load_strictly(target, fitted.plan, fitted.found)
    after = target.build().module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
