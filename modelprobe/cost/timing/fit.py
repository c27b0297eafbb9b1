"""Fitting the constants of devices, and the form that they share, to published or measured times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np

from modelprobe.cost.timing.rates import DeviceRates, KernelForm, KernelTable, seconds_by_kernel

PRIOR_RATES = DeviceRates(1e-5, 1e12, 1e12, 4e13, 3e13, 4e13, 3e13, 2.5e12)
"""Where the fit of a device starts: a GPU of 2020."""

TIGHTNESS_FORM, TIGHTNESS_RATES, OUTLIER = 0.3, 0.03, 0.08
"""How strongly logarithms are held at their start, and the error (in log time) from which a row counts less."""


@dataclass(frozen=True)
class TimedRow:
    """A time of a forward of a device: its kernels for the whole batch, the batch, and the seconds."""

    device: str
    model: str
    table: KernelTable
    batch: int
    seconds: float


def fit_devices(
    rows: Sequence[TimedRow], *, form: KernelForm | None = None, steps: int = 30
) -> tuple[Mapping[str, DeviceRates], KernelForm]:
    """Constants of every device in `rows`, and the form: the given one, or fitted with them.

    Damped Gauss-Newton on the logarithms of all constants, with errors in log time that count linearly where they are
    large (Huber), so that single odd measurements do not bend the rest.
    """
    names = sorted({row.device for row in rows})
    stacks = [_Stack([row for row in rows if row.device == name]) for name in names]
    count = len(fields(DeviceRates))
    starts = [stack.start() for stack in stacks]
    free = form is None
    base = np.log(astuple(form or KernelForm()))
    start = np.concatenate([*starts, base if free else []])
    tightness = np.concatenate(
        [np.full(count * len(names), TIGHTNESS_RATES), np.full(len(base) if free else 0, TIGHTNESS_FORM)]
    )

    def errors(values: Any, only: int | None = None) -> Any:
        tail = values[count * len(names) :] if free else base
        picked = range(len(names)) if only is None else (only,)
        return np.concatenate([stacks[i].errors(values[i * count : (i + 1) * count], tail) for i in picked])

    offsets = np.cumsum([0, *(len(stack.logs) for stack in stacks)])

    def jacobian(values: Any, now: Any) -> Any:
        found = np.zeros((len(now), len(values)))
        for column in range(len(values)):
            moved = values.copy()
            moved[column] += 1e-3
            device = column // count if column < count * len(names) else None
            part = slice(None) if device is None else slice(offsets[device], offsets[device + 1])
            found[part, column] = (errors(moved, device) - now[part]) / 1e-3
        return found

    values = _least(errors, jacobian, start, tightness, steps)
    rates = {n: DeviceRates(*np.exp(values[i * count : (i + 1) * count]).tolist()) for i, n in enumerate(names)}
    return rates, KernelForm(*np.exp(values[count * len(names) :]).tolist()) if free else (form or KernelForm())


def log_errors(rows: Sequence[TimedRow], rates: Mapping[str, DeviceRates], form: KernelForm) -> Any:
    """Log of predicted over measured, by row."""
    return np.array([
        np.log((seconds_by_kernel(row.table, rates[row.device], form) * row.table.count).sum() / row.seconds)
        for row in rows
    ])  # fmt: skip


def _least(errors: Callable[[Any], Any], jacobian: Callable[..., Any], start: Any, tight: Any, steps: int) -> Any:
    def cost(error: Any, values: Any) -> float:
        size = np.abs(error)
        huber = np.where(size < OUTLIER, size**2 / 2, OUTLIER * (size - OUTLIER / 2))
        return float(huber.sum() + (tight * (values - start) ** 2).sum() / 2)

    values, damping = start.copy(), 1e-2
    now = errors(values)
    best = cost(now, values)
    for _ in range(steps):
        slopes = jacobian(values, now)
        weight = np.where(np.abs(now) < OUTLIER, 1, OUTLIER / np.maximum(np.abs(now), 1e-9))
        curvature = slopes.T @ (weight[:, None] * slopes) + np.diag(tight)
        gradient = slopes.T @ (weight * now) + tight * (values - start)
        for _ in range(6):
            step = -np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient)
            tried = values + np.clip(step, -1, 1)
            after = errors(tried)
            gain = best - cost(after, tried)
            if gain > 0:
                break
            damping *= 5
        else:
            return values
        values, now, best, damping = tried, after, best - gain, max(damping / 5, 1e-6)
        if gain < 1e-4 * best:
            break
    return values


class _Stack:
    """The kernels of all rows of a device in one table."""

    def __init__(self, rows: Sequence[TimedRow]) -> None:
        names = [f.name for f in fields(KernelTable)]
        self.table = KernelTable(**{n: np.concatenate([getattr(row.table, n) for row in rows]) for n in names})
        self.owner = np.repeat(np.arange(len(rows)), [len(row.table.count) for row in rows])
        self.logs = np.log([row.seconds for row in rows])

    def errors(self, rates: Any, form: Any) -> Any:
        """Log of predicted over measured, by row."""
        by_kernel = seconds_by_kernel(
            self.table, DeviceRates(*np.exp(rates).tolist()), KernelForm(*np.exp(form).tolist())
        )
        return np.log(np.bincount(self.owner, by_kernel * self.table.count, len(self.logs))) - self.logs

    def start(self) -> Any:
        """The constants of the prior, all scaled alike to the median of the device; the launch is left."""
        prior = np.log(astuple(PRIOR_RATES))
        shift = np.median(self.errors(prior, np.log(astuple(KernelForm()))))
        prior[1:] += shift
        return prior
