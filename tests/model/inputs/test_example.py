"""Example inputs: as declared by the zoos, as guessed for a user's own model, and as asked for by `--input`."""

import pytest
import torch
from torch import nn

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.model.build import TargetRequest, load_model, record
from modelprobe.model.inputs.example import make_inputs
from modelprobe.model.inputs.first_layer import of_module
from modelprobe.model.inputs.sizes import resize
from modelprobe.model.target import resolve
from modelprobe.report.blocks import Level

TWO = """
import torch
from torch import nn


class Two(nn.Module):
    def forward(self, ids, mask, *, scale=1.0):
        return ids


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(5, 2, 3)

    def forward(self, x):
        return self.conv(x)


class Matrix(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 16))

    def forward(self, x):
        return x @ self.weight


class BareFilter(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3, 3, 3))

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight)


scripted = torch.jit.script(Matrix())


class Sized(nn.Module):
    def __init__(self, image_size=32, pair=(1, 1)):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.image_size = image_size

    def forward(self, x):
        return self.conv(x)


class Lightning(nn.Module):
    def __init__(self):
        super().__init__()
        self.example_input_array = torch.randn(2, 5)
        self.linear = nn.Linear(5, 1)

    def forward(self, x):
        return self.linear(x)


class Offering(nn.Module):
    def modelprobe_inputs(self):
        return (torch.zeros(3, 5),), {"flag": True}

    def forward(self, x, flag=False):
        return x


class Nothing(nn.Module):
    def forward(self):
        return torch.ones(3)


sequential = nn.Sequential(nn.Embedding(10, 4))


def both():
    return (torch.randn(1, 128),), {"mask": torch.ones(1, 128, dtype=torch.bool)}


def lone():
    return torch.randn(1, 5, 8, 8)


def mapping():
    return {"x": torch.randn(1, 5, 8, 8)}


def listed():
    return [torch.randn(1, 5, 8, 8)]


def wrong():
    return 3


def fails():
    return 1 / 0


def needs(size):
    return size
"""


@pytest.fixture
def user(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    return f"{tmp_path / 'two.py'}:"


def inputs(spec, *specs, **options):
    """What a command does: resolve, tell the constructor the size, build, make the inputs."""
    target = resize(resolve(spec), specs)
    return make_inputs(target, specs, model=target.build().module, **options)


def message(spec, *specs, error=BadInput, **options):
    with pytest.raises(error) as caught:
        inputs(spec, *specs, **options)
    assert "\n" not in caught.value.message + caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("torchvision:resnet18", "x: 1x3x224x224 float32"),
        ("torchvision:efficientnet_b3", "x: 1x3x300x300 float32"),
        ("inception_v3", "x: 1x3x299x299 float32"),
        ("vit_h_14", "x: 1x3x518x518 float32"),
        ("quantized_resnet18", "x: 1x3x224x224 float32"),
        ("lraspp_mobilenet_v3_large", "input: 1x3x520x520 float32"),
        ("r3d_18", "x: 1x3x16x112x112 float32"),
        ("s3d", "x: 1x3x16x224x224 float32"),
        ("ssd300_vgg16", "images: list of 1 x [3x512x512] float32"),
        ("raft_small", "image1: 1x3x520x960 float32, image2: 1x3x520x960 float32"),
        ("timm:vit_tiny_patch16_384", "x: 1x3x384x384 float32"),
        ("timm:test_vit", "x: 1x3x160x160 float32"),
    ],
)
def test_the_zoos_declare_their_own(spec, expected):
    found = inputs(spec)
    assert ", ".join(found.describe()) == expected
    assert found.default
    assert found.source


def test_the_source_of_a_default_is_said():
    assert inputs("torchvision:resnet18").source == "the transform of ResNet18_Weights.IMAGENET1K_V1"
    note = inputs("vit_h_14").notes[0]
    assert (
        note.text
        == "vit_h_14 is built with image_size=518, as for ViT_H_14_Weights.IMAGENET1K_SWAG_E2E_V1, its default"
    )


