"""How well times on GPUs are predicted: `python -m tests.benchmarks.prediction TABLE.csv [--seeds N] [--write]`.

The table has the columns device, model, img_size, batch and step_ms, as timm's authors publish them for amp, NCHW and
eager mode. Everything that is fitted, the form that devices share included, is fitted on half of the families and
judged on the other half, for several splits. Intervals are judged alike: their width comes from splits of the half
that was fitted. `--write` then fits on all rows and writes the constants that the package ships. Recording all models
takes some ten minutes; `--cache FILE` keeps what was recorded.
"""

from __future__ import annotations

import argparse
import csv
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from modelprobe.cost.timing.fit import TimedRow, fit_devices, log_errors
from modelprobe.cost.timing.kernels import kernels_of
from modelprobe.cost.timing.rates import CONSTANTS_FILE, KernelTable, kernel_table
from modelprobe.model.build import TargetRequest, fuse_model, load_model, record
from modelprobe.model.zoo.libraries import timm

RECORDED_BATCH = 128
NEWER = ("rtx5090", "pro6000")
"""Devices that were measured with the release of timm that re-parameterises models before it measures them."""
REPARAMETERISED = ("fastvit", "repvit", "repvgg", "mobileone", "ghostnetv3", "levit")
LOW, HIGH = 0.1, 0.9


def family(model: str) -> str:
    """The file of timm that a model stands in."""
    return str(timm().models.model_entrypoint(model).__module__.rpartition(".")[2])


def recorded_rows(path: Path, cache: Path | None) -> list[TimedRow]:
    """Every row of the table with the kernels of its model."""
    known: dict[Any, KernelTable] = pickle.loads(cache.read_bytes()) if cache and cache.is_file() else {}
    found = []
    with path.open() as file:
        for row in csv.DictReader(file):
            fused = row["device"] in NEWER and row["model"].startswith(REPARAMETERISED)
            key = (row["model"], row["img_size"], fused)
            if key not in known:
                known[key] = _kernels(*key)
            batch = int(row["batch"])
            table = known[key].grown(batch / RECORDED_BATCH)
            found.append(TimedRow(row["device"], row["model"], table, batch, float(row["step_ms"]) / 1e3))
    if cache:
        cache.write_bytes(pickle.dumps(known))
    return found


def _kernels(model: str, side: str, fused: bool) -> KernelTable:
    request = TargetRequest(f"timm:{model}", inputs=(side,), batch=RECORDED_BATCH, device="cpu" if fused else None)
    loaded = load_model(request)
    if fused:
        from dataclasses import replace

        whole = fuse_model(loaded)
        loaded = replace(whole, model=whole.model.to("meta"), env={**whole.env, "device": "meta"})
    return kernel_table(kernels_of(record(loaded)))


def held_out(rows: Sequence[TimedRow], families: Mapping[str, str], seed: int) -> tuple[Any, Any, Any]:
    """Log errors of the half of the families that a fit on the other half did not see; which rows; their device."""
    names = sorted({families[row.model] for row in rows})
    seen = set(np.random.default_rng(seed).permutation(names)[: len(names) // 2])
    known = np.array([families[row.model] in seen for row in rows])
    rates, form = fit_devices([row for row, is_known in zip(rows, known, strict=True) if is_known])
    rest = [row for row, is_known in zip(rows, known, strict=True) if not is_known]
    return log_errors(rest, rates, form), known, np.array([row.device for row in rest])


def spreads(rows: Sequence[TimedRow], families: Mapping[str, str], seeds: Iterable[int]) -> dict[str, list[float]]:
    """By device, the factors on a prediction between which 80 % of the times of unseen families lie."""
    collected: dict[str, list[Any]] = {}
    for seed in seeds:
        errors, _, devices = held_out(rows, families, seed)
        for device in set(devices):
            collected.setdefault(device, []).append(errors[devices == device])
    return {
        device: [float(np.exp(-np.quantile(np.concatenate(parts), share))) for share in (HIGH, LOW)]
        for device, parts in collected.items()
    }


def judged(
    rows: Sequence[TimedRow], families: Mapping[str, str], seed: int, inner: int
) -> dict[str, tuple[float, ...]]:
    """Median error, 90th percentile, rank correlation and coverage of the interval by device, on unseen families."""
    errors, known, devices = held_out(rows, families, seed)
    rest = [row for row, is_known in zip(rows, known, strict=True) if not is_known]
    widths = spreads(
        [r for r, is_known in zip(rows, known, strict=True) if is_known], families, range(100, 100 + inner)
    )
    result = {}
    for device in sorted(set(devices)):
        mine = devices == device
        per_image = np.log([row.seconds / row.batch for row in rest])[mine]
        away = np.abs(np.exp(errors[mine]) - 1)
        low, high = widths[device]
        inside = (errors[mine] <= -np.log(low)) & (errors[mine] >= -np.log(high))
        result[device] = (
            float(np.median(away)), float(np.quantile(away, 0.9)),
            _rank_correlation(per_image + errors[mine], per_image), float(inside.mean()),
        )  # fmt: skip
    return result


def _rank_correlation(first: Any, second: Any) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def write(rows: Sequence[TimedRow], widths: Mapping[str, list[float]]) -> None:
    """Fit on all rows and write the file that the package ships."""
    rates, form = fit_devices(rows)
    told: dict[str, Any] = {}
    for name, found in rates.items():
        batches = [row.batch for row in rows if row.device == name]
        told[name] = {
            **{key: float(f"{value:.4g}") for key, value in asdict(found).items()},
            "interval": [round(factor, 3) for factor in widths[name]],
            "batches": [min(batches), max(batches)],
            "measured": f"timm's tables, torch {'2.9' if name in NEWER else '2.4'}, amp, NCHW, eager",
        }
    content = {"form": {key: float(f"{value:.4g}") for key, value in asdict(form).items()}, "devices": told}
    CONSTANTS_FILE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Print the figures of every split, and their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--inner", type=int, default=2, help="splits inside the fitted half, for the interval")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    rows = recorded_rows(asked.table, asked.cache)
    families = {row.model: family(row.model) for row in rows}
    print(f"{len(rows)} rows, {len(families)} models, {len(set(families.values()))} families")
    collected: dict[str, list[tuple[float, ...]]] = {}
    for seed in range(asked.seeds):
        for device, found in judged(rows, families, seed, asked.inner).items():
            collected.setdefault(device, []).append(found)
            print(f"split {seed} {device:<8}", _told(found), flush=True)
    for device, figures in collected.items():
        print(f"mean    {device:<8}", _told(np.mean(figures, axis=0)))
    if asked.write:
        write(rows, spreads(rows, families, range(6)))


def _told(found: Sequence[float]) -> str:
    return f"median {found[0]:.1%}  p90 {found[1]:.1%}  rank {found[2]:.4f}  in the 80 % interval {found[3]:.1%}"


if __name__ == "__main__":
    main()
