"""The figures that modelprobe is held to, printed as ratios: `python -m tests.benchmarks [--pairs N]`.

Each is timed against a reference in the same run. Nothing here is a test: machines are noisy, and a person judges.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

from tests.benchmarks.processes import MIB, Comparison, compare, median_of, modelprobe, python, run, spread

RECORDED = ("resnet50", "vit_b_16", "swin_t", "efficientnet_b0", "timm:maxvit_large_tf_224")


def line(name: str, found: str, bar: str) -> str:
    """One row of the printed table."""
    return f"{name:<58} {found:<28} {bar}"


def whole_process(pairs: int) -> Iterator[str]:
    """`modelprobe flops resnet50` against importing what it cannot do without."""
    found = compare(modelprobe("flops", "resnet50"), python("import torch, torchvision"), pairs)
    yield line("flops resnet50 / import torch, torchvision: wall", spread(found.ratios("wall")), "at most 1.10")
    yield line("flops resnet50 / import torch, torchvision: CPU", spread(found.ratios("cpu")), "at most 0.68")
    yield line("flops resnet50 above import torch, torchvision: peak", f"{found.extra_memory:+.0f} MiB", "at most +120")
    found = compare(modelprobe("flops", "resnet50"), python("import torch"), pairs)
    yield line("flops resnet50 / import torch: wall", spread(found.ratios("wall")), "")


def help_text(pairs: int) -> Iterator[str]:
    """`modelprobe --help` against the libraries that print it."""
    found: Comparison = compare(modelprobe("--help"), python("import typer, rich"), pairs)
    yield line("--help / import typer, rich: wall", spread(found.ratios("wall")), "at most 2.5")
    code = "import sys; from modelprobe.cli.app import main; main(['--help']); sys.exit('torch' in sys.modules)"
    run(python(code))
    yield line("--help imports torch", "no", "no")


def giant() -> Iterator[str]:
    """A model of 1.9 billion parameters, counted without its weights."""
    peaks = [run(modelprobe("flops", "timm:vit_giant_patch14_dinov2", "--input", "224")) for _ in range(3)]
    yield line("vit_giant_patch14_dinov2 (1.1 B): peak", f"{median_of(peaks, 'peak') / MIB:.0f} MiB", "under 1229")
    peaks = [run(modelprobe("flops", "timm:vit_gigantic_patch14_224")) for _ in range(3)]
    yield line("vit_gigantic_patch14_224 (1.8 B): peak", f"{median_of(peaks, 'peak') / MIB:.0f} MiB", "under 1229")


def recording(pairs: int) -> Iterator[str]:
    """Recording against a plain forward of the same model on meta, in turn in one process."""
    import torch

    from modelprobe.model.build import TargetRequest, load_model
    from modelprobe.model.inputs.example import make_inputs
    from modelprobe.tracing.recorder import trace

    for name in RECORDED:
        loaded = load_model(TargetRequest(name))
        model = loaded.model.eval()
        args, _ = make_inputs(loaded.target, model=model).build("meta")

        def plain(model: torch.nn.Module = model, args: tuple[object, ...] = args) -> None:
            with torch.no_grad():
                model(*args)

        def recorded(model: torch.nn.Module = model, args: tuple[object, ...] = args) -> None:
            trace(model, *args)

        ratios = _in_turn(recorded, plain, pairs)
        yield line(f"recording {name} / plain meta forward", spread(ratios), "at most 2")


def _in_turn(first: Callable[[], None], second: Callable[[], None], pairs: int) -> list[float]:
    first(), second()
    return [_seconds(first) / _seconds(second) for _ in range(pairs)]


def _seconds(function: Callable[[], None]) -> float:
    """The best of three: what the function takes when nothing else disturbs it."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print every figure with its bar."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="how many pairs of runs (default 7)")
    pairs = parser.parse_args().pairs
    print(line("figure", "median (range)", "bar"))
    for part in (help_text(pairs), whole_process(pairs), recording(pairs), giant()):
        for row in part:
            print(row, flush=True)


if __name__ == "__main__":
    main()
