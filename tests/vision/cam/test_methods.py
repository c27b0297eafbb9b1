"""Class activation maps against the arithmetic written out, at a layer that must be chosen rightly, without a trace."""

import pytest
import torch
import torchvision
from torch import nn

import modelprobe
from modelprobe.errors import BadInput, ModelRaised
from tests.samples import models
from tests.vision.networks import ClassTokenViT

IMAGE = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def cnn():
    torch.manual_seed(0)
    return models.DigitCNN().eval()


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return ClassTokenViT().eval()


def enlarged(small):
    return nn.functional.interpolate(small[None, None], size=(64, 64), mode="bilinear", align_corners=False)[0, 0]


def at(module, model, image, target):
    """The output of a module and the gradient of the class's score with respect to it, by hooks written out."""
    kept = []
    handle = module.register_forward_hook(lambda _m, _a, out: kept.append(out))
    score = model(image[None].clone().requires_grad_())[0, target]
    handle.remove()
    (gradient,) = torch.autograd.grad(score, kept)
    return kept[0].detach()[0], gradient[0]


def test_grad_cam_of_average_pooling_is_the_classic_cam(cnn):
    found = modelprobe.cam(cnn, IMAGE, 3)
    with torch.no_grad():
        features = cnn.features(IMAGE[None])[0]
    # the gradient of a mean over 16 x 16 places is weight / 256 at each
    expected = torch.einsum("c,chw->hw", cnn.head.weight[3] / 256, features)
    assert found.layer == "features"
    torch.testing.assert_close(found.raw, expected.detach())
    torch.testing.assert_close(found.map, enlarged(expected.detach().clamp(min=0)))
    scores = cnn(IMAGE[None])[0].detach()
    assert found.score == pytest.approx(float(scores[3]))
    assert found.probability == pytest.approx(float(scores.softmax(0)[3]))


def test_a_class_token_reads_the_patches_of_the_block_before(vit):
    found = modelprobe.cam(vit, IMAGE)
    assert found.target == int(vit(IMAGE[None]).argmax())
    assert found.layer == "blocks.1"  # of 0, 1, 2
    assert "behind it, in norm, no place has any influence" in found.reason
    values, gradient = at(vit.blocks[1], vit, IMAGE, found.target)
    expected = (values[1:] @ gradient[1:].mean(0)).reshape(8, 8)
    torch.testing.assert_close(found.raw, expected)
    last, zero = at(vit.blocks[2], vit, IMAGE, found.target)
    assert not zero[1:].any()
    assert last.shape == (65, 48)


def test_layer_cam(cnn, vit):
    for model, layer, grid in (
        (cnn, cnn.features, lambda x: x),
        (vit, vit.blocks[1], lambda x: x[1:].T.reshape(-1, 8, 8)),
    ):
        values, gradient = map(grid, at(layer, model, IMAGE, 5))
        expected = (gradient.clamp(min=0) * values).sum(0)
        torch.testing.assert_close(modelprobe.cam(model, IMAGE, 5, method="layercam").raw, expected)


def test_pixel_methods(vit):
    image = IMAGE[None].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(vit(image)[0, 2], image)
    saliency = modelprobe.cam(vit, IMAGE, 2, method="saliency")
    torch.testing.assert_close(saliency.map, gradient[0].abs().amax(0))
    assert saliency.layer == ""
    # completeness: what the pixels add up to is the score of the image less that of the baseline
    integrated = modelprobe.cam(vit, IMAGE, 2, method="integrated-gradients")
    with torch.no_grad():
        gained = vit(IMAGE[None])[0, 2] - vit(torch.zeros(1, 1, 64, 64))[0, 2]
    assert float(integrated.raw.sum()) == pytest.approx(float(gained), rel=0.1, abs=0.02)


def test_occlusion_finds_the_one_pixel_that_counts():
    class OnePixel(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0, 40, 12], -x[:, 0, 40, 12]], 1)

    found = modelprobe.cam(OnePixel(), IMAGE, 0, method="occlusion")
    row, column = divmod(int(found.map.argmax()), 64)
    assert abs(row - 40) <= 8
    assert abs(column - 12) <= 8
    assert (modelprobe.cam(OnePixel(), IMAGE, 1, method="occlusion").map == 0).all()


