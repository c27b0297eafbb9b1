"""Times of networks on this GPU, for `profile --fit`: `python -m tests.benchmarks.times_device OUT.csv [S] [NAME …]`.

Inference under autocast to float16, eager, images in torch's own format, as timm's authors publish theirs: the median
of passes without any hook, a row for each network. Networks are drawn with a seed, one of each family that is not too
large, until S seconds (150) are over.
"""

from __future__ import annotations

import csv
import random
import sys
import time
from pathlib import Path

import timm
import torch

from modelprobe.cost.timing.measure import timed
from modelprobe.cost.timing.passes import TimingSetting

BATCH = 64


def drawn() -> list[str]:
    """One architecture of each family."""
    families: dict[str, list[str]] = {}
    for name in timm.list_models():
        families.setdefault(str(timm.models.model_entrypoint(name).__module__), []).append(name)
    chance = random.Random(0)
    names = [chance.choice(sorted(members)) for _, members in sorted(families.items())]
    chance.shuffle(names)
    return names


def main() -> None:
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 150.0
    start = time.monotonic()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, timm {timm.__version__}, batch {BATCH}")
    with Path(sys.argv[1]).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "batch", "step_ms"))
        for name in sys.argv[3:] or drawn():
            if time.monotonic() - start > seconds:
                break
            try:
                net = timm.create_model(name)
                if sum(parameter.numel() for parameter in net.parameters()) > 4e8:
                    continue
                images = torch.rand(BATCH, *net.default_cfg["input_size"], device="cuda")
                setting = TimingSetting(amp=True)
                raw = timed(
                    net.cuda().eval(), images, kwargs={}, device="real", notes=(), env={}, seconds=0.5, setting=setting
                )
            except Exception as error:  # noqa: BLE001 - a network that failed is a row less
                print(f"{name} {type(error).__name__}: {str(error)[:100]}", flush=True)
                continue
            finally:
                torch.cuda.empty_cache()
            median = sorted(raw.samples_s)[len(raw.samples_s) // 2]
            writer.writerow((name, BATCH, f"{1000 * median:.4f}"))
            file.flush()
            print(f"{name:40} {1000 * median:9.3f} ms", flush=True)


if __name__ == "__main__":
    main()
