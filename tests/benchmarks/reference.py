"""How many published figures does the fvcore convention reproduce? `python -m tests.benchmarks.reference FILE.csv`.

The file has the columns model, img_size, param_count_m, gmacs_fvcore and mactivations. Rows that differ are listed.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    """A row of the file beside what was counted: billions of multiply-accumulates, millions of activations."""

    model: str
    size: str
    published: tuple[float, float, float]
    counted: tuple[float, float, float]
    fused: bool
    error: str = ""


def measure(row: dict[str, str]) -> Outcome:
    """One row, as published: models that can be re-parameterised are counted after it when that is what fits."""
    published = (float(row["param_count_m"]), float(row["gmacs_fvcore"]), float(row["mactivations"]))
    best: Outcome | None = None
    for fused in (False, True):
        try:
            counted = _counted(row["model"], row["img_size"], fused)
        except Exception as error:  # noqa: BLE001 - a row that fails is listed as such
            outcome = Outcome(
                row["model"], row["img_size"], published, (0, 0, 0), fused, f"{type(error).__name__}: {error}"
            )
        else:
            outcome = Outcome(row["model"], row["img_size"], published, counted, fused)
        # The parameter count tells whether a row was measured after fusing.
        if best is None or (not outcome.error and outcome.counted[0] == published[0]):
            best = outcome
        if best.counted[0] == published[0]:
            return best
    assert best is not None
    return best


def _counted(model: str, size: str, fused: bool) -> tuple[float, float, float]:
    from modelprobe.cost.conventions import count
    from modelprobe.model.build import TargetRequest, fuse_model, load_model, record

    loaded = load_model(TargetRequest(f"timm:{model}", inputs=(f"3x{size}x{size}",)))
    trace = record(fuse_model(loaded) if fused else loaded)
    found = count(trace, "fvcore")
    return (
        round(trace.tree.parameter_count() / 1e6, 2),
        round(found.total / 1e9, 2),
        round(found.activations / 1e6, 2),
    )


def rows(path: Path, every: int, only: str) -> list[dict[str, str]]:
    """The rows of the file, every n-th, those whose model starts with `only`."""
    with path.open(encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if row["model"].startswith(only)][::every]


def outcomes(wanted: list[dict[str, str]], processes: int) -> Iterator[Outcome]:
    """The rows measured, in order."""
    if processes == 1:
        yield from map(measure, wanted)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(measure, wanted, chunksize=4)


def main() -> None:
    """Print the rows that differ and the shares that agree."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.reference", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th row only")
    parser.add_argument("--only", default="", help="take models whose names start like this only")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    wanted, start = rows(given.file, given.every, given.only), time.perf_counter()
    macs = activations = fused = 0
    for found in outcomes(wanted, given.processes):
        same = [ours == theirs for ours, theirs in zip(found.counted, found.published, strict=True)]
        macs, activations, fused = macs + same[1], activations + same[2], fused + found.fused
        if not (same[1] and same[2]):
            print(_line(found), flush=True)
    total, seconds = len(wanted), time.perf_counter() - start
    print(f"GMACs        {macs} of {total} rows ({macs / total:.2%})")
    print(f"activations  {activations} of {total} rows ({activations / total:.2%})")
    print(f"{fused} rows counted after fusing; {seconds:.0f} s")


def _line(found: Outcome) -> str:
    if found.error:
        return f"{found.model:<44} {found.size:>4} {found.error}"
    pairs = zip(("params", "GMACs", "activations"), found.counted, found.published, strict=True)
    told = [f"{name} {ours} for {theirs} ({ours - theirs:+.2f})" for name, ours, theirs in pairs if ours != theirs]
    return f"{found.model:<44} {found.size:>4} {'fused ' if found.fused else ''}{'; '.join(told)}"


if __name__ == "__main__":
    main()
