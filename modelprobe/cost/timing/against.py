"""Which of two passes takes longer: taken in turn in one process, judged in pairs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from modelprobe.console import stdout_kept, working
from modelprobe.cost.memory.of_target import MemoryRequest
from modelprobe.cost.timing.measure import INFERENCE, device_details, run_timed, timed_setting, what_is_run
from modelprobe.cost.timing.paired import LEAST_BLOCKS, PairedRatio, paired_ratio
from modelprobe.cost.timing.passes import PreparedPass, TimingSetting, prepare_pass
from modelprobe.model.build import LoadedModel
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit

RESOLUTION = 0.01
"""Differences up to this are not claimed: where weights happen to lie in memory makes some of it."""

NARROW = 0.015
"""Half the width of the interval, as a share, at which pairs are enough; a tenth of a larger difference is as well."""

SHORTEST_OF_PAIRS = 3e-4
"""Seconds of a sample, at least: shorter than for one time, since the clock's share is the same on both sides."""

MOST_TIMES_LONGER = 10
"""How many times as long as asked pairs are taken, where the machine is so noisy that the interval stays wide."""


@dataclass(frozen=True, slots=True)
class TimedSide:
    """One of the two: its name, how it was run, the seconds of its first call and of each sample."""

    name: str
    inputs: tuple[str, ...]
    setting: tuple[str, ...]
    batch: int
    first_s: float
    median_s: float
    samples_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AgainstResult(Result):
    """Time of the first over time of the second, with the interval that holds it in 99 of 100 runs.

    `answer` is `faster` or `slower` (the first is) or `cannot tell`. `tolerance` is what was allowed, `exceeded`
    whether the first takes longer by more than that, by the whole interval.
    """

    what: str
    answer: str
    ratio: float
    interval: tuple[float, float]
    pairs: int
    seconds: float
    first: TimedSide
    second: TimedSide
    tolerance: float | None
    exceeded: bool
    interrupted: bool
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The answer, then both sides."""
        low, high = self.interval
        same = self.first.inputs == self.second.inputs
        facts = (
            *((Fact("Input", ", ".join(self.first.inputs)),) if same else ()),
            Fact("Answer", self.answer, detail=_sentence(self)),
            Fact("Time ratio", f"{self.ratio:.4g}", detail=f"first over second; 99 % interval {low:.4g} to {high:.4g}"),
            Fact("Pairs", self.pairs, Unit.COUNT, f"in turn, in {self.seconds:.3g} s"),
        )
        columns = (
            Column("name", "Target"),
            *(() if same else (Column("input", "Input"),)),
            Column("setting", "Setting", wrap=True),
            Column("median_s", "Median", Unit.SECONDS),
            Column("per_second", "Examples/s", Unit.NUMBER),
            Column("first_s", "First call", Unit.SECONDS, priority=1),
        )
        rows = tuple(
            Row((one.name, *(() if same else (", ".join(one.inputs),)), ", ".join(one.setting), one.median_s,
                 one.batch / one.median_s, one.first_s))
            for one in (self.first, self.second)
        )  # fmt: skip
        title = f"{self.first.name} against {self.second.name}: time of one {self.what}"
        return self.blocks_report(title, "modelprobe.against/1", Facts(facts), Table(columns, rows), *self.notes)


def _sentence(found: AgainstResult) -> str:
    if found.answer == "cannot tell":
        widest = max(found.interval[1] - 1, 1 - found.interval[0])
        return f"if they differ, then by less than {widest:.1%}"
    if not 0.5 < found.ratio < 2:
        return f"the first takes {found.ratio:.3g} times as long as the second"
    return f"the first takes {abs(found.ratio - 1):.1%} {'more' if found.ratio > 1 else 'less'} time than the second"


@stdout_kept()
def profile_against(
    first: LoadedModel, second: LoadedModel, settings: tuple[TimingSetting, TimingSetting], *, seconds: float,
    tolerance: float | None = None, run: MemoryRequest = INFERENCE,
) -> AgainstResult:  # fmt: skip
    """Both timed in turn, until the interval is narrow, for at most `MOST_TIMES_LONGER` times `seconds`.

    `tolerance` is the share by which the first may take longer, `run` whether training steps are meant.
    Raises ModelRaised, BadInput.
    """
    with ExitStack() as stack, working(f"timing {first.target.name} and {second.target.name} in turn"):
        sides = []
        for loaded, given in zip((first, second), settings, strict=True):
            setting = timed_setting(loaded, given, run)
            side = run_timed(loaded, partial(prepare_pass, setting=setting), setting)
            stack.enter_context(closing(side))
            sides.append(side)
        samples, ratio, took, interrupted = _in_turn(sides, seconds)
    made = [
        TimedSide(
            _name_with_arguments(loaded), side.inputs, (str(side.device), *device_details(str(side.device),
            side.threads, side.setting.texts())), side.batch, side.first_s, statistics.median(times), tuple(times),
        )
        for loaded, side, times in zip((first, second), sides, samples, strict=True)
    ]  # fmt: skip
    doubts = _doubts(ratio, tolerance, interrupted)
    if sides[0].inputs != sides[1].inputs:
        doubts.append(Note("The two get different inputs, as the table says.", Level.INFO))
    exceeded = tolerance is not None and ratio.low > 1 + tolerance
    notes = (*dict.fromkeys(note for side in sides for note in side.notes), *doubts)
    return AgainstResult(
        what_is_run(run), _answer(ratio), ratio.ratio, (ratio.low, ratio.high), len(samples[0]), took, made[0], made[1],
        tolerance, exceeded, interrupted, notes, sides[0].env,
    )  # fmt: skip


def _name_with_arguments(loaded: LoadedModel) -> str:
    """The name and what its constructor was given: --set is for both, unless --set-b says otherwise."""
    return " ".join((loaded.target.name, *(f"{key}={value}" for key, value in loaded.target.given.items())))


def _in_turn(
    sides: Sequence[PreparedPass], seconds: float
) -> tuple[tuple[list[float], list[float]], PairedRatio, float, bool]:
    numbers = [side.runs_a_sample(SHORTEST_OF_PAIRS) for side in sides]
    samples: tuple[list[float], list[float]] = ([], [])
    started = time.perf_counter()
    look, took, interrupted = seconds / 4, 0.0, False
    try:
        while True:
            # Which goes first changes: what follows a pass is not always the same.
            pair = {}
            for at in (0, 1) if len(samples[0]) % 2 else (1, 0):
                with sides[at].active(warm=sides[0].threads != sides[1].threads):
                    pair[at] = sides[at].seconds(numbers[at])
            for at, one in pair.items():
                samples[at].append(one)
            took = time.perf_counter() - started
            if took < look or len(samples[0]) < LEAST_BLOCKS:
                continue
            found = paired_ratio(*samples)
            if took >= MOST_TIMES_LONGER * seconds or found.half_width <= max(NARROW, abs(math.log(found.ratio)) / 10):
                break
            look = min(1.25 * took, MOST_TIMES_LONGER * seconds)
    except KeyboardInterrupt:
        if len(samples[0]) < LEAST_BLOCKS:
            raise
        interrupted = True
    return samples, paired_ratio(*samples), took, interrupted


def _answer(ratio: PairedRatio) -> str:
    if ratio.low > 1 + RESOLUTION:
        return "slower"
    return "faster" if ratio.high < 1 / (1 + RESOLUTION) else "cannot tell"


def _doubts(ratio: PairedRatio, tolerance: float | None, interrupted: bool) -> list[Note]:
    notes = []
    if interrupted:
        notes.append(Note("Interrupted: fewer pairs were taken than wanted.", Level.WARNING))
    if tolerance is not None and ratio.low <= 1 + tolerance < ratio.high:
        text = f"Whether the first is slower by more than {tolerance:.1%} cannot be told: the interval holds that."
        notes.append(Note(text, Level.WARNING))
    if ratio.half_width > max(2 * NARROW, abs(math.log(ratio.ratio)) / 10):
        text = f"A noisy machine: the interval is ±{ratio.half_width:.1%}. --seconds takes pairs for longer."
        notes.append(Note(text, Level.WARNING))
    if _answer(ratio) == "cannot tell" and not ratio.low <= 1 <= ratio.high:
        text = f"Differences of up to {RESOLUTION:.0%} are not claimed: where weights lie in memory can make them."
        notes.append(Note(text))
    return notes
