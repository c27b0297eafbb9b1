"""The time of a forward pass on a GPU that is not here, predicted from the recorded operators alone."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from modelprobe.cost.rollup import input_texts, model_name
from modelprobe.cost.timing.kernels import KERNEL_KINDS, GpuKernel, kernels_of
from modelprobe.cost.timing.rates import DeviceRates, KernelTable, kernel_table, seconds_by_kernel, shared_form, shipped
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.records import Trace

WIDEST_INTERVAL = (0.5, 2.0)
"""The factors of an interval for constants of which no errors are known."""

SENSIBLE = {"launch_s": (1e-7, 1e-2)}
"""Constant -> between which values it may lie; the others are rates per second, between `RATES`."""

RATES = (1e8, 1e17)
SLOWEST = 12
"""Modules that are listed."""


@dataclass(frozen=True, slots=True)
class PredictedDevice:
    """A device as predictions know it. `interval` are factors on a prediction between which 80 % of times lie."""

    name: str
    rates: DeviceRates
    interval: tuple[float, float]
    batches: tuple[int, int] | None
    measured: str


@dataclass(frozen=True, slots=True)
class KernelShare:
    """The kernels of one kind, or of one module: how many launches, and their predicted seconds."""

    name: str
    launches: int
    seconds: float
    share: float


@dataclass(frozen=True, slots=True)
class PredictionResult(Result):
    """Predicted seconds of one forward pass of the whole batch. `interval_s` holds the time in 80 % of cases.

    The setting is that of the measurements behind the constants: `amp` is autocast to float16, eager mode, NCHW.
    """

    model: str
    inputs: tuple[str, ...]
    device: str
    batch: int
    predicted_s: float
    interval_s: tuple[float, float]
    per_second: float
    launches: int
    launch_share: float
    kinds: tuple[KernelShare, ...]
    modules: tuple[KernelShare, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The prediction and its interval, then what takes the time."""
        low, high = self.interval_s
        facts = (
            Fact("Input", ", ".join(self.inputs) or "none"),
            Fact("Predicted", self.predicted_s, Unit.SECONDS, f"for the batch of {self.batch:,}; not measured"),
            Fact("80 % interval", f"{low * 1e3:.3g} to {high * 1e3:.3g} ms"),
            Fact("Throughput", self.per_second, Unit.NUMBER, "examples per second"),
            Fact("Kernels", self.launches, Unit.COUNT, f"their launches are {self.launch_share:.0%} of the time"),
        )
        where = "where" if len(self.modules) < SLOWEST else f"where, the {SLOWEST} slowest"
        return self.blocks_report(
            f"{self.model}: predicted time on {self.device}", "modelprobe.prediction/1", Facts(facts),
            _shares("Kernels", "what takes the time", "kind_rows", self.kinds),
            _shares("Module", where, "module_rows", self.modules), *self.notes,
        )  # fmt: skip


def _shares(title: str, caption: str, key: str, shares: tuple[KernelShare, ...]) -> Table:
    columns = (
        Column("name", title),
        Column("launches", "Launches", Unit.COUNT),
        Column("seconds", "Time", Unit.SECONDS),
        Column("share", "Share", Unit.SHARE, bar=True),
    )
    rows = tuple(Row((one.name, one.launches, one.seconds, one.share)) for one in shares)
    return Table(columns, rows, caption, key=key)


def known_devices() -> tuple[str, ...]:
    """Names of the devices that constants are shipped for."""
    return tuple(shipped()["devices"])


def find_device(name: str) -> PredictedDevice:
    """The device of that name. Raises BadInput for another, with the nearest."""
    known = shipped()["devices"]
    if name.lower() not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BadInput(
            f"no constants are known for the device {name!r}",
            f"{hint}known are {', '.join(known)}; --device-spec FILE gives others",
        )
    return _device(name.lower(), known[name.lower()])


