"""The measured peaks of this machine: the fastest matrix product and the fastest copy, kept in the user's cache."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelprobe.console import working
from modelprobe.environment import EnvResult, MeasuredPeaks, cpu_name
from modelprobe.errors import ProbeError
from modelprobe.files.atomic import atomic_write
from modelprobe.files.store import cache_directory
from modelprobe.tracing.records import Trace

PEAKS_SCHEMA = "modelprobe.peaks/1"

PEAK_DTYPES = ("float32", "bfloat16", "float16", "float64")
"""Types whose matrix product is measured; what a model multiplies in another one has no peak here."""

USUAL_DTYPES = {
    "cpu": ("float32", "bfloat16"),
    "cuda": ("float32", "float16", "bfloat16"),
    "mps": ("float32", "float16"),
}

LONG_ENOUGH = {"cpu": 0.02, "cuda": 0.004, "mps": 0.01}
"""Seconds of one product from which larger ones are no faster."""

LARGEST_PRODUCT = {"cpu": 4096, "cuda": 16384, "mps": 8192}

COPIED_BYTES = {"cpu": 2**27, "cuda": 2**30, "mps": 2**28}
"""More than the caches of the device hold; a copy reads and writes so many."""

SECONDS_OF_REPEATS, LEAST_REPEATS, LAUNCHES = 0.25, 5, 100


def peaks_of(
    device: str, dtype: str, threads: int, convolutions: bool = False, anew: bool = False
) -> MeasuredPeaks | None:
    """The peaks from the cache, else (or with `anew`) measured now, about a second, and kept.

    `convolutions` asks for what a GPU's convolutions may do: torch lets them multiply float32 as TF32, and matrix
    products not. None for a dtype without peaks, and for more threads than the machine has cores.
    """
    if dtype not in PEAK_DTYPES or (device == "cpu" and threads > (os.cpu_count() or 1)):
        return None
    import torch

    name, threads = device_name(device), threads if device == "cpu" else 0
    known = {(one.name, one.dtype, one.threads, one.setting): one for one in read_peaks()}
    tf32 = may_be_tf32(device, dtype, convolutions)
    key = (name, dtype, threads, f"torch {torch.__version__}{', TF32' if tf32 else ''}")
    if anew or key not in known:
        with working(f"measuring the peaks of {name}, {dtype}"), _multiplied_as(tf32):
            found = measure_peaks(device, dtype, threads)
        known[key] = MeasuredPeaks(device.partition(":")[0], *key[:3], key[3], *found)
        _keep(known)
    return known[key]


def measured_peaks(machine: EnvResult, anew: bool) -> tuple[MeasuredPeaks, ...]:
    """The known peaks of the devices of a machine; with `anew` those of its usual types are measured first."""
    if anew and machine.torch is not None:
        for device in machine.devices:
            if device.memory is not None or device.name == "cpu":
                for dtype in USUAL_DTYPES[device.name.partition(":")[0]]:
                    peaks_of(device.name, dtype, machine.torch.threads, anew=True)
                    if may_be_tf32(device.name, dtype, True) != may_be_tf32(device.name, dtype, False):
                        peaks_of(device.name, dtype, machine.torch.threads, convolutions=True, anew=True)
    names = {device.model for device in machine.devices}
    return tuple(one for one in read_peaks() if one.name in names)


def measure_peaks(device: str, dtype: str, threads: int) -> tuple[float, float, float]:
    """FLOP/s of the fastest square matrix product, bytes/s (read and written) of the fastest large copy, and seconds of
    the fastest launch of an operator on one element."""
    import torch

    kind, numbers = device.partition(":")[0], getattr(torch, dtype)
    with _thread_count(threads):
        side, best = 256, 0.0
        while True:
            a = torch.randn(side, side, device=device).to(numbers)
            out = torch.empty_like(a)
            least = _least_seconds(lambda a=a, out=out: torch.mm(a, a, out=out), kind)  # type: ignore[misc]
            best = max(best, 2 * side**3 / least)
            if least >= LONG_ENOUGH[kind] or side >= LARGEST_PRODUCT[kind]:
                break
            side *= 2
        source = torch.ones(COPIED_BYTES[kind] // 4, device=device)
        target = torch.empty_like(source)
        traffic = 2 * source.nbytes / _least_seconds(lambda: target.copy_(source), kind)
        tiny = torch.zeros(1, device=device)

        def launches() -> None:
            for _ in range(LAUNCHES):
                tiny.add_(1)

        return best, traffic, _least_seconds(launches, kind) / LAUNCHES


def _least_seconds(run: Callable[[], Any], kind: str) -> float:
    import torch

    wait: Callable[[], Any] = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(kind, lambda: None)
    run()
    wait()
    times: list[float] = []
    while len(times) < LEAST_REPEATS or math.fsum(times) < SECONDS_OF_REPEATS:
        started = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - started)
    return min(times)


@contextmanager
def _thread_count(count: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        if count:
            torch.set_num_threads(count)
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def device_name(device: str) -> str:
    """What the device is, as `env` names it."""
    if not device.startswith("cuda"):
        return cpu_name() if device == "cpu" else "Apple GPU"
    import torch

    return str(torch.cuda.get_device_name(device))


def may_be_tf32(device: str, dtype: str, convolutions: bool) -> bool:
    """Whether torch may multiply that type as TF32 there: in convolutions, or in matrix products."""
    if dtype != "float32" or not device.startswith("cuda"):
        return False
    import torch

    return bool(torch.backends.cudnn.allow_tf32 if convolutions else torch.backends.cuda.matmul.allow_tf32)


@contextmanager
def _multiplied_as(tf32: bool) -> Iterator[None]:
    """Matrix products of float32 on a GPU as TF32, or not."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    if before != tf32:
        matmul.allow_tf32 = tf32
    try:
        yield
    finally:
        if before != tf32:
            matmul.allow_tf32 = before


def read_peaks() -> tuple[MeasuredPeaks, ...]:
    """All that was measured before, on whichever device; nothing where the file cannot be used."""
    try:
        found = json.loads(_peaks_file().read_text(encoding="utf-8"))
        return tuple(MeasuredPeaks(**one) for one in found["peaks"]) if found["schema"] == PEAKS_SCHEMA else ()
    except (OSError, ValueError, TypeError, KeyError):  # missing or damaged: it is measured again
        return ()


def _keep(known: Mapping[Any, MeasuredPeaks]) -> None:
    path = _peaks_file()
    text = json.dumps({"schema": PEAKS_SCHEMA, "peaks": [asdict(one) for one in known.values()]}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, text, force=True)
    except (OSError, ProbeError):  # a cache that cannot be written is no reason to fail
        return


def _peaks_file() -> Path:
    return cache_directory() / "peaks.json"


def main_dtype(trace: Trace) -> str:
    """The type in which most of the multiplications of a run are done; of its inputs where there are none."""
    macs: dict[str, int] = {}
    for op in trace.ops:
        if op.macs and op.inputs:
            macs[op.inputs[0].dtype] = macs.get(op.inputs[0].dtype, 0) + op.macs
    return max(macs, key=lambda name: macs[name], default=next((ref.dtype for ref in trace.inputs), "float32"))
