"""Does a map point at what the class was told by? The largest value must lie in the quadrant of the one digit.

Each canvas has a digit in one quadrant and scraps of digits, the same ink and strokes, in the other three, drawn from
handwriting that no network was trained on. A map that shows ink, edges or the middle is right in one of four.
"""

import importlib.util
import sys

import pytest
import torch

from modelprobe.model.weights.load import load_state_dict_for
from modelprobe.vision.cam.mapper import ClassMapper
from modelprobe.vision.cam.methods import ScoreTarget
from tests.samples import ROOT, models

_spec = importlib.util.spec_from_file_location("samples_digits", ROOT / "samples" / "digits.py")
digits = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = digits
_spec.loader.exec_module(digits)

FIGURES = {"DigitCNN": 0.95, "DigitResNet": 0.95, "DigitViT": 0.90}
FILES = {"DigitCNN": "digit_cnn.pth", "DigitResNet": "digit_resnet.pth", "DigitViT": "digit_vit.pth"}


def trained(name):
    model = getattr(models, name)()
    state, _ = load_state_dict_for(model, str(ROOT / "samples" / FILES[name]))
    model.load_state_dict(state)
    return model.eval()


def untrained(name, seed):
    torch.manual_seed(seed)
    return getattr(models, name)().eval()


def pointing(model, count, method="gradcam"):
    """The share of canvases on which the map of the top prediction is largest in the digit's quadrant."""
    test = digits.canvases(count, torch.Generator().manual_seed(2026), held_out=True)
    mapper, hits = ClassMapper(model, [method]), 0
    for index in range(count):
        image = test.pictures[index : index + 1]
        (((one,),), _) = mapper.maps(image, lambda scores: [ScoreTarget(int(scores.argmax()))])
        found = one.map
        row, column = divmod(int(found.argmax()), digits.CANVAS)
        hits += 2 * (row >= digits.QUADRANT) + (column >= digits.QUADRANT) == int(test.quadrants[index])
    return hits / count


@pytest.mark.zoo
@pytest.mark.parametrize("name", FIGURES)
def test_a_trained_network_points_at_the_digit(name):
    assert pointing(trained(name), 25) >= 0.8  # at chance: 1 in 10^8


@pytest.mark.zoo
@pytest.mark.parametrize("name", FIGURES)
def test_the_share_of_200_canvases(name):
    found = pointing(trained(name), 200)
    print(f"\n{name}: the largest value of Grad-CAM lies in the digit's quadrant on {found:.1%} of 200 canvases")
    assert found >= FIGURES[name]


@pytest.mark.zoo
@pytest.mark.parametrize("name", FIGURES)
def test_untrained_networks_are_near_chance(name):
    shares = [pointing(untrained(name, seed), 50) for seed in range(12)]
    mean = sum(shares) / len(shares)
    print(f"\n{name} untrained: {mean:.1%}, of {', '.join(f'{share:.0%}' for share in shares)}")
    assert abs(mean - 0.25) < 0.1


@pytest.mark.zoo
@pytest.mark.parametrize(
    "method",
    [
        "gradcam++",
        "layercam",
        "hirescam",
        "eigencam",
        "scorecam",
        "guided-gradcam",
        "integrated-gradients",
        "saliency",
        "occlusion",
    ],
)
def test_the_other_methods_point_too(method):
    found = pointing(trained("DigitCNN"), 50, method)
    print(f"\nDigitCNN, {method}: {found:.0%} of 50 canvases")
    assert found >= 0.8
