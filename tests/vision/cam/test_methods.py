"""Class activation maps against the arithmetic written out, at a layer that must be chosen rightly, without a trace."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

import modelprobe
from modelprobe.errors import BadInput, ModelRaised
from modelprobe.vision.cam.mapper import ClassMapper
from modelprobe.vision.cam.methods import ScoreTarget
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


@pytest.mark.zoo
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

    assert "no ReLU" in modelprobe.cam(NoRelu(), IMAGE, method="guided-gradcam").remarks[0]


class Relus(nn.Module):
    """One network whose two ReLUs are called in any of the ways."""

    def __init__(self, first, second):
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 4, 3, stride=2), nn.Linear(4, 2)
        self.first, self.second = first, second

    def forward(self, x):
        return self.head(self.second(self.two(self.first(self.one(x)))).mean((2, 3)))


@pytest.mark.parametrize(
    "relus",
    [
        (nn.ReLU(), nn.functional.relu),
        (torch.relu, Tensor.relu),
        (nn.ReLU(inplace=True), torch.relu_),
        (lambda x: nn.functional.relu(x, inplace=True), nn.functional.relu_),
    ],
)
def test_guided_backpropagation_of_relus_of_every_kind(relus):
    """Of modules alone, captum is right."""
    captum_attr = pytest.importorskip("captum.attr")
    torch.manual_seed(0)
    modules = Relus(nn.ReLU(), nn.ReLU()).eval()
    model = Relus(*relus).eval()
    model.load_state_dict(modules.state_dict())
    image = torch.randn(1, 1, 16, 16)
    coarse = modelprobe.cam(modules, image, 1).map
    fine = captum_attr.GuidedBackprop(modules).attribute(image.clone().requires_grad_(), 1)[0].abs().amax(0)
    found = modelprobe.cam(model, image, 1, method="guided-gradcam")
    assert found.remarks == ()
    torch.testing.assert_close(found.map, coarse * fine.detach())
    assert modelprobe.cam(modules, image, 1, method="saliency").map.sub(fine).abs().max() > 1e-3


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
        (lambda x: x.sum((2, 3)).long(), "1x1"),
        (lambda x: x[:, :, None], "1x1x1x64x64"),
        (lambda x: [{"boxes": x}], "a list of 1, first a dict of boxes"),
        (lambda x: x.sum(), "a single number"),
        (lambda x: x.flatten(1).long(), "1x4096"),
        (lambda x: None, "nothing"),
    ],
)
def test_what_is_no_classifier(forward, said):
    class Other(nn.Module):
        def forward(self, x):
            return forward(x)

    with pytest.raises(BadInput, match=f"Other is no classifier: it puts out {said}"):
        modelprobe.cam(Other(), IMAGE)


def test_images_that_are_none(cnn):
    empty, flat, whole = torch.rand(0, 1, 64, 64), torch.rand(64, 64), torch.zeros(1, 64, 64, dtype=torch.uint8)
    for wrong, said in ((empty, "nothing to look at"), (flat, "cam takes images"), (whole, "cam takes floats")):
        with pytest.raises(BadInput, match=said):
            modelprobe.cam(cnn, wrong)


@pytest.mark.zoo
@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_two_forward_passes_give_the_map_that_captum_gives(method):
    """One gives the scores, the layer's output and its gradients, one follows positions; a known layer takes one."""
    from captum.attr import LayerGradCam

    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).eval()
    images, calls = torch.rand(2, 3, 96, 96), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    mapper = ClassMapper(model, [method])

    def classes_of(row):
        return [ScoreTarget(int(row.argmax())), ScoreTarget(3)]

    first, (choice,) = mapper.maps(images[:1], classes_of)
    assert len(calls) == 2
    assert choice.layer.path == "layer4"
    again, _ = mapper.maps(images[:1], classes_of)
    assert len(calls) == 3
    both, _ = mapper.maps(images, classes_of)
    for one, other, third in zip(first[0], again[0], both[0], strict=True):
        torch.testing.assert_close(one.raw, other.raw)
        torch.testing.assert_close(one.raw, third.raw, rtol=1e-3, atol=1e-6)
        if method == "gradcam":
            peer = LayerGradCam(model, model.layer4).attribute(images[:1], one.target)
            torch.testing.assert_close(one.raw, peer[0, 0].detach(), rtol=1e-4, atol=1e-7)


def naive(method, values, gradient, model, image, target):
    """The maps of newer methods, place by place, as their papers write them."""
    channels, height, width = values.shape
    if method == "gradcam++":
        total = torch.zeros(height, width)
        for k in range(channels):
            weight, total_k = 0.0, float(values[k].sum())
            for g in gradient[k].flatten().tolist():
                alpha = g**2 / (2 * g**2 + total_k * g**3 + 1e-6) if g else 0.0
                weight += alpha * max(g, 0.0)
            total += weight * values[k]
        return total
    if method == "hirescam":
        return torch.stack([values[k] * gradient[k] for k in range(channels)]).sum(0)
    if method == "eigencam":
        places = values.reshape(channels, -1).T.double()
        places = places - places.mean(0)
        _, axes = torch.linalg.eigh(places.T @ places)
        return (places @ axes[:, -1]).reshape(height, width).float()
    scores = []
    for k in range(channels):
        mask = nn.functional.interpolate(values[k][None, None], size=(64, 64), mode="bilinear", align_corners=True)[0]
        mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
        with torch.no_grad():
            scores.append(float(model((image * mask)[None])[0, target]))
    weights = torch.tensor(scores).softmax(0)
    return sum(weights[k] * values[k] for k in range(channels))


@pytest.mark.zoo
@pytest.mark.parametrize("method", ["gradcam++", "hirescam", "eigencam", "scorecam"])
def test_newer_methods_as_their_papers_write_them(cnn, vit, method):
    for model, layer, grid in (
        (cnn, cnn.features, lambda x: x),
        (vit, vit.blocks[1], lambda x: x[1:].T.reshape(-1, 8, 8)),
    ):
        values, gradient = map(grid, at(layer, model, IMAGE, 5))
        expected = naive(method, values, gradient, model, IMAGE, 5)
        found = modelprobe.cam(model, IMAGE, 5, method=method).raw
        if method == "eigencam":  # of a free sign
            assert min(float((found - expected).abs().max()), float((found + expected).abs().max())) < 1e-3
            strength = values.norm(dim=0)
            assert float(((strength - strength.mean()) * found).sum()) > 0
        else:
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
