"""CPU seconds of the whole process `modelprobe flops X`, before and after a change: ratios of runs made in turn.

`python -m tests.benchmarks.imports --before DIR` takes the older package from DIR, a checkout of it. Every network is
counted by both, pair by pair, and both have to print the same numbers as JSON. Without `--before` only
`flops resnet50` is timed, against the import of torch and torchvision.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.processes import modelprobe, python, spread

NETWORKS = (
    *"resnet50 resnet18 vit_b_16 swin_t convnext_tiny efficientnet_b0 mobilenet_v2 mobilenet_v3_small".split(),
    *"densenet121 regnet_y_400mf shufflenet_v2_x1_0 squeezenet1_1 vgg16 googlenet deeplabv3_resnet50".split(),
    *(
        f"timm:{name}"
        for name in (
            "resnet18 resnet50d vit_tiny_patch16_224 deit3_small_patch16_224 swin_tiny_patch4_window7_224 "
            "convnext_atto efficientnet_b0 mobilenetv3_small_100 mobilevit_xxs maxvit_rmlp_nano_rw_256 "
            "regnety_002 mixer_b16_224 levit_128s ghostnet_100 eva02_tiny_patch14_224"
        ).split()
    ),
)


def cpu_seconds(command: list[str], package: Path) -> tuple[float, bytes]:
    """What a process used, with modelprobe from `package`, and what it printed."""
    place = {**os.environ, "PYTHONPATH": str(package)}
    with subprocess.Popen(
        command, env=place, cwd=package, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, printed


def numbers(value: Any) -> list[Any]:
    """Everything in a JSON document but its texts, in order."""
    if isinstance(value, (dict, list)):
        return [item for part in (value.values() if isinstance(value, dict) else value) for item in numbers(part)]
    return [] if isinstance(value, str) else [value]


def compare(network: str, before: Path, after: Path, pairs: int) -> list[float]:
    """CPU seconds after / before, one ratio per pair. Raises SystemExit when the two print different numbers."""
    command, ratios = modelprobe("flops", network, "--format", "json"), []
    for _ in range(pairs):
        (old, expected), (new, printed) = cpu_seconds(command, before), cpu_seconds(command, after)
        if numbers(json.loads(printed)) != numbers(json.loads(expected)):
            raise SystemExit(f"{network}: the two print different numbers")
        ratios.append(new / old)
    return ratios


def main() -> None:
    """Print a ratio per network, and what they come to."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.imports", description=__doc__)
    parser.add_argument("--before", type=Path, help="a directory that holds the older modelprobe/")
    parser.add_argument("--pairs", type=int, default=3, help="how many pairs of runs (default 3)")
    parser.add_argument("networks", nargs="*", default=NETWORKS, help="default: 15 of torchvision, 15 of timm")
    options = parser.parse_args()
    here, medians = Path(__file__).parents[2], []
    for network in options.networks if options.before else ():
        ratios = compare(network, options.before, here, options.pairs)
        medians.append(statistics.median(ratios))
        print(f"{network:<50} {spread(ratios)}", flush=True)
    if medians:
        print(f"{len(medians)} networks: median {statistics.median(medians):.2f}, largest {max(medians):.2f}")
    imports = [
        cpu_seconds(modelprobe("flops", "resnet50"), here)[0]
        / cpu_seconds(python("import torch, torchvision"), here)[0]
        for _ in range(options.pairs)
    ]
    print(f"{'flops resnet50 / import torch, torchvision':<50} {spread(imports)}")


if __name__ == "__main__":
    sys.exit(main())
