"""LoRA: told with rank and alpha, laid over its base, merged as PEFT merges it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from modelprobe.checkpoint.adapters.lora import describe, find_lora, fit_to_base
from modelprobe.checkpoint.answers.convert import convert_weights
from modelprobe.checkpoint.answers.diff import diff_weights
from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.errors import BadInput
from tests.command_line import CommandLine

State = dict[str, torch.Tensor]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capsys)


def adapter(folder: Path, tensors: State, config: dict[str, Any] | None) -> str:
    """A directory as PEFT saves it."""
    folder.mkdir()
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
    return str(folder / "adapter_model.safetensors")


def peft(module: str, down: torch.Tensor, up: torch.Tensor, more: str = "") -> State:
    head = f"base_model.model.{module}."
    return {f"{head}lora_A{more}.weight": down, f"{head}lora_B{more}.weight": up}


DOWN = torch.tensor([[1.0, 2.0, 3.0]])  # rank 1, 3 in
UP = torch.tensor([[10.0], [20.0]])  # 2 out
BASE = {"net.fc.weight": torch.ones(2, 3), "net.fc.bias": torch.zeros(2), "net.other.weight": torch.ones(4, 4)}


@pytest.fixture
def base(tmp_path: Path) -> str:
    torch.save(BASE, tmp_path / "base.pt")
    return str(tmp_path / "base.pt")


def merged(source: str, base: str, tmp_path: Path) -> State:
    convert_weights(source, tmp_path / "out.pt", base=base, force=True)
    found: State = torch.load(tmp_path / "out.pt", weights_only=True)
    return found


def test_by_hand(base: str, tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", peft("net.fc", DOWN, UP), {"r": 1, "lora_alpha": 2})
    found = merged(source, base, tmp_path)
    # 1 + 2 / 1 x [[10 x 1, 10 x 2, 10 x 3], [20 x 1, ...]]
    assert found["net.fc.weight"].tolist() == [[21, 41, 61], [41, 81, 121]]
    assert torch.equal(found["net.other.weight"], BASE["net.other.weight"])
    assert list(found) == list(BASE)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 3}, 3.0 / 4),
        ({"lora_alpha": 3, "use_rslora": True}, 3.0 / 2),  # the root of the rank
        ({"lora_alpha": 3, "alpha_pattern": {"fc": 8}}, 8.0 / 4),
        ({"lora_alpha": 3, "alpha_pattern": {"c": 8}}, 3.0 / 4),
    ],
)
def test_scales(config: dict[str, Any], scale: float, base: str, tmp_path: Path) -> None:
    down, up = torch.ones(4, 3), torch.ones(2, 4)
    found = merged(adapter(tmp_path / "a", peft("net.fc", down, up), config), base, tmp_path)
    assert found["net.fc.weight"].tolist() == [[1 + 4 * scale] * 3] * 2


def test_other_layers(tmp_path: Path) -> None:
    state = {"c.weight": torch.zeros(2, 3, 2, 2), "p.weight": torch.zeros(2, 3, 1, 1), "e.weight": torch.zeros(5, 3),
             "t.weight": torch.zeros(2, 3, 1, 1)}  # fmt: skip
    torch.save(state, tmp_path / "base.pt")
    down, up = torch.arange(12.0).reshape(1, 3, 2, 2), torch.tensor([[[[1.0]]], [[[2.0]]]])
    tensors = {
        **peft("c", down, up), **peft("p", DOWN.reshape(1, 3, 1, 1), UP.reshape(2, 1, 1, 1)), **peft("t", DOWN, UP),
        "base_model.model.e.lora_embedding_A": torch.arange(5.0)[None],
        "base_model.model.e.lora_embedding_B": torch.tensor([[1.0], [2.0], [3.0]]),
    }  # fmt: skip
    found = merged(adapter(tmp_path / "a", tensors, {"lora_alpha": 1}), str(tmp_path / "base.pt"), tmp_path)
    assert torch.equal(found["c.weight"], torch.cat([down, 2 * down]))
    assert found["p.weight"].flatten(1).tolist() == found["t.weight"].flatten(1).tolist() == (UP @ DOWN).tolist()
    assert found["e.weight"].tolist() == [[i * 1.0, i * 2.0, i * 3.0] for i in range(5)]


def test_whole_tensors_and_biases(base: str, tmp_path: Path) -> None:
    tensors = {**peft("net.fc", DOWN, UP), "base_model.model.net.fc.base_layer.bias": torch.ones(2),
               "base_model.model.net.head.weight": torch.ones(1, 2)}  # fmt: skip
    source = adapter(tmp_path / "a", tensors, {"lora_alpha": 1})
    result = convert_weights(source, tmp_path / "out.pt", base=base)
    assert {entry.entry: entry.why.partition(" (")[0] for entry in result.entries} == {
        "net.fc.weight": "LoRA added", "net.fc.bias": "replaced by the adapter's",
        "net.head.weight": "added, from the adapter",
    }  # fmt: skip
    assert torch.load(tmp_path / "out.pt")["net.fc.bias"].tolist() == [1, 1]


def test_dora_and_transposed(tmp_path: Path) -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    torch.save({"fc.weight": weight}, tmp_path / "base.pt")
    zero = {**peft("fc", torch.ones(1, 2), torch.zeros(2, 1)),
            "base_model.model.fc.lora_magnitude_vector": torch.tensor([6.0, 2.0])}  # fmt: skip
    found = merged(adapter(tmp_path / "a", zero, {"lora_alpha": 1}), str(tmp_path / "base.pt"), tmp_path)
    # rows of norm 3 and 4 get the magnitudes 6 and 2
    assert found["fc.weight"].tolist() == [[6, 0], [0, 2]]
    torch.save({"h.weight": torch.zeros(3, 2)}, tmp_path / "gpt.pt")
    source = adapter(tmp_path / "t", peft("h", DOWN, UP), {"lora_alpha": 1, "fan_in_fan_out": True})
    assert torch.equal(merged(source, str(tmp_path / "gpt.pt"), tmp_path)["h.weight"], (UP @ DOWN).T)


def test_kohya_names(tmp_path: Path) -> None:
    torch.save({"down.0.to_q.weight": torch.zeros(2, 3)}, tmp_path / "base.pt")
    head = "lora_unet_down_0_to_q."
    tensors = {f"{head}lora_down.weight": DOWN, f"{head}lora_up.weight": UP, f"{head}alpha": torch.tensor(0.5)}
    save_file(tensors, tmp_path / "a.safetensors")
    found = merged(str(tmp_path / "a.safetensors"), str(tmp_path / "base.pt"), tmp_path)
    assert torch.equal(found["down.0.to_q.weight"], (UP @ DOWN) * 0.5)


@pytest.mark.parametrize("name", ["fc", "net.fc", "model.net.fc", "deep.model.net.fc"])
def test_other_leading_segments(name: str, base: str, tmp_path: Path) -> None:
    lora = find_lora(open_checkpoint(adapter(tmp_path / "a", peft(name, DOWN, UP), {"lora_alpha": 1})))
    assert lora is not None
    assert fit_to_base(lora, {key: tuple(value.shape) for key, value in BASE.items()}).weights == {
        name: "net.fc.weight"
    }


@pytest.mark.parametrize(
    ("tensors", "config", "says"),
    [
        (peft("net.fc", DOWN, UP), None, "the scale of .* is not known"),
        (peft("net.fc", torch.ones(1, 5), UP), {"lora_alpha": 1}, "is not the base of"),
        ({**peft("net.fc", DOWN, UP), **peft("net.gone", DOWN, UP)}, {"lora_alpha": 1}, "1 of its 2 layers"),
        (peft("net.fc", DOWN, torch.ones(2, 3)), {"lora_alpha": 1}, "incomplete: net.fc has one matrix"),
        ({**peft("net.fc", DOWN, UP, ".one"), **peft("net.fc", DOWN, UP, ".two")}, {"lora_alpha": 1}, "several"),
        (peft("net.fc", DOWN, UP), {"peft_type": "LOHA"}, "an adapter of the kind LOHA"),
        ({"w": torch.ones(1)}, None, "is no LoRA adapter"),
        ({**peft("net.fc", DOWN, UP), "net.fc.dora_scale": torch.ones(2)}, {"lora_alpha": 1}, "more than a LoRA"),
        (
            {**peft("net.fc", DOWN, UP), "e.token_adapter.trainable_tokens_delta": UP},
            {"lora_alpha": 1},
            "trainable_tok",
        ),
        (peft("net.fc", DOWN, UP), {"lora_alpha": 1, "init_lora_weights": "pissa_niter_4"}, "changes the base"),
        (peft("net.fc", DOWN, UP), {"lora_alpha": 1, "init_lora_weights": "olora"}, "changes the base"),
        (peft("net.fc", DOWN, UP), {"lora_alpha": 1, "init_lora_weights": "loftq"}, "changes the base"),
        (peft("net.fc", DOWN, UP), {"lora_alpha": 1, "use_dora": True}, "has no magnitudes"),
    ],
)
def test_refusals(tensors: State, config: dict[str, Any] | None, says: str, base: str, tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", tensors, config)
    with pytest.raises(BadInput, match=says):
        convert_weights(source, tmp_path / "out.pt", base=base)
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_nothing_is_added_to_a_quantized_base(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 3).to(dtype)}, tmp_path / "base.pt")
    source = adapter(tmp_path / "a", peft("fc", DOWN, UP), {"lora_alpha": 1})
    with pytest.raises(BadInput, match="nothing can be added to it"):
        convert_weights(source, tmp_path / "out.pt", base=str(tmp_path / "base.pt"))


def test_a_scale_that_is_no_number(base: str, tmp_path: Path) -> None:
    source = adapter(tmp_path / "a", peft("net.fc", DOWN, UP), None)
    (tmp_path / "a" / "adapter_config.json").write_text('{"peft_type": "LORA", "lora_alpha": 1e400}')
    with pytest.raises(BadInput, match=r"the scale of .* is inf"):
        convert_weights(source, tmp_path / "out.pt", base=base)


def test_names_without_dots_that_are_two_layers(tmp_path: Path) -> None:
    base = {"a.b_c.weight": torch.zeros(2, 3), "a_b.c.weight": torch.zeros(2, 3), "x_y.weight": torch.zeros(5, 5)}
    torch.save(base, tmp_path / "base.pt")
    head = "lora_unet_a_b_c."
    tensors = {f"{head}lora_down.weight": DOWN, f"{head}lora_up.weight": UP, f"{head}alpha": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="may be two layers"):
        convert_weights(str(tmp_path / "a.safetensors"), tmp_path / "out.pt", base=str(tmp_path / "base.pt"))
    base["a_b.c.weight"] = torch.zeros(4, 4)  # of another shape: no question
    torch.save(base, tmp_path / "base.pt")
    found = merged(str(tmp_path / "a.safetensors"), str(tmp_path / "base.pt"), tmp_path)
    assert torch.equal(found["a.b_c.weight"], UP @ DOWN)


def test_fan_in_fan_out_of_linear_layers(tmp_path: Path) -> None:
    """PEFT does not go by it where the layer is an `nn.Linear`: the shape tells, for square ones that of the others."""
    torch.save({"h.weight": torch.zeros(2, 3), "square.weight": torch.zeros(2, 2)}, tmp_path / "base.pt")
    down, up = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [5.0]])
    config = {"lora_alpha": 1, "fan_in_fan_out": True}
    source = adapter(tmp_path / "a", {**peft("h", DOWN, UP), **peft("square", down, up)}, config)
    found = merged(source, str(tmp_path / "base.pt"), tmp_path)
    assert torch.equal(found["h.weight"], UP @ DOWN)
    assert torch.equal(found["square.weight"], up @ down)


@pytest.mark.zoo
def test_summary_and_keys(cli: CommandLine, base: str, tmp_path: Path) -> None:
    config = {"lora_alpha": 2, "base_model_name_or_path": "some/base"}
    source = adapter(tmp_path / "a", peft("net.fc", DOWN, UP), config)
    found = summarize_weights(open_checkpoint(tmp_path / "a"))
    assert (found.adapter, found.adapter_base) == ("rank 1, alpha 2, 1 layer", "some/base")
    answer = cli("keys", source, "--arch", base)
    assert answer.code == 1
    assert "rank 1, alpha 2, 1 layer; it fits" in " ".join(answer.out.split())
    command = shlex.split(answer.err.split("hint: `")[1].partition("`")[0])[1:]
    command[-1] = str(tmp_path / command[-1])
    assert cli(*command).code == 0
    torch.save({"x": torch.ones(2)}, tmp_path / "other.pt")
    assert "have no weight of their shape" in " ".join(
        cli("keys", source, "--arch", str(tmp_path / "other.pt")).out.split()
    )


def test_diff_tells_what_it_changes(cli: CommandLine, base: str, tmp_path: Path) -> None:
    trained = adapter(tmp_path / "trained", peft("net.fc", DOWN, UP), {"lora_alpha": 2})
    fresh = adapter(tmp_path / "fresh", peft("net.fc", DOWN, UP * 0), {"lora_alpha": 2})
    double = adapter(tmp_path / "double", peft("net.fc", DOWN, UP), {"lora_alpha": 4})
    result = diff_weights(base, trained)
    assert {t.name: t.status for t in result.tensors if t.status != "identical"} == {"net.fc.weight": "different"}
    changed = next(t for t in result.tensors if t.name == "net.fc.weight")
    assert changed.values is not None
    assert changed.values.max_abs == 120  # 2 x 20 x 3
    assert not diff_weights(base, fresh).differ
    assert "changes nothing of its base" in cli("diff", base, fresh).out
    assert diff_weights(trained, double).differ  # the same matrices, another scale
    assert not diff_weights(trained, trained).differ


def test_a_network_with_lora_layers_of_its_own(tmp_path: Path) -> None:
    """The base beside its adapters, as a training run saves both: nothing is merged, all of it is told."""
    tensors = {**peft("net.fc", DOWN, UP, ".default"), "base_model.model.net.fc.base_layer.weight": torch.ones(2, 3)}
    torch.save(tensors, tmp_path / "run.pt")
    lora = find_lora(open_checkpoint(tmp_path / "run.pt"))
    assert lora is not None
    assert list(lora.replaced) == ["net.fc.weight"]
    assert describe(lora) == "rank 1, alpha unknown without adapter_config.json, 1 layer"


@pytest.mark.parametrize(
    "options",
    [{}, {"use_rslora": True}, {"use_dora": True}, {"bias": "all"}, {"lora_bias": True}, {"modules_to_save": ["1"]}],
)
def test_as_peft_merges(options: dict[str, Any], tmp_path: Path) -> None:
    peft_library = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3))
    torch.save(model.state_dict(), tmp_path / "base.pt")
    wrapped = peft_library.get_peft_model(
        model, peft_library.LoraConfig(r=2, lora_alpha=6, target_modules=["0"], **options)
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(tmp_path / "a")
    wanted = wrapped.merge_and_unload().state_dict()
    found = merged(str(tmp_path / "a"), str(tmp_path / "base.pt"), tmp_path)
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"r": 8, "lora_alpha": 2}, "net.fc has rank 1, and adapter_config.json says 8"),
        ({"r": 1, "rank_pattern": {"fc": 4}, "lora_alpha": 2}, "net.fc has rank 1, and adapter_config.json says 4"),
        ({"r": 8, "rank_pattern": {"fc": 1}, "lora_alpha": 2}, ""),
    ],
)
def test_a_rank_that_the_configuration_contradicts(
    config: dict[str, Any], said: str, base: str, tmp_path: Path
) -> None:
    source = adapter(tmp_path / "a", peft("net.fc", DOWN, UP), config)
    assert said in summarize_weights(open_checkpoint(source)).adapter
    if said:
        with pytest.raises(BadInput, match=said):
            merged(source, base, tmp_path)
    else:
        assert merged(source, base, tmp_path)["net.fc.weight"][0, 0] == 21