@pytest.mark.parametrize(
    ("spec", "typed", "expected"),
    [
        ("torchvision:resnet18", ["64"], "x: 1x3x64x64 float32"),
        ("torchvision:resnet18", ["224x320"], "x: 1x3x224x320 float32"),
        ("torchvision:resnet18", ["3x64x32"], "x: 1x3x64x32 float32"),
        ("torchvision:resnet18", ["8x3x64x64"], "x: 8x3x64x64 float32"),
        ("torchvision:resnet18", ["x=2x3x64x64"], "x: 2x3x64x64 float32"),
        ("torchvision:resnet18", ["3x64x64:bf16"], "x: 1x3x64x64 bfloat16"),
        ("r3d_18", ["96"], "x: 1x3x16x96x96 float32"),
        ("r3d_18", ["3x8x96x96"], "x: 1x3x8x96x96 float32"),
        ("ssd300_vgg16", ["640"], "images: list of 1 x [3x640x640] float32"),
        ("ssd300_vgg16", ["480x640"], "images: list of 1 x [3x480x640] float32"),
        ("ssd300_vgg16", ["4x3x320x320"], "images: list of 4 x [3x320x320] float32"),
        ("ssd300_vgg16", ["32", "48"], "images: list of 3x32x32 float32, 3x48x48 float32"),
        ("raft_small", ["128x256"], "image1: 1x3x128x256 float32, image2: 1x3x128x256 float32"),
    ],
)
def test_short_specs_are_completed_from_what_the_model_declares(spec, typed, expected):
    found = inputs(spec, *typed)
    assert ", ".join(found.describe()) == expected
    assert not found.default


@pytest.mark.parametrize(
    ("spec", "typed", "batch", "expected"),
    [
        ("torchvision:resnet18", [], 8, "x: 8x3x224x224 float32"),
        ("torchvision:resnet18", ["64"], 8, "x: 8x3x64x64 float32"),
        ("torchvision:resnet18", ["1x3x64x64"], 8, "x: 8x3x64x64 float32"),
        ("torchvision:resnet18", ["8x3x64x64"], 8, "x: 8x3x64x64 float32"),
        ("ssd300_vgg16", [], 3, "images: list of 3 x [3x512x512] float32"),
        ("raft_small", [], 2, "image1: 2x3x520x960 float32, image2: 2x3x520x960 float32"),
    ],
)
def test_the_batch(spec, typed, batch, expected):
    assert ", ".join(inputs(spec, *typed, batch=batch).describe()) == expected


def test_a_batch_that_contradicts():
    assert "--batch 8 contradicts --input 4x3x64x64" in message("torchvision:resnet18", "4x3x64x64", batch=8)
    assert "--batch 0" in message("torchvision:resnet18", batch=0)
    assert "--batch 3 contradicts --input for 2 images" in message("ssd300_vgg16", "9", "9", batch=3)


@pytest.mark.parametrize(
    ("spec", "size", "given"),
    [
        ("vit_b_16", "384", {"image_size": 384}),
        ("vit_b_16", "224", {}),
        ("vit_h_14", "518", {}),
        ("vit_h_14", "224", {"image_size": 224}),
        ("vit_b_16", "224x320", {}),  # not square: the model says so itself
        ("maxvit_t", "448x448", {"input_size": (448, 448)}),
        ("swin_t", "320", {}),
        ("torchvision:resnet18", "320", {}),
        ("timm:resnet18", "320", {}),
        ("timm:vit_base_patch16_224", "384", {"img_size": 384}),
        ("timm:vit_base_patch16_224", "224x320", {"img_size": (224, 320)}),
        ("timm:swin_tiny_patch4_window7_224", "448", {"img_size": 448}),
    ],
)
def test_a_size_that_the_constructor_must_know(spec, size, given):
    target = resize(resolve(spec), [size])
    assert dict(target.given) == given
    assert any("for the size of the input" in note.text for note in target.notes) == bool(given)


@pytest.mark.zoo
@pytest.mark.parametrize("spec", ["vit_b_16", "timm:swin_tiny_patch4_window7_224"])
def test_a_resized_model_runs_at_that_size(spec):
    target = resize(resolve(spec), ["448"])
    model = target.build().module.eval()
    args, kwargs = make_inputs(target, ["448"], model=model).build("meta")
    with torch.no_grad():
        assert model(*args, **kwargs).shape == (1, 1000)


def test_a_size_that_the_constructor_refuses():
    text = message("vit_b_16", "385", error=ModelRaised)
    assert "Input shape indivisible by patch size!" in text
    assert "image_size=385" in text


def test_the_size_for_a_constructor_of_the_users(user):
    assert dict(resize(resolve(f"{user}Sized"), ["64"]).given) == {"image_size": 64}
    assert dict(resize(resolve(f"{user}Sized"), ["3x48x64"]).given) == {"image_size": (48, 64)}
    assert dict(resize(resolve(f"{user}Sized"), ["32"]).given) == {}
    assert dict(resize(resolve(f"{user}Sized", ["image_size=16"]), ["64"]).given) == {"image_size": 16}
    assert dict(resize(resolve(f"{user}One"), ["64"]).given) == {}