def test_guided_grad_cam(cnn, vit):
    guided = modelprobe.cam(cnn, IMAGE, 3, method="guided-gradcam")
    assert guided.map.shape == (64, 64)
    assert guided.remarks == ()
    blind = modelprobe.cam(cnn, IMAGE, 3).map == 0
    assert (guided.map[blind] == 0).all()
    assert (guided.map > 0).any()

    class NoRelu(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(nn.functional.gelu(self.conv(x)).mean((2, 3)))

    assert "no nn.ReLU" in modelprobe.cam(NoRelu(), IMAGE, method="guided-gradcam").remarks[0]


class Frozen(nn.Module):
    """A backbone that runs without gradients, works in place, and returns its maps in a tuple, channels last."""

    def __init__(self, cnn, switch):
        super().__init__()
        self.stem, self.head, self.switch = Backbone(cnn.features), cnn.head, switch

    def forward(self, x):
        x.mul_(2).div_(2)
        with self.switch():
            maps, _ = self.stem(x)
        return {"aux": None, "logits": self.head(maps.mean((1, 2)))}


class Backbone(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        maps = self.layers(x)
        return maps.relu_().permute(0, 2, 3, 1).contiguous(), "something else"


@pytest.mark.parametrize(
    "switch", [torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False), torch.enable_grad]
)
def test_what_switches_gradients_off_or_works_in_place(cnn, switch):
    found = modelprobe.cam(Frozen(cnn, switch), IMAGE, 3)
    assert found.layer == "stem"
    assert "NHWC" in found.reason
    torch.testing.assert_close(found.map, modelprobe.cam(cnn, IMAGE, 3).map)
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_called_where_gradients_are_off(cnn, mode):
    expected = modelprobe.cam(cnn, IMAGE, 3).map
    with mode():
        assert torch.equal(modelprobe.cam(cnn, IMAGE.clone(), 3).map, expected)
        assert not torch.is_grad_enabled()


def test_branches_that_meet_behind_their_pooling_are_said():
    class TwoTowers(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 5), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(torch.cat([self.left(x).mean((2, 3)), self.right(x).mean((2, 3))], 1))

    found = modelprobe.cam(TwoTowers(), IMAGE)
    assert found.layer == "right"
    assert "no layer carries everything" in found.reason


def test_a_head_of_zeros_gives_a_map_of_zeros(vit):
    import copy

    born = copy.deepcopy(vit)
    nn.init.zeros_(born.head.weight)
    found = modelprobe.cam(born, IMAGE)
    assert found.layer == "blocks.1"  # chosen by the paths all the same
    assert not found.map.any()
    assert not born.head.weight.any()


@pytest.mark.parametrize("method", ["gradcam", "layercam", "guided-gradcam", "saliency"])
def test_nothing_is_left_behind(method):
    torch.manual_seed(1)
    model = models.DigitCNN().train()
    model.head.weight.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()]
    generator, flags = torch.get_rng_state(), [p.requires_grad for p in model.parameters()]
    modelprobe.cam(model, IMAGE, method=method)
    with pytest.raises(ModelRaised, match="channels"):
        modelprobe.cam(model, IMAGE.expand(3, 64, 64), method=method)
    assert model.training
    assert all(isinstance(m.inplace, bool) and m.inplace for m in model.modules() if isinstance(m, nn.ReLU))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [len(module._forward_hooks) + len(module._backward_hooks) for module in model.modules()] == hooks
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_layer_of_ones_own(cnn):
    found = modelprobe.cam(cnn, IMAGE, 3, layer="features.0")
    assert found.layer == "features.0"
    assert found.raw.shape == (32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": 10}, "there is no class 10"),
        ({"target": -1}, "there is no class -1"),
        ({"method": "gradcan"}, "no method 'gradcan'"),
        ({"layer": "feature.3"}, "no layer 'feature.3'"),
        ({"layer": "head"}, "puts out 1x10, which is no grid"),
    ],
)
def test_refusals(cnn, options, message):
    with pytest.raises(BadInput, match=message):
        modelprobe.cam(cnn, IMAGE, **options)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda x: x, "1x1x64x64"),
        (lambda x: [{"boxes": x}], "a list of 1, first a dict of boxes"),
        (lambda x: x.sum(), "a single number"),
        (lambda x: x.flatten(1).long(), "1x4096"),
        (lambda x: None, "NoneType"),
    ],
)
def test_what_is_no_classifier(forward, said):
    class Other(nn.Module):
        def forward(self, x):
            return forward(x)

    with pytest.raises(BadInput, match=f"Other is no classifier: it puts out {said}"):
        modelprobe.cam(Other(), IMAGE)


def test_images_that_are_none(cnn):
    for wrong in (torch.rand(2, 1, 64, 64), torch.rand(64, 64), torch.zeros(1, 64, 64, dtype=torch.uint8)):
        with pytest.raises(BadInput, match="one image of floats"):
            modelprobe.cam(cnn, wrong)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_two_forward_passes_give_the_map_that_captum_gives(method):
    """One follows positions and gives the scores, one gives the layer, its output and its gradients."""
    from modelprobe.vision.cam.cam import ClassMapper
    from modelprobe.vision.cam.methods import class_map, scores

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).eval()
    image, calls = torch.rand(1, 3, 96, 96), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    (found, other), choice = ClassMapper(model, [method], None).maps(image, lambda logits: [int(logits.argmax()), 3])
    assert len(calls) == 2
    for one in (found, other):
        alone = class_map(model, image, one.target, method, choice, scores(model, image))
        assert torch.allclose(one.map, alone.map, rtol=1e-4, atol=1e-7)
        assert one.score == pytest.approx(alone.score, rel=1e-5)
