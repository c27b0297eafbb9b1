"""Query, key and value in one tensor: the order that names tell, and what is refused where they tell none."""

from __future__ import annotations

import pytest
import torch

from modelprobe.checkpoint.keys.apply import value_of
from modelprobe.checkpoint.keys.words import CONFLICT, UNLIKE, projection_order, words_apart
from tests.checkpoint.keys.rules.test_rules import plan

APART = {f"a.{name}.{leaf}": (2, 2) if leaf == "weight" else (2,) for name in "qkv" for leaf in ("weight", "bias")}
REST = {f"a.{name}.weight": (3, index) for index, name in enumerate(("norm", "proj", "fc1", "fc2"), 1)}


def fused(name: str) -> dict[str, tuple[int, ...]]:
    join = "_" if "in_proj" in name or name.endswith("_") else "."
    return {f"a.{name.rstrip('_')}{join}weight": (6, 2), f"a.{name.rstrip('_')}{join}bias": (6,)}


def rows(letters: str) -> torch.Tensor:
    return torch.tensor([float("qkv".index(letter)) for letter in letters for _ in range(2)])


@pytest.mark.parametrize(
    ("file", "order", "model", "wanted"),
    [
        ("kqv", "kqv", "qkv", "qkv"),
        ("qkv", "qkv", "kqv", "kqv"),
        ("to_vkq", "vkq", "to_qkv", "qkv"),
        ("kqv_", "kqv", "in_proj", "qkv"),
        ("key_query_value", "kqv", "Wqkv", "qkv"),
        ("kqv", "kqv", "vkq", "vkq"),
        ("Wqkv", "qkv", "in_proj", "qkv"),
    ],
)
def test_one_fused_tensor_to_another(file, order, model, wanted):
    found = plan({**fused(file), **REST}, {**fused(model), **REST})
    assert found.good
    held = {name: rows(order) for name in fused(file)} | {n: torch.zeros(s) for n, s in REST.items()}
    held[next(iter(fused(file)))] = rows(order)[:, None].expand(6, 2)
    made = {part.name: value_of(part, held.__getitem__) for part in found.parts}
    weight, bias = (made[name] for name in fused(model))
    assert bias.tolist() == rows(wanted).tolist()
    assert weight[:, 0].tolist() == rows(wanted).tolist()


@pytest.mark.parametrize(("name", "order"), [("kqv", "kqv"), ("vkq", "vkq"), ("qkv", "qkv")])
def test_fused_to_three_and_back(name, order):
    split = plan({**fused(name), **REST}, {**APART, **REST})
    assert split.good
    held = {f"a.{name}.bias": rows(order), f"a.{name}.weight": rows(order)[:, None].expand(6, 2)}
    apart = {p.name: value_of(p, held.__getitem__) for p in split.parts if p.name in APART}
    assert {n: t.flatten().unique().tolist() for n, t in apart.items()} == {
        n: [float("qkv".index(n[2]))] for n in APART
    }
    joined = plan({**APART, **REST}, {**fused(name), **REST}, unproven=True)
    assert joined.good
    again = {p.name: value_of(p, apart.__getitem__) for p in joined.parts if p.name in fused(name)}
    assert again[f"a.{name}.bias"].tolist() == rows(order).tolist()


@pytest.mark.parametrize("model", [fused("qkv"), APART, fused("in_proj")])
@pytest.mark.parametrize("file", ["query_key_value", "kqv_"])
def test_an_order_that_is_not_known_must_be_asked_for(file, model):
    """BLOOM and GPT-NeoX call their rows head by head as ChatGLM calls its rows one after the other."""
    if file == "kqv_":
        model = fused("proj_in")  # the file's order is known, the model's is not
    before, after = {**fused(file), **REST}, {**model, **REST}
    found = plan(before, after)
    assert found.complete
    assert not found.certain
    assert any("query, key and value" in text for text in found.doubts)
    taken = plan(before, after, unproven=True)
    assert taken.good
    assert set(found.doubts) <= set(taken.assumed)


def test_the_same_name_on_both_sides_is_no_question():
    before = {**fused("query_key_value"), **REST}
    assert plan({f"module.{name}": shape for name, shape in before.items()}, before).good


@pytest.mark.parametrize(
    ("old", "new", "apart"),
    [
        ("fc", "head", ""), ("classifier", "fc", ""), ("layers", "h", ""), ("attn", "attention", ""), ("0", "conv", ""),
        ("my_stem", "stem", ""), ("linear1", "fc1", ""), ("encoder", "enc", ""), ("last_linear", "head", ""),
        ("projector", "head", UNLIKE), ("domain_classifier", "head", UNLIKE), ("trunk", "head", UNLIKE),
        ("audio_encoder", "image_encoder", CONFLICT), ("fc1", "fc2", CONFLICT), ("netG_A", "netG_B", CONFLICT),
    ],
)  # fmt: skip
def test_words(old, new, apart):
    assert words_apart(old, new) == words_apart(new, old) == apart


def test_orders_in_names():
    assert [projection_order(n) for n in ("to_qkv", "q_k_v", "Wkqv", "value_key_query", "kv", "mask", "in_proj")] == [
        "qkv", "qkv", "kqv", "vkq", "", "", "qkv",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["projector", "domain_classifier", "aux.0"])
def test_another_head_is_not_the_missing_one(name):
    body = {f"layers.{index}.weight": (4, index) for index in range(1, 6)}
    before = {**body, f"{name}.weight": (3, 4), f"{name}.bias": (3,)}
    after = {**body, "head.weight": (3, 4), "head.bias": (3,)}
    found = plan(before, after)
    assert found.complete
    assert not found.certain
    assert f"{name} is taken for head" in found.doubts[0]
    assert plan(before, after, unproven=True).good
    assert plan({**body, "fc.weight": (3, 4), "fc.bias": (3,)}, after).good


def test_another_encoder_is_not_the_missing_one():
    """However much of it there is: two towers of one kind differ in nothing but their names."""
    inside = {f"{index}.weight": (4, index) for index in range(1, 10)}
    text = {f"text_encoder.{name}": shape for name, shape in inside.items()}
    after = {**text, **{f"image_encoder.{name}": shape for name, shape in inside.items()}}
    assert not plan({**text, **{f"audio_encoder.{n}": s for n, s in inside.items()}}, after).certain
    other = {f"x.{name}": (*shape, 2) for name, shape in inside.items()}
    big = plan(
        {**text, **{f"picture.{n}": s for n, s in other.items()}},
        {**text, **{f"trunk.{n}": s for n, s in other.items()}},
    )
    assert big.good
    assert big.assumed == ("picture is taken for trunk, which has its shapes",)