def test_arguments_by_name(user):
    found = inputs(f"{user}Two", "ids=1x128:int64", "mask=1x128:bool", batch=4)
    assert found.describe() == ("ids: 4x128 int64", "mask: 4x128 bool")
    args, kwargs = found.build("cpu")
    assert args == ()
    assert (kwargs["ids"].dtype, kwargs["mask"].dtype) == (torch.int64, torch.bool)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["ids=1x8:long"], "forward also needs: mask | for example --input mask=1x16"),
        (["ids=1x8", "masks=1x8"], "forward has no argument 'masks' | it takes: ids, mask, scale"),
        (["ids=1x8", "ids=1x8"], "--input ids was given twice"),
        (["1x8:long", "ids=1x8"], "ids is given twice: by name, and by an input without one"),
        (["1x8:long", "1x8:long", "1x8", "1x8"], "4 inputs were given, forward takes 3"),
        ([], "Two takes 2 inputs (ids, mask): say their shapes | for example --input ids=1x16 --input mask=1x16"),
    ],
)
def test_inputs_that_forward_does_not_take(user, typed, expected):
    assert expected in message(f"{user}Two", *typed)


@pytest.mark.zoo
def test_a_guess_is_marked_and_names_its_layer(user):
    found = inputs(f"{user}One")
    assert found.describe() == ("x: 1x5x224x224 float32",)
    assert found.notes[0].level is Level.ASSUMED
    assert found.notes[0].text == (
        "the input 1x5x224x224 was assumed from the first layer, conv (Conv2d): override it by --input 1x5x224x224"
    )
    assert inputs(f"{user}One", "64").describe() == ("x: 1x5x64x64 float32",)
    assert (
        inputs(f"{user}One", "64").notes[0].text
        == "the number of channels was read from the first layer, conv (Conv2d)"
    )
    assert inputs(f"{user}One", "1x5x64x64").notes == ()


@pytest.mark.parametrize(
    ("layer", "shape", "dtype"),
    [
        (nn.Linear(7, 1), (1, 7), ""),
        (nn.Conv1d(4, 2, 3), (1, 4, 1024), ""),
        (nn.Conv2d(4, 2, 3), (1, 4, 224, 224), ""),
        (nn.Conv3d(4, 2, 3), (1, 4, 16, 112, 112), ""),
        (nn.Embedding(9, 2), (1, 16), "int64"),
        (nn.LSTM(3, 2), (16, 1, 3), ""),
        (nn.GRU(3, 2, batch_first=True), (1, 16, 3), ""),
        (nn.TransformerEncoderLayer(8, 2), (16, 1, 8), ""),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 1), (1, 16, 8), ""),
        (nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 1)), (1, 16, 6), ""),
        (nn.DataParallel(nn.Sequential(nn.ReLU(), nn.Linear(5, 1))), (1, 5), ""),
    ],
)
def test_what_the_first_layer_tells(layer, shape, dtype):
    found = of_module(layer)
    assert (found.shape, found.dtype) == (shape, dtype)
    with torch.no_grad():
        inner = layer.module if isinstance(layer, nn.DataParallel) else layer
        inner(torch.zeros(shape, dtype=getattr(torch, dtype or "float32")))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_a_torchscript_module_tells():
    assert of_module(torch.jit.script(nn.Sequential(nn.Linear(7, 2)))).shape == (1, 7)


@pytest.mark.zoo
def test_nothing_tells():
    assert of_module(nn.ReLU()) is None
    assert of_module(nn.Sequential(nn.LazyLinear(3))) is None
    assert of_module(nn.Bilinear(2, 3, 4)) is None
    assert "nothing tells what ReLU takes: say it with --input | for example" in message("torch.nn:ReLU")


@pytest.mark.zoo
def test_two_sizes_without_a_declaration_are_the_shape_or_else_an_image_and_that_is_said(user):
    found = inputs(f"{user}Matrix", "4x8")
    assert found.describe() == ("x: 4x8 float32",)
    assert found.notes[0].level is Level.ASSUMED
    assert "--input 4x8 was taken as the whole shape: --input 1x3x4x8 is an image" in found.notes[0].text
    (image,) = found.alternatives
    assert image.describe() == ("x: 1x3x4x8 float32",)
    assert "--input 4x8 was taken as an image of 3 channels" in image.notes[0].text
    assert record(load_model(TargetRequest(f"{user}Matrix", inputs=["4x8"]))).outputs[0].shape == (4, 16)
    assert record(load_model(TargetRequest(f"{user}scripted", inputs=["4x8"]))).outputs[0].shape == (4, 16)
    assert record(load_model(TargetRequest(f"{user}BareFilter", inputs=["8x9"]))).outputs[0].shape == (1, 5, 6, 7)
    assert inputs(f"{user}Matrix", "4x8", batch=2).describe() == ("x: 2x3x4x8 float32",)
    assert inputs(f"{user}Matrix", "x=4x8").describe() == ("x: 4x8 float32",)
    assert inputs(f"{user}Matrix", "2x4x8").describe() == ("x: 2x4x8 float32",)


