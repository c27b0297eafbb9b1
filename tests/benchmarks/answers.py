"""What an answer costs that is there already, as whole processes against `import typer, rich`, pair by pair.

    python -m tests.benchmarks.answers [--pairs N]

The first rows are command lines that were answered before; the next ask something else of a run that is kept; the last
two need no run at all.
"""

from __future__ import annotations

import argparse
import os
import tempfile

from modelprobe.files.store import Store
from tests.benchmarks.processes import compare, modelprobe, python, run, spread

ASKED_AGAIN = ("flops resnet50", "summary swin_t", "memory vit_b_16")
ASKED_OTHERWISE = ("flops resnet50 --by operator", "summary swin_t --depth 1")
WITHOUT_A_RUN = {"models": "at most 3", "--help": "at most 2.5"}


def main() -> None:
    """Print a row for each command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=11)
    pairs = parser.parse_args().pairs
    reference = python("import typer, rich")
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MODELPROBE_STORE": "1", "MODELPROBE_CACHE_DIR": folder}
        for line in ASKED_AGAIN:
            run(modelprobe(*line.split()))
            _print(line, spread(compare(modelprobe(*line.split()), reference, pairs).ratios("cpu")), "at most 2")
        for line in ASKED_OTHERWISE:
            found = []
            for _ in range(pairs):
                for entry in Store().entries():
                    if entry.about["what"] == "answer":  # the text; the run stays
                        entry.path.unlink()
                found.append(run(modelprobe(*line.split())).cpu / run(reference).cpu)
            _print(line, spread(found), "")
        for line, bar in WITHOUT_A_RUN.items():
            _print(line, spread(compare(modelprobe(*line.split()), reference, pairs).ratios("cpu")), bar)


def _print(line: str, found: str, bar: str) -> None:
    print(f"{line + ' / import typer, rich: CPU':<58} {found:<28} {bar}", flush=True)


if __name__ == "__main__":
    main()
