"""The constants of a device of one's own, fitted to times that were measured on it: `profile --fit DEVICE.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from modelprobe.console import progress, stdout_kept
from modelprobe.cost.timing.fit import TimedRow, fit_devices, log_errors
from modelprobe.cost.timing.kernels import kernels_of
from modelprobe.cost.timing.predict import sensible_range
from modelprobe.cost.timing.rates import DeviceRates, kernel_table, shared_form
from modelprobe.environment import brief
from modelprobe.errors import BadInput, ProbeError
from modelprobe.model.build import TargetRequest, load_model, record
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

COLUMNS = "model, batch, step_ms (or median_s), and perhaps input"
LEAST_ROWS = 8
"""As many as there are constants."""

LONGEST_STEP = 3600.0
SPLITS = 5
SLIGHT = 0.02
"""Change of a prediction, as a share, when a constant is halved: below it in every row the rows do not tell it."""


@dataclass(frozen=True, slots=True)
class FittedDevice(Result):
    """Constants of a device as `--device-spec` reads them, and how well they predict rows that were left out.

    Seconds of a launch, bytes and multiply-accumulates per second. `interval` are factors on a prediction between which
    80 % of the times of left out rows lie, `errors` their median and 90th percentile.
    """

    device: str
    launch_s: float
    bytes_per_s: float
    reduction_bytes_per_s: float
    convolution_macs_per_s: float
    grouped_macs_per_s: float
    matmul_macs_per_s: float
    attention_macs_per_s: float
    core_macs_per_s: float
    interval: tuple[float, float]
    batches: tuple[int, int]
    measured: str
    rows: int
    errors: tuple[float, float]
    undetermined: tuple[str, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """How well it predicts, then the constants."""
        low, high = self.interval
        facts = (
            Fact("Rows", self.rows, Unit.COUNT, f"batches of {self.batches[0]:,} to {self.batches[1]:,}"),
            Fact("Error", f"{self.errors[0]:.1%}", detail=f"median, of rows left out; p90 {self.errors[1]:.1%}"),
            Fact("80 % interval", f"{low:.2f} to {high:.2f}", detail="times a prediction"),
        )
        rates = [(name, getattr(self, name)) for name in DeviceRates.__dataclass_fields__]
        columns = (Column("constant", "Constant"), Column("value", "Value", Unit.QUANTITY), Column("per", "Unit"))
        rows = tuple(
            Row((name, value * 1e6 if name == "launch_s" else value, "µs" if name == "launch_s" else
                 "bytes/s" if "bytes" in name else "MACs/s"))
            for name, value in rates
        )  # fmt: skip
        title = f"{self.device}: constants fitted to {self.rows} measured times"
        return self.blocks_report(title, "modelprobe.device/1", Facts(facts), Table(columns, rows), *self.notes)


@stdout_kept()
def fit_device(path: Path) -> FittedDevice:
    """The constants of the device that the rows of a CSV file were measured on. Raises BadInput, naming the line."""
    told = list(_rows_of(path))
    if len(told) < LEAST_ROWS:
        raise BadInput(
            f"--fit {path} has {len(told)} times, and eight constants are to be found",
            f"give {LEAST_ROWS} rows or more",
        )
    with progress("recording", len(told)) as done:
        rows = []
        for line, request, seconds in told:
            rows.append(_timed(path, line, request, seconds))
            done()
    form = shared_form()
    rates = fit_devices(rows, form=form)[0][path.stem]
    away = _left_out(rows, path.stem)
    undetermined = _undetermined(rows, rates)
    batches = [row.batch for row in rows]
    return FittedDevice(
        path.stem, **{name: float(f"{value:.4g}") for name, value in asdict(rates).items()},
        interval=(_factor(max(np.quantile(away, 0.9), 0.01)), _factor(min(np.quantile(away, 0.1), -0.01))),
        batches=(min(batches), max(batches)), measured=f"fitted to {len(rows)} times of {path.name}", rows=len(rows),
        errors=(float(np.median(np.abs(np.expm1(away)))), float(np.quantile(np.abs(np.expm1(away)), 0.9))),
        undetermined=undetermined, notes=tuple(_doubts_of_fit(rates, undetermined)), env=brief(),
    )  # fmt: skip


def _factor(log_error: float) -> float:
    """On a prediction, what makes up for an error."""
    return round(float(np.exp(-log_error)), 3)


def _rows_of(path: Path) -> Iterator[tuple[int, TargetRequest, float]]:
    """Line, what was run, and its seconds."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            found = [(number, row) for number, row in enumerate(csv.DictReader(file), 2)]
    except (OSError, ValueError, csv.Error) as error:
        raise BadInput(f"--fit {path} cannot be read: {error}", f"a CSV file with the columns {COLUMNS}") from error
    header = set(found[0][1]) if found else set()
    time = next((name for name in ("median_s", "step_ms") if name in header), "")
    if not {"model", "batch"} <= header or not time:
        raise BadInput(f"--fit {path} lacks a column, or rows", f"a CSV file with the columns {COLUMNS}")
    if len(devices := {row["device"] for _, row in found if row.get("device")}) > 1:
        raise BadInput(f"--fit {path} has times of {len(devices)} devices", "keep the rows of one")
    for line, row in found:
        batch, seconds = str(row["batch"] or ""), _number_in(row[time]) / (1e3 if time == "step_ms" else 1)
        if not row["model"] or not batch.isdigit() or int(batch) < 1:
            raise BadInput(f"--fit {path}, line {line}: no model, or a batch that is none", f"the columns {COLUMNS}")
        if not 0 < seconds < LONGEST_STEP:
            raise BadInput(f"--fit {path}, line {line}: {time} {row[time]!r} is no time", "a number above 0")
        given = (row["input"],) if row.get("input") else ()
        yield line, TargetRequest(row["model"], inputs=given, batch=int(batch)), seconds