def test_what_the_module_itself_offers(user):
    lightning = inputs(f"{user}Lightning")
    assert lightning.describe() == ("x: 2x5 float32",)
    assert lightning.default
    args, _ = lightning.build("cpu")
    assert (args[0].shape, args[0].device.type) == ((2, 5), "cpu")
    offering = inputs(f"{user}Offering")
    assert offering.describe() == ("x: 3x5 float32", "flag: True")
    assert offering.notes[0].text == "the input is Offering.modelprobe_inputs"
    assert "--batch cannot change Offering.modelprobe_inputs" in message(f"{user}Offering", batch=2)


def test_a_forward_that_takes_nothing(user):
    found = inputs(f"{user}Nothing")
    assert found.build() == ((), {})
    assert found.describe() == ()


def test_a_lone_number_sets_the_length_of_a_sequence(user):
    assert inputs(f"{user}sequential", "64").describe() == ("input: 1x64 int64",)


def test_inputs_from_a_file(user):
    found = inputs(f"{user}Two", inputs_from=f"{user}both")
    assert found.describe() == ("ids: 1x128 float32", "mask: 1x128 bool")
    args, kwargs = found.build("cpu")
    assert torch.equal(args[0], inputs(f"{user}Two", inputs_from=f"{user}both").build("cpu")[0][0])  # seeded
    assert kwargs["mask"].all()
    assert found.notes == ()


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("lone", "a tensor, taken as the only argument of forward"),
        ("mapping", "a dict, taken as the named arguments of forward"),
        ("listed", "a list, taken as the positional arguments of forward"),
    ],
)
def test_other_forms_are_taken_with_a_note(user, name, meaning):
    found = inputs(f"{user}One", inputs_from=user + name)
    assert found.describe() == ("x: 1x5x8x8 float32",)
    assert found.notes[0].text.endswith(meaning)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "wrong",
            "gave something of type int, not inputs | it must be file.py:make, where make() returns (args, kwargs)",
        ),
        ("nothing", "two.py has no 'nothing' | it has: both, lone, mapping, listed, wrong, fails, needs"),
        ("needs", "needs needs: size"),
        ("both", "forward has no argument 'mask' | it takes: x"),
    ],
)
def test_inputs_from_a_file_that_do_not_fit(user, name, expected):
    assert expected in message(f"{user}One", inputs_from=user + name)


@pytest.mark.zoo
def test_inputs_from_a_file_that_raises(user, tmp_path):
    line = TWO.splitlines().index("    return 1 / 0") + 1
    text = message(f"{user}One", error=ModelRaised, inputs_from=f"{user}fails")
    assert text.startswith(f"calling fails failed: two.py:{line} in fails: ZeroDivisionError")
    assert "there is no file" in message(f"{user}One", inputs_from=f"{tmp_path / 'none.py'}:make")
    assert "does not name a function" in message(f"{user}One", inputs_from="make")
    assert "leave out --input and --batch" in message(f"{user}One", "64", inputs_from=f"{user}lone")


def test_values_are_seeded_and_of_the_right_kind(user):
    found = inputs(f"{user}Two", "ids=4x64:int64", "mask=4x64:float32")
    _, first = found.build("cpu", seed=1)
    _, again = found.build("cpu", seed=1)
    _, other = found.build("cpu", seed=2)
    assert torch.equal(first["mask"], again["mask"])
    assert not torch.equal(first["mask"], other["mask"])
    assert set(first["ids"].unique().tolist()) == {0, 1}
    assert abs(first["mask"].std().item() - 1) < 0.2
    assert found.build("meta")[1]["mask"].is_meta


def test_making_inputs_leaves_the_generator_alone():
    found = inputs("torchvision:resnet18", "8")
    before = torch.get_rng_state()
    found.build("cpu")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.zoo
def test_the_dtype_of_the_inputs(user):
    assert inputs("torchvision:resnet18", dtype="half").describe() == ("x: 1x3x224x224 float16",)
    assert inputs(f"{user}Two", "ids=1x8:int64", "mask=1x8", dtype="bf16").describe() == (
        "ids: 1x8 int64",
        "mask: 1x8 bfloat16",
    )
    target = resolve("torch.nn:Linear", ["in_features=3", "out_features=1", "dtype=null"])
    assert make_inputs(target, model=nn.Linear(3, 1).double()).describe() == ("input: 1x3 float64",)
    assert "there is no dtype 'flaot16' | did you mean float16" in message("torchvision:resnet18", dtype="flaot16")
