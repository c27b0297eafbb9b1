"""The names of both zoos, read from their sources, are those that the libraries themselves list."""

import subprocess
import sys

import pytest

from modelprobe.model.zoo import names as zoo

UNIMPORTED = """
import sys
from modelprobe.model.zoo import names as zoo
zoo.zoo_names(), zoo.find("vit*"), zoo.nearest("resent50")
print([name for name in ("torch", "torchvision", "timm") if name in sys.modules])
"""


def test_the_names_of_torchvision_are_its_own():
    from torchvision import models

    assert list(zoo.zoo_names().torchvision) == models.list_models()


def test_the_names_of_timm_are_its_own():
    import timm
    from timm.models._registry import get_deprecated_models

    assert list(zoo.zoo_names().timm) == timm.list_models()
    assert dict(zoo.zoo_names().renamed) == get_deprecated_models()


def test_nothing_is_imported():
    done = subprocess.run([sys.executable, "-c", UNIMPORTED], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_find_by_wildcard_by_part_and_by_origin():
    assert [entry.name for entry in zoo.find("vit_?_16")] == ["vit_b_16", "vit_l_16"]
    both = {entry.name: entry.origins for entry in zoo.find("efficientnet_b0")}
    assert both["efficientnet_b0"] == ("torchvision", "timm")
    assert both["tf_efficientnet_b0"] == ("timm",)
    assert all("torchvision" in entry.origins for entry in zoo.find("res", "torchvision"))
    assert zoo.find("no such thing") == ()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("resnet-50", "resnet50"),
        ("ResNet50", "resnet50"),
        ("resent50", "resnet50"),
        ("vit-b-16", "vit_b_16"),
        ("efficientnet b0", "efficientnet_b0"),
        ("convnext_tinny", "convnext_tiny"),
        ("mobilenetv2", "mobilenet_v2"),
    ],
)
def test_the_nearest_name_is_the_one_meant(typed, meant):
    assert zoo.nearest(typed)[0] == meant


def test_nothing_is_near_to_nonsense():
    assert zoo.nearest("qqqqzzzz") == ()
    assert zoo.nearest("") == ()


def test_a_library_that_is_missing_contributes_nothing(monkeypatch):
    monkeypatch.setattr(zoo, "_package_directory", lambda library: None)
    zoo.zoo_names.cache_clear()
    try:
        assert zoo.zoo_names().timm == ()
        assert not zoo.installed("timm")
    finally:
        monkeypatch.undo()
        zoo.zoo_names.cache_clear()


def test_registrations_of_every_form():
    text = (
        '@register_model()\n@handle(weights=(\n    "pretrained", W.V1))\ndef one(*, x):\n    pass\n\n'
        '@register_model(name="quantized_two")\n@handle()\ndef two():\n    pass\n\n'
        "@register_model\ndef three(a):\n    pass\n\ndef four():\n    pass\n"
    )
    assert list(zoo._registered(text)) == ["one", "quantized_two", "three"]
