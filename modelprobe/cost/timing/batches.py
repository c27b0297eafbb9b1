"""Times of several batches, or of more and more until the throughput stops growing or the memory ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import torch

from modelprobe.console import progress
from modelprobe.cost.memory.of_target import MemoryRequest, of_batch
from modelprobe.cost.timing.measure import INFERENCE, ProfileResult, by_shapes, device_details, profile_model
from modelprobe.cost.timing.passes import TimingSetting
from modelprobe.errors import BadInput, ProbeError, one_line
from modelprobe.model.build import LoadedModel
from modelprobe.model.devices import free_memory
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, size
from modelprobe.tracing.failures import LoneValueError

LARGEST = 2**16
LONGEST_PASS = 10.0
"""Seconds; larger batches are not tried for the throughput."""

WORTH = 1.02
"""Times the best throughput so far that a batch twice as large must reach; two in a row that do not are the end."""

MEMORY_SHARE = 0.8
"""Of the free memory of this machine that a batch may take by its estimate: beyond it the system ends the process."""


@dataclass(frozen=True, slots=True)
class BatchTimes(Result):
    """A profile by batch; `best` is the batch of most examples per second. `too_large` did not fit, None if all did."""

    model: str
    what: str
    device: str
    best: int
    too_large: int | None
    interrupted: bool
    profiles: tuple[ProfileResult, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The best batch, then a row for each."""
        first = self.profiles[0]
        best = next(one for one in self.profiles if one.batch == self.best)
        facts = (
            Fact("Device", self.device, detail=", ".join(device_details(self.device, first.threads, first.setting))),
            Fact(
                "Best throughput",
                _four_digits(best.per_second),
                Unit.QUANTITY,
                f"examples per second at batch {self.best:,}",
            ),
        )
        columns = (
            Column("batch", "Batch", Unit.COUNT),
            Column("median_s", "Median", Unit.SECONDS),
            Column("iqr_s", "IQR", Unit.SECONDS),
            Column("samples", "Samples", Unit.COUNT, priority=2),
            Column("per_second", "Examples/s", Unit.QUANTITY),
            Column("peak_bytes", "Peak memory", Unit.BYTES, priority=1),
            Column("first_s", "First call", Unit.SECONDS, priority=3),
        )
        rows = tuple(
            Row((p.batch, p.median_s, p.iqr_s, len(p.samples_s), _four_digits(p.per_second), p.peak_bytes, p.first_s))
            for p in self.profiles
        )
        title = f"{self.model}: time of one {self.what} by batch"
        return self.blocks_report(
            title, "modelprobe.profile-batches/1", Facts(facts), Table(columns, rows), *self.notes
        )


def profile_batches(
    loaded: LoadedModel, batches: Sequence[int], seconds: float, setting: TimingSetting, run: MemoryRequest = INFERENCE
) -> BatchTimes:
    """Each of these batches for about `seconds`; without any, 1, 2, 4, … until the throughput no longer grows.

    Raises BadInput when not even the first fits, and what `profile_model` raises.
    """
    if loaded.request.inputs_from is not None:
        raise BadInput("--inputs-from fixes the batch", "several batches need inputs by shape: give --input")
    found: list[ProfileResult] = []
    too_large, why, interrupted = None, "", False
    failed: dict[int, str] = {}
    with progress("batches", len(batches)) as done:
        try:
            for batch in batches or _growing(found):
                reason = _does_not_fit(loaded, batch, setting, run)
                try:
                    if not reason:
                        found.append(_profile_at(loaded, batch, seconds, setting, run))
                except LoneValueError:
                    if batches or found:
                        raise
                    continue  # batch norm does not train on one example
                except (ProbeError, RuntimeError, MemoryError) as error:
                    reason = out_of_memory(error)
                    if not reason:
                        if not found:
                            raise
                        failed[batch] = one_line(getattr(error, "message", error), 160)
                        if batches:
                            continue
                        break
                if reason:
                    too_large, why = min(batch, too_large or batch), reason
                    if not batches:
                        break
                    continue
                interrupted = found[-1].interrupted
                done()
                if interrupted:
                    break
        except KeyboardInterrupt:
            interrupted = True
            if not found:
                raise
    if not found:
        raise BadInput(f"a batch of {too_large} does not fit: {why}", "a smaller --input or --dtype needs less")
    made = _batch_times(loaded, found, too_large, why, interrupted)
    raised = [Note(f"A batch of {batch:,} was not timed: {text}", Level.WARNING) for batch, text in failed.items()]
    return replace(made, notes=(*made.notes, *raised))