def read_device(path: Path) -> PredictedDevice:
    """A device from a JSON file with the eight constants of `DeviceRates`, and perhaps `interval`. Raises BadInput."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"--device-spec {path} cannot be read: {error}", "a JSON object of eight constants") from error
    if not isinstance(values, dict):
        raise BadInput(f"--device-spec {path} holds no object", "a JSON object of eight constants")
    for one in fields(DeviceRates):
        value = values.get(one.name)
        low, high = sensible_range(one.name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            said = "is missing" if value is None else f"is {value!r}"
            raise BadInput(f"--device-spec {path}: {one.name} {said}", f"a number from {low:g} to {high:g}")
    factors, batches = values.get("interval", WIDEST_INTERVAL), values.get("batches", (1, 1))
    if not _are_two(factors) or not 0 < factors[0] <= 1 <= factors[1] <= 100:
        raise BadInput(f"--device-spec {path}: interval is {factors!r}", "two factors around 1, such as [0.8, 1.25]")
    if not _are_two(batches) or not 1 <= batches[0] <= batches[1]:
        raise BadInput(f"--device-spec {path}: batches is {batches!r}", "smallest and largest, such as [1, 256]")
    return _device(path.stem, values)


def sensible_range(constant: str) -> tuple[float, float]:
    """Between which values a constant of a device may lie."""
    return SENSIBLE.get(constant, RATES)


def _are_two(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(type(one) in (int, float) for one in value)


def _device(name: str, values: Mapping[str, Any]) -> PredictedDevice:
    rates = DeviceRates(*(float(values[one.name]) for one in fields(DeviceRates)))
    low, high = values.get("interval", WIDEST_INTERVAL)
    batches = values.get("batches")
    return PredictedDevice(
        name, rates, (float(low), float(high)), (batches[0], batches[1]) if batches else None,
        str(values.get("measured", "constants of one's own")),
    )  # fmt: skip


def predict_time(trace: Trace, device: PredictedDevice) -> PredictionResult:
    """The time of the recorded forward on that device, under autocast to float16, in eager mode."""
    kernels = kernels_of(trace)
    table = kernel_table(kernels)
    seconds = seconds_by_kernel(table, device.rates, shared_form())
    by_row = {(int(table.kind[at]), *_columns_at(table, at)): float(seconds[at]) for at in range(len(table.count))}
    each = [by_row[_key_of(kernel)] for kernel in kernels]
    total = math.fsum(each)
    batch = _batch_of(trace)
    low, high = device.interval
    return PredictionResult(
        model_name(trace), input_texts(trace), device.name, batch, total, (total * low, total * high),
        batch / total if total else 0.0, len(kernels),
        len(kernels) * device.rates.launch_s / total if total else 0.0,
        _shares_by([KERNEL_KINDS[kernel.kind] for kernel in kernels], each, total),
        _shares_by([trace.ops[kernel.op].module or trace.tree.cls for kernel in kernels], each, total)[:SLOWEST],
        (*trace.notes, *_setting_notes(device, batch), *_unfitted_notes(trace)), trace.env,
    )  # fmt: skip


def _key_of(kernel: GpuKernel) -> tuple[float, ...]:
    return (kernel.kind, *(float(getattr(kernel, name)) for name in _ROW))


def _columns_at(table: KernelTable, at: int) -> tuple[float, ...]:
    return tuple(float(getattr(table, name)[at]) for name in _ROW)


_ROW = ("macs", "nbytes", "rows", "columns", "depth", "groups", "window", "transposed")


def _shares_by(names: list[str], seconds: list[float], total: float) -> tuple[KernelShare, ...]:
    found: dict[str, list[float]] = {}
    for name, one in zip(names, seconds, strict=True):
        found.setdefault(name, []).append(one)
    sums = {name: math.fsum(all_of) for name, all_of in found.items()}
    shares = [KernelShare(name, len(found[name]), one, one / total) for name, one in sums.items()]
    return tuple(sorted(shares, key=lambda share: -share.seconds))


def _batch_of(trace: Trace) -> int:
    return next((ref.shape[0] for ref in trace.inputs if len(ref.shape) > 1), 1)


def _unfitted_notes(trace: Trace) -> list[Note]:
    """What no network was like among those whose times the constants come from."""
    if not any(op.kind == "rnn" for op in trace.ops):
        return []
    text = (
        "No recurrent network was among those fitted: the time of its steps, one after the other, is not in the "
        "prediction, which may be far too short."
    )
    return [Note(text, Level.WARNING)]


def _setting_notes(device: PredictedDevice, batch: int) -> list[Note]:
    notes = [
        Note(
            f"A prediction, not a measurement: inference under autocast to float16, eager mode, NCHW "
            f"({device.measured}).",
            Level.INFO,
        )
    ]
    if device.batches and batch < device.batches[0]:
        notes.append(
            Note(
                f"The constants come from batches of {device.batches[0]:,} and more; at {batch:,} the time depends on "
                "the processor that launches the kernels.",
                Level.WARNING,
            )
        )
    return notes
