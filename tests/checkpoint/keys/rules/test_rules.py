"""Every rule as a pair of before and after, and what it leaves alone."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from modelprobe.checkpoint.keys.apply import value_of
from modelprobe.checkpoint.keys.draft import PlanOptions
from modelprobe.checkpoint.keys.plan import KeyPlan, plan_keys
from modelprobe.checkpoint.keys.reference import Expectation, ExpectedTensor, reference_of_model
from modelprobe.checkpoint.records import Branch, Checkpoint, Item, TensorEntry

BRANCH = Branch((), "dict", "", 0, 0, 0)
Shapes = dict[str, tuple[int, ...]]


def plan(names, reference=None, top=(), **options) -> KeyPlan:
    """A plan for tensors of these shapes (2 elements where only names are given), as if they stood in a file."""
    shapes: Shapes = names if isinstance(names, dict) else dict.fromkeys(names.split(), (2,))
    entries = tuple(TensorEntry((name,), shape, "float32", numel=1) for name, shape in shapes.items())
    tree = Item("", "dict", children=tuple(Item(key, "str") for key in top))
    found = Checkpoint("x.pt", "torch zip", tensors=entries, tree=tree, branches=(BRANCH,))
    return plan_keys(found, BRANCH, wanted(reference) if reference is not None else None, PlanOptions(**options))


def wanted(names) -> Expectation:
    if isinstance(names, Expectation):
        return names
    shapes: Shapes = names if isinstance(names, dict) else dict.fromkeys(names.split(), (2,))
    return Expectation(
        "model", tuple(ExpectedTensor(name, shape, "float32", "parameter") for name, shape in shapes.items())
    )


def names(found: KeyPlan) -> str:
    return " ".join(part.name for part in found.parts)


def rules(found: KeyPlan) -> list[str]:
    return [applied.rule for applied in found.applied]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("module.a.w module.b", "a.w b"),
        ("module.module.a module.module.b", "a b"),
        ("_orig_mod.a.w layers.0._orig_mod.x", "a.w layers.0.x"),
        ("module._orig_mod.a", "a"),
        ("_orig_mod.module.a", "a"),
        ("_fsdp_wrapped_module.a._fsdp_wrapped_module.w", "a.w"),
        ("a._checkpoint_wrapped_module.w b", "a.w b"),
        ("_forward_module.module.a", "a"),
        ("submodule.x.w original_module.w", "submodule.x.w original_module.w"),  # parts of words are left alone
        ("model.a model.b", "model.a model.b"),  # nothing says that this is Lightning's
        ("features.module.0.w features.module.1.w", "features.module.0.w features.module.1.w"),  # no reference
        ("x.LayerNorm.gamma x.LayerNorm.beta x.gamma", "x.LayerNorm.weight x.LayerNorm.bias x.gamma"),
        ("module.a n_averaged", "module.a"),
    ],
)
def test_without_a_reference(before, after):
    shapes = {name: () if name == "n_averaged" else (2,) for name in before.split()}
    found = plan(shapes)
    if "n_averaged" in before:
        after = "a"
    assert names(found) == after
    assert found.good


def test_lightning_says_that_model_is_a_wrapper():
    assert names(plan("model.a.w model.b", top=("pytorch-lightning_version",))) == "a.w b"


def test_extras_beside_the_network_are_not_dropped_unasked():
    found = plan("model.a.w model.b loss.w", top=("pytorch-lightning_version",))
    assert not found.good
    assert "2 names begin with model. and 1 do not" in found.problems[0].text
    assert names(plan("model.a.w model.b loss.w", prefix="model")) == "a.w b"


def test_a_wrapper_that_only_a_part_carries_is_refused():
    found = plan("module.a module.b module.c d")
    assert not found.good
    assert "3 names begin with module. and 1 do not" in found.problems[0].text


@pytest.mark.parametrize(
    ("before", "reference"),
    [
        ("features.module.0.w features.module.1.w head.w", "features.0.w features.1.w head.w"),
        ("module.module.0.w module.module.1.w", "module.0.w module.1.w"),  # one is the network's own
        ("module.a.w module.module.a.w", "a.w module.a.w"),  # naive: a collision
        ("model.a.w model.b", "a.w b"),
        ("net.backbone.a.w net.backbone.b net.head.w", "a.w b"),
        ("a.w b", "bert.a.w bert.b"),
        ("model.a.w model.b", "bert.a.w bert.b"),
        ("module.encoder_q.a module.encoder_q.b module.encoder_k.a module.encoder_k.b module.queue", "a b"),
        ("teacher.backbone.a teacher.backbone.b student.backbone.a student.backbone.b", "a b"),
        ("model.model.0.w model.model.1.w", "model.0.w model.1.w"),
        ("modelblocks0weight modelblocks1weight", "model.blocks.0.weight model.blocks.1.weight"),
        ("denselayer1.norm.1.w denselayer1.conv.1.w", "denselayer1.norm1.w denselayer1.conv1.w"),
    ],
)
def test_with_a_reference(before, reference):
    found = plan(before, reference)
    assert sorted(names(found).split()) == sorted(reference.split())
    assert found.good


def test_what_was_left_is_listed():
    found = plan("module.encoder_q.a module.encoder_k.a module.queue", "a")
    assert [dropped.name for dropped in found.dropped] == ["module.encoder_k.a", "module.queue"]
    assert "MoCo" in found.applied[0].reason or "MoCo" in found.applied[1].reason


def test_unknown_rivals_are_refused():
    found = plan("left.a left.b right.a right.b", "a b")
    assert not found.good
    assert "2 networks in the file fit alike: left, right" in found.problems[0].text


def test_collisions_are_refused():
    found = plan("a._orig_mod.w a.w")
    assert names(found) == "a._orig_mod.w a.w"
    assert not found.good


def test_gamma_is_left_alone_where_the_reference_has_it():
    assert names(plan("LayerNorm.gamma x", "LayerNorm.gamma x")) == "LayerNorm.gamma x"


@pytest.mark.parametrize("forward", [True, False])
def test_weight_norm_either_way(forward):
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(3, 2))
    new = parametrizations.weight_norm(nn.Linear(3, 2))
    source, target = (old, new) if forward else (new, old)
    source.weight_g = source.weight_g if forward else None
    shapes = {name: tuple(value.shape) for name, value in source.state_dict().items()}
    found = plan(shapes, reference_of_model(target, "t"))
    assert found.good
    assert set(names(found).split()) == set(target.state_dict())


def test_spectral_norm_is_not_weight_norm():
    found = plan({"weight_v": (3,), "weight_u": (2,), "weight_orig": (2, 3)}, {
        "parametrizations.weight.original": (2, 3), "parametrizations.weight.0._u": (2,),
        "parametrizations.weight.0._v": (3,)})  # fmt: skip
    assert found.good


def test_pruning_multiplies():
    found = plan({"a.weight_orig": (2,), "a.weight_mask": (2,)}, {"a.weight": (2,)})
    assert found.good
    values = {"a.weight_orig": torch.tensor([3.0, 5.0]), "a.weight_mask": torch.tensor([1.0, 0.0])}
    assert value_of(found.parts[0], values.__getitem__).tolist() == [3.0, 0.0]


def test_query_key_and_value():
    apart = {f"a.{name}_proj.{leaf}": (4, 4) if leaf == "weight" else (4,)
             for name in "qkv" for leaf in ("weight", "bias")}  # fmt: skip
    joined = {"a.qkv.weight": (12, 4), "a.qkv.bias": (12,)}
    fused = plan(apart, joined)
    assert fused.good
    values = {name: torch.full(shape, float("qkv".index(name[2]))) for name, shape in apart.items()}
    whole = {part.name: value_of(part, values.__getitem__) for part in fused.parts}
    assert whole["a.qkv.bias"].tolist() == [0] * 4 + [1] * 4 + [2] * 4  # query, key, value
    split = plan(joined, apart)
    assert split.good
    again = {part.name: value_of(part, whole.__getitem__) for part in split.parts}
    assert all(torch.equal(again[name], values[name]) for name in apart)


def test_fused_to_multihead_attention():
    own = nn.MultiheadAttention(4, 2)
    shapes = {name: tuple(value.shape) for name, value in own.state_dict().items()}
    before = {f"x.{n}".replace("in_proj_", "qkv."): s for n, s in shapes.items()}
    assert plan(before, {f"x.{n}": s for n, s in shapes.items()}).good


def test_batch_counters_are_added_at_zero():
    norm = nn.BatchNorm1d(3)
    before = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (3,))
    found = plan(before, reference_of_model(norm, "t"))
    assert found.good
    assert rules(found) == ["batch counters added"]
    added = value_of(found.parts[-1], {}.__getitem__)
    assert (added.dtype, added.item()) == (torch.int64, 0)


class Buffers(nn.Module):
    def __init__(self, persistent: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("relative_position_index", torch.arange(4), persistent=persistent)


def test_recomputed_buffers():
    found = plan({"weight": (2,), "relative_position_index": (4,)}, reference_of_model(Buffers(False), "t"))
    assert found.good
    assert "not persistent" in found.dropped[0].reason
    model = Buffers(True)
    found = plan({"weight": (2,)}, reference_of_model(model, "t"))
    assert found.good
    assert value_of(found.parts[1], {}.__getitem__, model.state_dict().__getitem__).tolist() == [0, 1, 2, 3]


def test_a_head_of_other_classes_is_kept_out_only_on_request():
    before, after = (
        {"a.w": (2,), "fc.weight": (10, 2), "fc.bias": (10,)},
        {"a.w": (2,), "fc.weight": (5, 2), "fc.bias": (5,)},
    )
    found = plan(before, after)
    assert not found.good
    assert found.problems[0].text == "the head fc has 10 classes, 5 are expected"
    found = plan(
        {**before, **{f"b{i}": (2,) for i in range(3)}}, {**after, **{f"b{i}": (2,) for i in range(3)}}, drop_head=True
    )
    assert found.good
    assert found.allowed_missing == ("fc.bias", "fc.weight")


def grids(shape, grid, **more) -> Expectation:
    rest = {f"w{i}": (2,) for i in range(3)}
    reference = wanted({"pos_embed": shape, **rest})
    return Expectation("vit", reference.expected, grids={"pos_embed": grid} if grid else {}, **more)


def positions(tokens: int, reference: Expectation, **options) -> KeyPlan:
    return plan({"pos_embed": (1, tokens, 8), **{f"w{i}": (2,) for i in range(3)}}, reference, **options)


def test_positions_are_resized_as_timm_does():
    from timm.layers import resample_abs_pos_embed

    found = positions(1 + 49, grids((1, 1 + 196, 8), (14, 14)))
    assert found.good
    value = torch.rand(1, 50, 8)
    made = value_of(found.parts[0], {"pos_embed": value}.__getitem__)
    assert torch.equal(made, resample_abs_pos_embed(value, [14, 14], num_prefix_tokens=1))
    assert torch.equal(made[:, :1], value[:, :1])


def test_a_grid_that_is_not_square_must_be_told():
    reference = grids((1, 1 + 12, 8), (3, 4))
    found = positions(1 + 16, reference)  # 4x4, 2x8?
    assert not found.good
    assert found.problems[0].hint.startswith("--grid")
    assert not positions(1 + 16, reference, grid=(3, 5)).good  # 15 are not 16
    assert positions(1 + 16, reference, grid=(2, 8)).good


def test_without_a_grid_positions_are_refused():
    assert not positions(50, grids((1, 197, 8), None)).good


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_the_first_convolution_is_adapted_as_timm_does(channels):
    from timm.models._manipulate import adapt_input_conv

    rest = {f"w{i}": (2,) for i in range(3)}
    found = plan({"stem.weight": (4, 3, 3, 3), **rest}, {"stem.weight": (4, channels, 3, 3), **rest})
    assert found.good
    value = torch.rand(4, 3, 3, 3)
    made = value_of(found.parts[0], {"stem.weight": value}.__getitem__)
    assert torch.equal(made, adapt_input_conv(channels, value))


def test_folded_batch_norms_are_explained():
    before = {"conv.weight": (2, 3), "conv.bias": (2,), "fc.weight": (2, 2)}
    after = {"conv.weight": (2, 3), "fc.weight": (2, 2), "bn.weight": (2,), "bn.bias": (2,), "bn.running_mean": (2,),
             "bn.running_var": (2,)}  # fmt: skip
    found = plan(before, after)
    assert not found.good
    assert "folded in" in found.problems[-1].text


def test_stripped_letters_are_explained():
    found = plan("ncoder.w ncoder.b ayer.w", "encoder.w encoder.b layer.w x y z")
    assert not found.good


def test_adapters_are_refused():
    found = plan("base_model.model.q.lora_A.default.weight base_model.model.q.base_layer.weight", "q.weight")
    assert not found.good
    assert any("adapters of PEFT" in problem.text for problem in found.problems)


def test_dropping_a_pattern_that_matches_nothing():
    assert not plan("a b", "a b", drop=("fc.*",)).good
    assert names(plan("a b c", "a b", drop=("c",))) == "a b"


def test_tied_tensors_that_the_file_keeps_once():
    reference = Expectation(
        "m", (ExpectedTensor("a.w", (2,), "float32"), ExpectedTensor("b.w", (2,), "float32", None, "a.w"))
    )
    found = plan("a.w", reference)
    assert found.good
    assert found.parts[1].sources == ("a.w",)


def test_another_librarys_names_need_a_proof():
    before = OrderedDict([("f.0.weight", (3, 3)), ("f.1.weight", (3, 3)), ("f.2.weight", (2, 3))])
    after = OrderedDict([("x.a.weight", (3, 3)), ("y.b.weight", (3, 3)), ("z.weight", (2, 3))])
    found = plan(before, after)
    assert found.complete
    assert not found.certain
    assert plan(before, after, unproven=True).good


def test_renamed_block_among_others_of_its_shape():
    before = "a.0.w a.1.w a.blk.w a.3.w head.w"
    assert plan(before, "a.0.w a.1.w a.2.w a.3.w head.w").good
    moved = "a.0.w a.1.w a.3.w a.blk.w head.w"  # it stands elsewhere: not certain
    assert not plan(moved, "a.0.w a.1.w a.2.w a.3.w head.w").certain


def test_networks_that_fit_nearly_alike_are_refused():
    """The averaged weights fit wholly, the raw ones but for one tensor: that is no reason to take the averaged ones."""
    inside = " ".join(f"w{i}" for i in range(8))
    raw = " ".join(f"w{i}" for i in range(7))
    averaged = " ".join(f"ema.w{i}" for i in range(8))
    found = plan(f"{raw} {averaged}", inside)
    assert not found.good
    assert "7 tensors beside ema have the names that are expected too" in found.problems[0].text
    found = plan(" ".join(f"left.{n}" for n in raw.split()) + " " + averaged, inside)
    assert not found.good


def test_dots_that_could_stand_elsewhere_are_left():
    """`a.1.1` is not `a.11`."""
    assert not plan("a.1.1.w x y", "a.11.w x y").good or plan("a.1.1.w x y", "a.11.w x y").by_order
