"""What a model sees of an image: equal, to the bit, to what torchvision and timm themselves would give it."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from modelprobe.errors import BadInput
from modelprobe.model.inputs.declared import TENSOR
from modelprobe.model.target import resolve
from modelprobe.vision.images import Photo
from modelprobe.vision.preprocessing.lookup import PreprocessingOverrides, preprocessing
from modelprobe.vision.preprocessing.overrides import changed
from tests.command_line import SAMPLES

SIZES = [(301, 200), (199, 333), (64, 64), (20, 45), (500, 30)]
"""Width and height: wide, tall, square, smaller than the crop, a sliver."""


def costly(*names: str) -> list:
    """Networks whose building takes a while: with the zoos."""
    return [pytest.param(name, marks=pytest.mark.zoo) for name in names]


TORCHVISION = ["resnet18", *costly("inception_v3", "swin_v2_t", "deeplabv3_resnet50", "vit_h_14", "efficientnet_b1")]
TIMM = [
    "timm:resnet18",  # center, bicubic
    "timm:tf_efficientnet_lite0",  # mean and std of 0.5
    *costly("timm:vit_base_patch16_siglip_224"),  # squash
    *costly("timm:vit_small_plus_patch16_dinov3"),
    *costly("timm:efficientvit_b3.r288_in1k"),  # another size
    *costly("timm:vit_base_patch16_sapiens2"),  # not square
]


def photo(size: tuple[int, int], mode: str = "RGB") -> Photo:
    values = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Photo(None, Image.fromarray(values).convert(mode))


def of(spec: str, *settings: str, **overrides):
    target = resolve(spec, settings)
    return preprocessing(target, target.build().module, overrides=PreprocessingOverrides(**overrides))


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_transforms_to_the_bit(name: str) -> None:
    import torchvision

    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    found = of(name)
    for size in SIZES:
        assert torch.equal(found.tensor(photo(size)), transform(photo(size).picture).unsqueeze(0))


@pytest.mark.parametrize("name", TIMM)
def test_timm_transforms_to_the_bit(name: str) -> None:
    from timm.data import create_transform, resolve_model_data_config

    target = resolve(name)
    model = target.build().module
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    found = preprocessing(target, model)
    for size in SIZES:
        assert torch.equal(found.tensor(photo(size)), transform(photo(size).picture).unsqueeze(0))


def test_the_border_mode_of_timm_to_the_bit() -> None:
    from timm.data import create_transform

    class Bordered(nn.Module):
        default_cfg = MappingProxyType({
            "input_size": (3, 96, 96), "crop_mode": "border", "crop_pct": 0.9, "interpolation": "bilinear",
            "mean": (0.2, 0.4, 0.9), "std": (0.5, 0.25, 0.3),
        })  # fmt: skip

        def forward(self, x):
            return x

    class Given:
        source, name = None, "Bordered"

        def declared_inputs(self, model):
            from modelprobe.model.inputs.declared import DeclaredInput

            return DeclaredInput("image", (1, 3, 224, 224))

    cfg = Bordered.default_cfg
    transform = create_transform(**cfg, is_training=False)
    found = preprocessing(Given(), Bordered())
    for size in SIZES:
        assert torch.equal(found.tensor(photo(size)), transform(photo(size).picture).unsqueeze(0))


def test_a_model_of_ones_own_gets_a_default_that_is_told() -> None:
    found = of(f"{SAMPLES}:TinyCNN")
    assert found.tensor(photo((300, 200))).shape == (1, 3, 224, 224)
    assert (found.mean, found.std) == ((0, 0, 0), (1, 1, 1))
    assert found.describe() == (
        "shorter side resized to 224 (bilinear), center 224x224, RGB, values 0..1; the first layer, features.0 (Conv2d)"
    )
    assert "How images were prepared for this model is not known" in found.notes[0].text


def test_grey_for_a_model_of_one_channel() -> None:
    found = of("timm:resnet18", "in_chans=1")
    assert found.tensor(photo((300, 200))).shape == (1, 1, 224, 224)
    # 0.299 x 0.485 + 0.587 x 0.456 + 0.114 x 0.406
    assert found.mean == pytest.approx((0.458971,))
    assert [note.text for note in found.notes_on(photo((300, 200)))] == ["color, made gray for a model of one channel"]
    assert of("resnet18").notes_on(photo((300, 200), "L"))[0].text == "gray, given to the model as three equal channels"


@pytest.mark.parametrize(
    ("overrides", "size", "said"),
    [
        ({"resize": "300"}, (224, 224), "shorter side resized to 300 (bilinear), center 224x224"),
        ({"resize": "90x120", "crop": False}, (90, 120), "resized to 90x120, its aspect not kept (bilinear), RGB"),
        ({"crop": False}, (224, 224), "resized to 224x224, its aspect not kept (bilinear), RGB"),
        ({"resize": "100", "crop": False}, (100, 150), "shorter side resized to 100 (bilinear), RGB"),
        ({"mean": "0.5", "std": "0.25,0.5,1"}, (224, 224), "mean 0.5 0.5 0.5, std 0.25 0.5 1"),
        ({"mean": "0", "std": "1"}, (224, 224), "values 0..1"),
    ],
)
def test_overrides(overrides, size, said) -> None:
    found = of("resnet18", **overrides)
    assert found.tensor(photo((300, 200))).shape == (1, 3, *size)
    assert said in found.describe()
    assert "changed by --" in found.describe()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"resize": "0"}, "--resize '0' is no size"),
        ({"resize": "axb"}, "--resize 'axb' is no size"),
        ({"resize": "20000x20000"}, "more than 100 million pixels"),
        ({"mean": "1,2"}, "one number or 3 is wanted"),
        ({"mean": "nan"}, "finite"),
        ({"std": "0"}, "not 0"),
    ],
)
def test_overrides_that_mean_nothing(overrides, says) -> None:
    with pytest.raises(BadInput, match=says.replace("(", r"\(")):
        of("resnet18", **overrides)


def test_a_sliver_does_not_fill_the_memory() -> None:
    """20,000 x 1 pixels, their shorter side made 256, would be 1.3 thousand million."""
    found = of("resnet18")
    long = Photo(None, Image.linear_gradient("L").resize((20_000, 1)).convert("RGB"))
    assert found.tensor(long).shape == (1, 3, 224, 224)
    assert any("enlarged 256 times" in note.text for note in found.notes_on(long))
    with pytest.raises(BadInput, match="5,120,000 x 256"):
        of("resnet18", crop=False, resize="256").tensor(long)


def test_models_that_take_no_picture() -> None:
    with pytest.raises(BadInput, match="takes no images: its input is 1x16"):
        of(f"{SAMPLES}:TinyAttention")


def test_any_number_of_channels() -> None:
    found = of("timm:resnet18", "in_chans=5")
    assert (found.channels, len(found.mean), len(found.std)) == (5, 5, 5)
    assert "5 channels" in found.describe()


def test_other_kinds_of_forward() -> None:
    assert of("fasterrcnn_mobilenet_v3_large_fpn").arguments(photo((40, 30)))[0][0].shape == (3, 30, 40)
    (video,) = of("r3d_18").arguments(photo((40, 30)))
    assert video.shape == (1, 3, 16, 112, 112)
    assert torch.equal(video[:, :, 0], video[:, :, 15])
    first, second = of("raft_small").arguments(photo((40, 30)))
    assert first.shape == second.shape == (1, 3, 520, 960)


def test_the_size_may_be_the_whole_shape_of_one_image() -> None:
    wanted = of("resnet18", size="128")
    assert wanted.crop == (128, 128)
    assert of("resnet18", size="1x3x128x128") == of("resnet18", size="3x128x128") == wanted
    with pytest.raises(BadInput, match="is a batch of 2"):
        of("resnet18", size="2x3x128x128")


def test_a_signal_is_taken_as_long_as_it_is() -> None:
    with pytest.raises(BadInput, match="a signal is taken as long as it is"):
        changed(replace(of("resnet18"), kind=TENSOR), PreprocessingOverrides(size="100"))
