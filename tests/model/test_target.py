"""A string names a model of a zoo, and it is built without weights being downloaded or allocated."""

import random
import subprocess
import sys

import pytest
import torch
from torch import nn

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.model.construct import construct, parameters_on_meta, seeded
from modelprobe.model.skip_init import building_on_meta
from modelprobe.model.target import resolve
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo import names as zoo


def message(spec, *settings, error=BadInput):
    """What resolving, or else building, `spec` is refused with: message and hint in one text."""
    with pytest.raises(error) as caught:
        resolve(spec, settings).build()
    assert "\n" not in caught.value.message + caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}"


def test_torchvision_first():
    target = resolve("resnet50")
    assert (target.spec, target.name, target.origin) == ("resnet50", "resnet50", "torchvision")
    assert target.notes == ()


@pytest.mark.parametrize(
    ("spec", "name", "origin"),
    [
        ("torchvision:resnet18", "resnet18", "torchvision"),
        ("timm:resnet18", "resnet18", "timm"),
        ("alexnet", "alexnet", "torchvision"),
        ("quantized_resnet18", "quantized_resnet18", "torchvision"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224", "timm"),
    ],
)
def test_where_a_name_is_found(spec, name, origin):
    target = resolve(spec)
    assert (target.name, target.origin, target.notes) == (name, origin, ())


def test_resolving_a_name_imports_nothing_dear():
    code = (
        "import sys; from modelprobe.model.target import resolve; resolve('resnet50')\n"
        "print([name for name in ('torch', 'torchvision', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_on_meta_nothing_is_allocated_and_names_and_shapes_are_the_real_ones():
    target = resolve("torchvision:resnet18")
    built = target.build("meta")
    real = target.build("cpu").module
    assert built.notes == ()
    assert all(tensor.is_meta for tensor in built.module.state_dict().values())
    assert [(key, value.shape, value.dtype) for key, value in built.module.state_dict().items()] == [
        (key, value.shape, value.dtype) for key, value in real.state_dict().items()
    ]
    assert built.module.training


@pytest.mark.zoo
@pytest.mark.parametrize("spec", ["vit_b_32", "timm:vit_tiny_patch16_224", "timm:convnext_atto", "shufflenet_v2_x0_5"])
def test_skipping_initializers_changes_no_parameter(spec):
    target = resolve(spec)
    skipped = target.build("meta").module
    plain = target.source.make({})
    assert [(key, value.shape) for key, value in skipped.state_dict().items()] == [
        (key, value.shape) for key, value in plain.state_dict().items()
    ]


def test_a_constructor_that_does_arithmetic_keeps_its_parameters_on_meta():
    built = resolve("regnet_y_400mf").build("meta")
    assert built.notes == ()
    assert all(tensor.is_meta for tensor in built.module.state_dict().values())
    assert sum(parameter.numel() for parameter in built.module.parameters()) == 4_344_144  # as torchvision publishes


@pytest.mark.zoo
def test_a_detector_downloads_no_backbone(monkeypatch):
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download"))
    assert resolve("lraspp_mobilenet_v3_large").build("meta").module is not None
    assert resolve("ssdlite320_mobilenet_v3_large").build("meta").module is not None


def test_arguments_are_passed_to_the_builder():
    assert resolve("torchvision:resnet18", ["num_classes=10"]).build().module.fc.out_features == 10
    assert resolve("timm:resnet18", ["num_classes=10", "in_chans=1"]).build().module.conv1.in_channels == 1


def test_a_tag_changes_the_architecture_and_loads_nothing():
    target = resolve("vit_base_patch16_224.augreg_in21k")
    assert target.origin == "timm"
    assert target.build().module.head.out_features == 21843
    assert "augreg_in1k" in message("vit_base_patch16_224.nonsense")


def test_a_name_that_timm_has_renamed():
    target = resolve("convnext_tiny_in22k")
    assert target.name == "convnext_tiny.fb_in22k"
    assert target.notes[0].text == "timm calls convnext_tiny_in22k convnext_tiny.fb_in22k now: that was taken"


@pytest.mark.zoo
def test_a_vit_is_built_for_the_size_of_its_default_weights():
    assert resolve("vit_h_14").build().module.image_size == 518
    assert resolve("vit_h_14", ["image_size=224"]).build().module.image_size == 224
    assert resolve("vit_b_16").build().module.image_size == 224


def test_a_seed_gives_the_same_weights_and_leaves_the_generators_alone():
    import numpy

    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    expected = torch.rand(1).item(), random.random(), numpy.random.rand()
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    target = resolve("torchvision:squeezenet1_1")
    first, second, other = (target.build("cpu", seed).module.state_dict() for seed in (0, 0, 1))
    target.build("meta")
    assert (torch.rand(1).item(), random.random(), numpy.random.rand()) == expected
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_generators_are_put_back_when_something_raises():
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(ZeroDivisionError), seeded(3):
        1 / (torch.rand(3).sum().item() * random.random() * 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_skipping_is_for_meta_tensors_alone_and_ends():
    original = nn.Module.register_parameter
    with building_on_meta():
        assert torch.randn(2, 3).is_meta
        assert nn.Linear(2, 2).weight.is_meta
        real = torch.empty(1000, device="cpu").normal_()
        assert 0.5 < real.std() < 1.5
        assert torch.randn(1000, device="cpu").std() > 0.5
    assert not torch.randn(1).is_meta
    with pytest.raises(ZeroDivisionError), parameters_on_meta():
        raise ZeroDivisionError
    assert nn.Module.register_parameter is original


def test_a_shared_parameter_stays_shared_on_meta():
    def make():
        first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        second.weight = first.weight
        assert torch.ones(2).sum().item() == 2  # cannot be done on meta
        return nn.Sequential(first, second)

    module, notes = construct(make, "meta", 0, "pair")
    assert module[0].weight is module[1].weight
    assert module[0].weight.is_meta
    assert notes == ()


@pytest.mark.parametrize(
    ("spec", "settings", "expected"),
    [
        ("resnet5O", (), "no model of torchvision or timm is called 'resnet5O' | did you mean resnet50"),
        ("ResNet-18", (), "did you mean resnet18"),
        ("timm:alexnet", (), "timm has no model 'alexnet', torchvision has | torchvision:alexnet"),
        ("torchvision:vit_b_17", (), "no model of torchvision is called 'vit_b_17' | did you mean vit_b_16"),
        ("", (), "no target was given"),
        ("hf-hub:timm/resnet50.a1_in1k", (), "stands on a hub"),
        ("timm:hf-hub:timm/resnet50.a1_in1k", (), "stands on a hub"),
        ("torchvision:resnet18", ("foo=1",), "resnet18 has no argument 'foo' | it accepts: "),
        ("torchvision:resnet18", ("num_clases=1",), "it accepts: num_classes, "),
        ("torchvision:resnet18", ("block=1",), "resnet18 sets block itself"),
        ("timm:resnet18", ("in_chan=1",), "resnet18 has no argument 'in_chan' | it accepts: in_chans, "),
        ("torchvision:resnet18", ("pretrained=true",), "--set pretrained would load weights"),
        ("timm:resnet18", ("pretrained=true",), "--set pretrained would load weights"),
        ("resnet18", ("weights=DEFAULT",), "--set weights would load weights"),
        ("resnet18", ("num_classes",), "--set 'num_classes' is not key=value"),
        ("resnet18", ("=3",), "--set '=3' is not key=value"),
        ("resnet18", ("a=1", "a=2"), "--set a was given twice"),
    ],
)
def test_what_cannot_be_named(spec, settings, expected):
    assert expected in message(spec, *settings)


def test_a_value_that_the_constructor_cannot_use_is_its_own_error():
    text = message("torchvision:resnet18", "num_classes=many", error=ModelRaised)
    assert "resnet18 could not be built: resnet.py:" in text
    assert "TypeError" in text
    assert "num_classes='many'" in text


@pytest.mark.parametrize(
    "name", ["model.pth", "model.pt", "a/b.safetensors", "x.bin", "x.ckpt", "net.onnx", "m.gguf", "w.npz"]
)
def test_weight_files_are_no_networks(name):
    assert "is a weight file, not a network" in message(name)


def test_a_file_that_exists_is_no_zoo_name(tmp_path):
    (tmp_path / "weights").write_bytes(b"\x80\x02")
    assert "is a weight file" in message(str(tmp_path / "weights"))


def test_a_torchvision_that_does_not_match_is_said_in_one_line(monkeypatch):
    def broken(module):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(libraries.importlib, "import_module", broken)
    text = message("resnet50")
    assert "the installed torchvision does not match the installed torch" in text
    assert "operator torchvision::nms does not exist" in text
    assert "pip install --force-reinstall torch torchvision" in text


@pytest.mark.parametrize(("library", "spec"), [("torchvision", "torchvision:resnet50"), ("timm", "timm:resnet50")])
def test_a_library_that_is_missing_is_named(monkeypatch, library, spec):
    found = libraries.importlib.import_module

    def missing(module):
        if module.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return found(module)

    monkeypatch.setattr(libraries.importlib, "import_module", missing)
    assert f"{library} is not installed | pip install {library}" in message(spec)


def test_a_library_that_is_missing_is_named_when_its_names_are_looked_up(monkeypatch):
    monkeypatch.setattr(zoo, "installed", lambda library: library != "timm")
    assert "timm is not installed" in message("timm:no_such_model")


def test_with_given_leaves_the_original_alone():
    target = resolve("torchvision:vit_b_16", ["num_classes=10"])
    other = target.with_given({"image_size": 384})
    assert dict(target.given) == {"num_classes": 10}
    assert dict(other.given) == {"num_classes": 10, "image_size": 384}
