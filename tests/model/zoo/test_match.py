"""Which network a set of names and shapes is of: itself, with other heads and inputs, under other namings, or none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from modelprobe.model.zoo.fingerprint import KnownProfiles, TensorShape, profile_of
from modelprobe.model.zoo.index import Catalogue, read_catalogue
from modelprobe.model.zoo.match import match_network

SOME = (
    "torchvision:alexnet",
    "torchvision:densenet121",
    "torchvision:swin_t",
    "timm:vit_tiny_patch16_224",
    "timm:convnext_atto",
)


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return read_catalogue()


def names_of(catalogue: Catalogue, target: str) -> dict[str, TensorShape]:
    model = catalogue.get(target)
    assert model is not None
    return catalogue.names(model)


@pytest.mark.parametrize("target", SOME)
def test_a_network_is_itself(catalogue: Catalogue, target: str) -> None:
    found = match_network(names_of(catalogue, target), catalogue)
    assert found.candidates[0].score == 1
    assert target in (found.candidates[0].target, *found.candidates[0].same_as)


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.module."])
def test_wrappers(catalogue: Catalogue, wrapper: str) -> None:
    names = {f"{wrapper}{name}": shape for name, shape in names_of(catalogue, "timm:convnext_atto").items()}
    found = match_network(names, catalogue)
    assert (found.verdict, found.candidates[0].target) == ("certain", "timm:convnext_atto")
    assert found.variant.how


def test_another_head_and_other_channels(catalogue: Catalogue) -> None:
    names = names_of(catalogue, "torchvision:swin_t")
    names["head.weight"], names["head.bias"] = (10, 768), (10,)
    stem = names["features.0.0.weight"]
    names["features.0.0.weight"] = (stem[0], 1, *stem[2:])
    found = match_network(names, catalogue)
    first = found.candidates[0]
    assert (found.verdict, first.target, dict(first.settings)) == (
        "certain", "torchvision:swin_t", {"num_classes": 10, "in_chans": 1},
    )  # fmt: skip
    assert first.differences == ("head of 10 classes instead of 1,000", "1 input channel instead of 3")


def test_no_head(catalogue: Catalogue) -> None:
    names = {n: s for n, s in names_of(catalogue, "torchvision:densenet121").items() if not n.startswith("classifier")}
    found = match_network(names, catalogue)
    assert found.candidates[0].target == "torchvision:densenet121"
    assert found.candidates[0].differences == ("no head (2 tensors)",)


def test_names_of_transformers(catalogue: Catalogue) -> None:
    """Query, key and value apart, under `vit.encoder.layer`."""
    names: dict[str, TensorShape] = {}
    renames = {
        "cls_token": "vit.embeddings.cls_token", "pos_embed": "vit.embeddings.position_embeddings",
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm", "head": "classifier",
        "norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense",
    }  # fmt: skip
    for name, shape in names_of(catalogue, "timm:vit_tiny_patch16_224").items():
        if name in renames:
            names[renames[name]] = shape
            continue
        module, _, leaf = name.rpartition(".")
        if not module.startswith("blocks."):
            names[f"{renames[module]}.{leaf}"] = shape
            continue
        _, number, inner = module.split(".", 2)
        parts = ("query", "key", "value") if inner == "attn.qkv" else ()
        for part in parts:
            place = f"vit.encoder.layer.{number}.attention.attention.{part}.{leaf}"
            names[place] = (shape[0] // 3, *shape[1:])
        if not parts:
            names[f"vit.encoder.layer.{number}.{renames[inner]}.{leaf}"] = shape
    found = match_network(names, catalogue)
    assert found.candidates[0].score == 1
    assert "timm:vit_tiny_patch16_224" in (found.candidates[0].target, *found.candidates[0].same_as)
    assert found.variant.scheme == "ViT and DeiT of transformers"


def test_other_names_with_the_same_shapes_are_never_certain(catalogue: Catalogue) -> None:
    names = {f"part{i}.kernel": shape for i, shape in enumerate(names_of(catalogue, "torchvision:alexnet").values())}
    found = match_network(names, catalogue)
    assert (found.verdict, found.by_shapes, found.candidates[0].target) == ("likely", True, "torchvision:alexnet")


@pytest.mark.zoo
def test_what_is_none_of_them_is_unknown(catalogue: Catalogue) -> None:
    names: dict[str, TensorShape] = {f"encoder.layer.{i}.dense.weight": (48, 48) for i in range(40)}
    assert match_network(names, catalogue).verdict == "unknown"
    assert match_network({"weight": (3, 3)}, catalogue).verdict == "unknown"


def test_a_name_tells_apart_what_names_and_shapes_do_not(catalogue: Catalogue) -> None:
    names = names_of(catalogue, "torchvision:resnet50")
    found = match_network(names, catalogue)
    assert (found.verdict, found.ambiguous) == ("likely", True)  # resnetaa50 has the same, and costs more
    assert "timm:resnetaa50" in found.candidates[0].same_as
    named = match_network(names, catalogue, ("resnet50",))
    assert (named.verdict, named.by_name, named.candidates[0].target) == ("certain", True, "torchvision:resnet50")


@pytest.mark.parametrize(
    ("target", "extra"),
    [
        ("timm:vit_tiny_patch16_224", "reg_token"),
        ("timm:vit_tiny_patch16_224", "prompt_embeddings"),
        ("timm:vit_tiny_patch16_224", "blocks.3.attn.gate"),
        ("timm:convnext_atto", "stages.1.blocks.0.mlp.gate"),
    ],
)
def test_what_is_added_to_the_body_speaks_against_it(catalogue: Catalogue, target: str, extra: str) -> None:
    names = names_of(catalogue, target)
    found = match_network({**names, extra: (1, 4, 7)}, catalogue)
    assert (found.verdict, found.candidates[0].target) == ("likely", target)
    assert match_network({**names, "mask_token": (1, 1, 7)}, catalogue).verdict == "certain"


def test_parameters_alone_are_of_either_norm(catalogue: Catalogue) -> None:
    """Without running statistics a ResNet-50 with batch norms has the names and shapes of the one with group norms."""
    names = {n: s for n, s in names_of(catalogue, "torchvision:resnet50").items() if "running" not in n}
    found = match_network(names, catalogue)
    assert found.verdict == "likely"
    assert [candidate.target for candidate in found.candidates[:2]] == ["timm:resnet50_gn", "torchvision:resnet50"]
    assert found.candidates[1].differences == ("no running statistics (106 tensors)",)
    assert match_network(names, catalogue, ["resnet50_gn"]).verdict == "certain"


def test_the_first_question_finds_what_later_ones_find() -> None:
    """It goes through all profiles; the later ones use a table of kinds."""
    catalogue = read_catalogue()
    for name in ("resnet18", "vit_tiny_patch16_224", "convnext_tiny"):
        model = catalogue.get(f"timm:{name}")
        assert model is not None
        kinds = profile_of(catalogue.names(model))
        table = KnownProfiles(list(catalogue.profiles()))
        first, second = ([one.target for one in table.nearest(kinds, 24)] for _ in range(2))
        assert first == second
        assert f"timm:{name}" in first[:4]


def test_a_question_about_models_loads_no_torch_workers_or_openssl() -> None:
    code = (
        "import sys; from modelprobe.cli.app import main; main(['models', 'resnet18']); "
        "print(*{'torch', '_hashlib', 'modelprobe.zoo.workers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