def _number_in(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return -1.0


def _timed(path: Path, line: int, request: TargetRequest, seconds: float) -> TimedRow:
    try:
        table = kernel_table(kernels_of(record(load_model(request))))
    except ProbeError as error:
        raise BadInput(f"--fit {path}, line {line}: {error.message}", error.hint) from error
    return TimedRow(path.stem, request.target, table, request.batch or 1, seconds)


def _left_out(rows: Sequence[TimedRow], device: str) -> Any:
    """Log errors of each row, predicted by a fit without it and its like: every fifth model is left out in turn."""
    models = sorted({row.model for row in rows})
    part = {model: at % SPLITS for at, model in enumerate(models)}
    found = []
    for split in range(min(SPLITS, len(models))):
        rest = [row for row in rows if part[row.model] == split]
        known = [row for row in rows if part[row.model] != split] or rest
        rates = fit_devices(known, form=shared_form())[0]
        found.append(log_errors(rest, {device: rates[device]}, shared_form()))
    return np.concatenate(found)


def _undetermined(rows: Sequence[TimedRow], rates: DeviceRates) -> tuple[str, ...]:
    """The constants on which no row depends."""
    form, device = shared_form(), rows[0].device
    plain = log_errors(rows, {device: rates}, form)
    return tuple(
        name
        for name, value in asdict(rates).items()
        if np.abs(log_errors(rows, {device: replace(rates, **{name: value / 2})}, form) - plain).max() < SLIGHT
    )


def _doubts_of_fit(rates: DeviceRates, undetermined: Sequence[str]) -> Iterator[Note]:
    if undetermined:
        text = f"No row depends on {', '.join(undetermined)}: what stands there is scaled from a GPU of 2020."
        yield Note(text, Level.WARNING)
    for name, value in asdict(rates).items():
        low, high = sensible_range(name)
        if not low <= value <= high:
            yield Note(f"{name} is {value:.3g}, which no device has: --device-spec refuses it.", Level.WARNING)
    yield Note("The times are taken to be of inference under autocast to float16, eager mode, NCHW.", Level.ASSUMED)
