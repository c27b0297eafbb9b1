"""What does `features` cost beside a plain forward pass? `python -m tests.benchmarks.features [--pairs N]`.

Both open the same picture, prepare it and run the model without gradients. `features` then captures ten layers and
measures them; what it draws and writes is timed apart. Ratios of processor time of alternating runs on one thread:
median and range.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from modelprobe.files.directory import open_folder
from modelprobe.model.build import TargetRequest
from modelprobe.vision.features.run import FeatureRun, FeaturesOptions
from modelprobe.vision.image_model import ImageModelRequest, load_image_model
from modelprobe.vision.images import open_image
from modelprobe.vision.walk import ImagePlace, Shown
from tests.samples import ROOT

MODELS = ("resnet50", "vit_b_16", "convnext_tiny", "mobilenet_v3_small", "swin_t")
TEN = 10


def ten_layers(look: FeatureRun, spread: bool) -> list[str]:
    """Ten layers from the first to the last; without `spread` the first ten, so that the forward can end early."""
    ran = list(dict.fromkeys(path for path, call, _ in look.survey(shown_photo(look).arguments)[0] if call == 1))
    if not spread:
        return ran[:TEN]
    return [ran[round(i * (len(ran) - 1) / (TEN - 1))] for i in range(TEN)]


def photo():
    """The sample picture, opened anew as both do."""
    return open_image(ROOT / "samples" / "shapes.png")


def shown_photo(look: FeatureRun) -> Shown:
    """The sample picture on its way."""
    opened = photo()
    seen = look.model.preprocessing.seen(opened)
    return Shown("shapes.png", opened, seen, look.model.arguments(opened, seen))


def seconds(function: Callable[[], object]) -> float:
    """Processor time of one run, on one thread: what else the machine does counts little."""
    start = time.process_time()
    function()
    return time.process_time() - start


def ratios(first: Callable[[], object], second: Callable[[], object], pairs: int) -> list[float]:
    """Of alternating runs, each the best of three: what it takes when nothing else disturbs it."""
    first(), second()
    return [
        min(seconds(first) for _ in range(3)) / min(seconds(second) for _ in range(3)) for _ in range(pairs)
    ]  # fmt: skip


def shown(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.3f} x ({min(values):.3f} to {max(values):.3f})"


def measure(name: str, pairs: int) -> None:
    """The lines of one model."""
    request = ImageModelRequest(TargetRequest(f"torchvision:{name}", weights="random"))
    model = load_image_model(request)
    every = [path for path, _ in model.model.named_modules() if path]
    for spread, label in ((True, "ten layers, the last among them"), (False, "the first ten layers")):
        layers = ten_layers(FeatureRun(model, every, (), FeaturesOptions(request)), spread)
        look = FeatureRun(model, layers, (), FeaturesOptions(request))

        def plain() -> None:
            with torch.no_grad():
                model.model(*model.preprocessing.arguments(photo()))

        def features(look: FeatureRun = look) -> None:
            one = shown_photo(look)
            look.keep(one, look.look([one])[0], ImagePlace(None, "", ""))

        print(f"{name:<20} {label:<34} {shown(ratios(features, plain, pairs)):<30} at most 1.10", flush=True)
    with tempfile.TemporaryDirectory() as place:
        to = ImagePlace(open_folder(Path(place) / "out", {}), "shapes", "")
        one = shown_photo(look)
        found = look.look([one])[0]
        measured = seconds(lambda: look.keep(one, found, ImagePlace(None, "", "")))
        drawing = seconds(lambda: look.keep(one, found, to)) - measured
    print(f"{name:<20} {'drawing and writing ten layers':<34} {drawing * 1000:.0f} ms", flush=True)


def main() -> None:
    """Print every figure with its bar."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.features", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="how many pairs of runs (default 7)")
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    print(f"{'model':<20} {'features / plain forward':<34} {'median (range)':<30} bar")
    for name in MODELS:
        measure(name, pairs)


if __name__ == "__main__":
    main()