def profile_one(
    loaded: LoadedModel, seconds: float, setting: TimingSetting, run: MemoryRequest = INFERENCE
) -> ProfileResult:
    """As `profile_model`; where the memory does not suffice, BadInput says which batch fits."""
    batch = loaded.request.batch or 1
    reason = _does_not_fit(loaded, batch, setting, run)
    try:
        if not reason:
            return profile_model(loaded, seconds, setting, run)
    except (ProbeError, RuntimeError, MemoryError) as error:
        reason = out_of_memory(error)
        if not reason:
            raise
    fits = batch // 2
    while fits and not _runs(loaded, fits, setting, run):
        fits //= 2
    hint = f"a batch of {fits:,} fits, of those tried" if fits else "a smaller --input or --dtype needs less"
    raise BadInput(f"a batch of {batch:,} does not fit on {loaded.env['device']}: {reason}", hint)


def _runs(loaded: LoadedModel, batch: int, setting: TimingSetting, run: MemoryRequest) -> bool:
    if _does_not_fit(loaded, batch, setting, run):
        return False
    if str(loaded.env["device"]) == "cpu":
        return True  # by the estimate: to try it could end other processes
    try:
        _profile_at(loaded, batch, 0, setting, run)
    except (ProbeError, RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return False
    return True


def _profile_at(
    loaded: LoadedModel, batch: int, seconds: float, setting: TimingSetting, run: MemoryRequest
) -> ProfileResult:
    return profile_model(replace(loaded, request=replace(loaded.request, batch=batch)), seconds, setting, run)


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def _growing(found: Sequence[ProfileResult]) -> Iterator[int]:
    best, poor = 0.0, 0
    for batch in (2**power for power in count()):
        yield batch
        if found:
            last = found[-1]
            poor = 0 if last.per_second > WORTH * best else poor + 1
            best = max(best, last.per_second)
            if poor == 2 or last.median_s > LONGEST_PASS / 2 or 2 * batch > LARGEST:
                return


def _batch_times(
    loaded: LoadedModel, found: Sequence[ProfileResult], too_large: int | None, reason: str, interrupted: bool
) -> BatchTimes:
    notes = list(dict.fromkeys(note for one in found for note in one.notes if "noisy run" not in note.text))
    noisy = [f"{one.batch:,}" for one in found if any("noisy run" in note.text for note in one.notes)]
    if noisy:
        notes.append(Note(f"Noisy runs, with batches of {', '.join(noisy)}: see IQR.", Level.WARNING))
    if too_large is not None:
        fits = f"{max(one.batch for one in found):,} fits, {too_large:,} does not"
        notes.append(Note(f"Out of memory: {fits} ({reason}).", Level.WARNING))
    if interrupted:
        notes.append(Note("Interrupted: the batches after it were not tried.", Level.WARNING))
    first = found[0]
    best = max(found, key=lambda one: one.per_second).batch
    return BatchTimes(
        first.model, first.what, first.device, best, too_large, interrupted, tuple(found), tuple(notes), first.env
    )


def _does_not_fit(loaded: LoadedModel, batch: int, setting: TimingSetting, run: MemoryRequest) -> str:
    """Why a batch is not even tried on this machine's own memory: an estimate that is more than is free."""
    if str(loaded.env["device"]) != "cpu" or batch == 1:
        return ""
    try:
        wanted = of_batch(by_shapes(loaded), batch, replace(run, amp=setting.amp)).peak_bytes
    except ProbeError:
        return ""
    free = free_memory()
    return f"an estimated {size(wanted)} of {size(free)} that are free" if wanted > MEMORY_SHARE * free else ""


def out_of_memory(error: BaseException) -> str:
    """What an allocator said that had no more to give, in a line; nothing for any other error."""
    for one in filter(None, (error, error.__cause__)):
        text = one_line(one, 160)
        known = isinstance(one, (MemoryError, torch.OutOfMemoryError))
        if known or "allocate memory" in text or "out of memory" in text:
            torch.cuda.empty_cache()
            return text.partition(". ")[0]
    return ""
