"""Costs beside plain loops: `python -m tests.benchmarks.vision [--device cuda] [--images 200]`.

`predict` and `features` (two layers, measured, not drawn) against a loop of the library's own transform and batches of
16; `modelprobe.cam` on ResNet-18, one image at a time and in batches of 8, against a forward pass. On the CPU:
processor time on one thread, medians of alternating runs. On another device: wall time; and the answers of the four
commands there beside those of the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image

import modelprobe
from modelprobe.model.build import TargetRequest
from modelprobe.tracing.capture import capture
from modelprobe.vision.attention.attention import attentions_of
from modelprobe.vision.features.run import FeatureRun, FeaturesOptions
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import open_image
from modelprobe.vision.predict import PredictionRun
from modelprobe.vision.scores import Scores
from modelprobe.vision.walk import walk_images

TARGETS = ("resnet18", "timm:vit_small_patch16_224")
"""Networks whose random heads are not zero, as that of torchvision's ViT is: zeros would hide every difference."""


def pictures(folder: Path, count: int) -> list[Path]:
    """Photographs' sizes, coarse seeded noise."""
    drawn = np.random.default_rng(0)
    files = []
    for index in range(count):
        small = Image.fromarray(drawn.integers(0, 255, (12, 16, 3), dtype=np.uint8))
        files.append(folder / f"{index:03}.jpg")
        small.resize((500, 375), Image.Resampling.BICUBIC).save(files[-1], quality=90)
    return files


def loaded(target: str, device: str, batch: int) -> ImageModel:
    """A model with seeded random weights."""
    return load_image_model(ImageModelRequest(TargetRequest(target, weights="random"), device=device, batch=batch))


def predict(model: ImageModel, files: list[Path]) -> list[list[float]]:
    """The probabilities of the top five."""
    run = PredictionRun(model, 5, Scores(model.model))
    found = walk_images(model, files, run)
    return [[guess.probability or 0.0 for guess in kept.guesses] for kept in found.kept]


def features(model: ImageModel, files: list[Path]) -> None:
    """The last map and the scores, measured; nothing is drawn."""
    walk_images(
        model, files, FeatureRun(model, ["layer4", "fc"], (), FeaturesOptions(ImageModelRequest(model.loaded.request)))
    )


def plain(model: ImageModel, files: list[Path], device: str) -> list[list[float]]:
    """The loop that people write."""
    transform = torchvision.models.get_model_weights("resnet18").DEFAULT.transforms()
    found: list[list[float]] = []
    with torch.no_grad():
        for first in range(0, len(files), 16):
            images = [transform(Image.open(file).convert("RGB")) for file in files[first : first + 16]]
            shares = model.model(torch.stack(images).to(device)).softmax(1)
            found += shares.topk(5).values.cpu().tolist()
    return found


def spent(function: Callable[[], object], device: str) -> float:
    """Seconds of processor time, of wall time on a device that is not the CPU."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    begun = clock()
    function()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - begun


def paired(first: Callable[[], object], second: Callable[[], object], device: str, pairs: int) -> str:
    """Medians of alternating runs, and the ratio with its range."""
    times = []
    first(), second()
    for _ in range(pairs):
        times.append((spent(first, device), spent(second, device)))
    ratios = sorted(one / other for one, other in times)
    one, other = (statistics.median(column) for column in zip(*times, strict=True))
    return f"{one:.3f} s / {other:.3f} s = {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def compared(device: str, files: list[Path]) -> None:
    """The largest differences between the CPU's answers and the device's."""
    for target in TARGETS:
        here, there = loaded(target, "cpu", 8), loaded(target, device, 8)
        photo = open_image(files[0])
        one, other = here.arguments(photo)[0], there.arguments(photo)[0]
        shares = np.abs(np.array(predict(here, files[:8])) - np.array(predict(there, files[:8]))).max()
        print(f"{target}: predict, probabilities: {shares:.1e}")
        for method in ("gradcam", "layercam", "gradcam++", "hirescam", "saliency", "integrated-gradients"):
            maps = [modelprobe.cam(m.model, x, 3, method=method).map for m, x in ((here, one), (there, other))]
            scale = float(maps[0].max()) or 1.0
            print(f"{target}: cam, {method}: {float((maps[0] - maps[1]).abs().max()) / scale:.1e} of its largest value")
        name = "layer3" if target == "resnet18" else "blocks.5"
        with torch.no_grad(), capture(here.model, name) as a, capture(there.model, name) as b:
            here.model(one), there.model(other)
        values = a[name]
        print(f"{target}: features, {name}: {float((values - b[name].cpu()).abs().max() / values.abs().max()):.1e}")
        if target != "resnet18":
            found = [attentions_of(m.model, x, target)[0][-1].weights() for m, x in ((here, one), (there, other))]
            print(f"{target}: attention, last block: {float((found[0] - found[1]).abs().max()):.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=5)
    asked = parser.parse_args()
    device, pairs = asked.device, asked.pairs
    if device == "cpu":
        torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        files = pictures(Path(folder), asked.images)
        name = torch.cuda.get_device_name() if device.startswith("cuda") else device
        print(f"{name}, torch {torch.__version__}, {len(files)} images")
        if device != "cpu":
            compared(device, files)
        model = loaded("resnet18", device, 16)
        found = paired(lambda: predict(model, files), lambda: plain(model, files, device), device, pairs)
        print(f"predict on {len(files)} images / plain loop in batches of 16: {found}")
        found = paired(lambda: features(model, files), lambda: plain(model, files, device), device, pairs)
        print(f"features on {len(files)} images / plain loop in batches of 16: {found}")
        images = torch.cat([model.arguments(open_image(file))[0] for file in files[:8]])

        def forward() -> None:
            with torch.no_grad():
                for image in images.split(1):
                    model.model(image)

        def alone() -> None:
            for image in images.split(1):
                modelprobe.cam(model.model, image)

        print(f"cam of 8 images, each alone / 8 forward passes: {paired(alone, forward, device, pairs)}")
        found = paired(lambda: modelprobe.cam(model.model, images), forward, device, pairs)
        print(f"cam of 8 images in a batch / 8 forward passes: {found}")


if __name__ == "__main__":
    main()
