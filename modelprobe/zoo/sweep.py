"""The answer of `modelprobe sweep`: one question of many models, in rows that outlive an interruption."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelprobe.console import progress
from modelprobe.cost.timing.paired import NOISY
from modelprobe.environment import library_versions
from modelprobe.errors import BadInput
from modelprobe.model.zoo import names as zoo
from modelprobe.report.blocks import Block, Column, Fact, Facts, Figure, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, first_few
from modelprobe.tracing.records import GAPS, CoverageGap
from modelprobe.zoo.executors import executor_of
from modelprobe.zoo.journal import Journal
from modelprobe.zoo.workers import Job, JobLimits

SWEEP_SCHEMA = "modelprobe.sweep/1"
MAX_NAMED_MODELS = 6
"""How many models a note names; each row has its own notes."""

OTHER_NOTES = {
    Level.ASSUMED: "what was assumed stands in the notes of the row",
    Level.WARNING: "what was left out stands in the notes of the row",
}
ENTRIES = {what: f"modelprobe.zoo.sweep_row:{what}_row" for what in ("flops", "params", "memory", "profile")}
"""What `--what` names -> the function that makes a row."""

_OF_ONE_ZOO = re.compile(rf"(?:{zoo.TORCHVISION}|{zoo.TIMM}):.*[*?\[].*")


@dataclass(frozen=True, slots=True)
class SweptModel:
    """One row. Costs are None for what was not asked for, or failed; `problem` says in one line why.

    `median_s` and `iqr_s` are of one forward pass here. `notes` are what stands against the figures: what was assumed,
    not counted, or depends on the data.
    """

    target: str
    input: tuple[tuple[int, ...], ...] = ()
    parameters: int | None = None
    macs: int | None = None
    flops: int | None = None
    activations: int | None = None
    memory: int | None = None
    median_s: float | None = None
    iqr_s: float | None = None
    per_second: float | None = None
    uncounted: int | None = None
    seconds: float = 0.0
    problem: str = ""
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True, slots=True)
class SweepResult(Result):
    """The rows in the order of the targets; `resumed` of them were in the file of rows, beside those of `others`.

    `workers` ran at once.
    """

    what: str
    rows: tuple[SweptModel, ...]
    failed: int
    resumed: int
    shard: str = ""
    rows_file: str = ""
    plot: str | None = None
    workers: int = 1
    others: int = 0
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """Counts, the rows, failures."""
        facts = [Fact("Models", len(self.rows), Unit.COUNT), Fact("Failed", self.failed, Unit.COUNT)]
        if self.resumed:
            facts.append(Fact("From before", self.resumed, Unit.COUNT, f"rows of {self.rows_file}"))
        columns = (
            Column("target", "Model"),
            Column("parameters", "Params", Unit.QUANTITY),
            Column("macs", "MACs", Unit.MACS),
            Column("flops", "FLOPs", Unit.FLOPS, 3),
            Column("activations", "Activations", Unit.QUANTITY, 2),
            *OWN_COLUMNS.get(self.what, ()),
            Column("input", "Input", Unit.SHAPE, 4),
            Column("seconds", "Took", Unit.SECONDS, 5),
            Column("problem", "Problem", priority=1, wrap=True),
            Column("notes", "Notes", priority=6, wrap=True),
        )
        keys = [column.key for column in columns]
        rows = tuple(Row(tuple(_cell_of(getattr(row, key)) for key in keys)) for row in self.rows)
        blocks: list[Block] = [Facts(tuple(facts)), Table(columns, rows)]
        if self.plot:
            blocks.append(Figure(Path(self.plot), "MACs against parameters"))
        notes = [Note(f"{self.failed:,} of {len(self.rows):,} failed.", Level.WARNING)] if self.failed else []
        if self.others:
            notes.append(Note(f"{self.rows_file} also holds rows of {self.others:,} other models.", Level.INFO))
        notes += _timing_notes(self)
        gaps = [row.target for row in self.rows if row.uncounted]
        if gaps:
            text = f"operators without a formula, lower bounds: {first_few(gaps, MAX_NAMED_MODELS)}."
            notes.append(Note(text, Level.WARNING))
        return self.blocks_report(f"Sweep of {self.what}", SWEEP_SCHEMA, *blocks, *notes, *_grouped_notes(self.rows))


OWN_COLUMNS = {
    "memory": (Column("memory", "Memory", Unit.BYTES),),
    "profile": (
        Column("median_s", "Median", Unit.SECONDS),
        Column("iqr_s", "IQR", Unit.SECONDS, 2),
        Column("per_second", "Examples/s", Unit.NUMBER),
    ),
}
"""Columns of one question alone."""


def _timing_notes(found: SweepResult) -> Iterator[Note]:
    timed = [row for row in found.rows if row.median_s is not None]
    noisy = [row.target for row in timed if (row.iqr_s or 0) > NOISY * (row.median_s or 0)]
    if noisy:
        text = f"Noisy: the middle half of the samples spans over {NOISY:.0%} of the median of"
        yield Note(f"{text} {first_few(noisy, MAX_NAMED_MODELS)}.", Level.WARNING)
    if len(timed) > 1 and found.workers > 1:
        text = f"{found.workers} models were timed at once and took time from each other: --workers 1 times them alone."
        yield Note(text, Level.WARNING)


def _cell_of(value: Any) -> Any:
    """A value as a table shows it: no input is no shape, rather than that of a single number."""
    if isinstance(value, tuple) and value and isinstance(value[0], Note):
        return " ".join(note.text for note in value)
    return None if value == () else value


def _grouped_notes(rows: Sequence[SweptModel]) -> Iterator[Note]:
    """What stands against the figures, each kind with the models that it stands against."""
    groups: dict[tuple[Level, str], dict[str, None]] = {}
    for row in rows:
        for note in row.notes:
            said = GAPS[note.kind] if isinstance(note, CoverageGap) else OTHER_NOTES[note.level]
            groups.setdefault((note.level, said), {})[row.target] = None
    for (level, said), names in groups.items():
        yield Note(f"{said}: {first_few(list(names), MAX_NAMED_MODELS)}.", level)


def sweep_targets(given: Sequence[str], shard: str = "") -> list[str]:
    """The targets that patterns name, and the lines of files of targets; of these one in `n` under `shard` i/n.

    Raises BadInput for a pattern that matches nothing, a file without a line, and a shard that is none.
    """
    found: dict[str, None] = {}
    for text in given:
        if Path(text).is_file() and not text.endswith(".py"):
            listed = _listed_in(Path(text))
        elif any(mark in text for mark in (":", "/", ".py")) and not _OF_ONE_ZOO.fullmatch(text):
            listed = [text]
        else:
            listed = [f"{origin}:{name}" for name, origin in zoo.find_targets(text)]
            if not listed and Path(text).suffix in (".txt", ".csv", ".list"):
                raise BadInput(f"there is no file {text}", "a text file with a target on each line; or a pattern")
            if not listed:
                close = ", ".join(zoo.nearest(text.partition(":")[2].strip("*?") or text.strip("*?")))
                raise BadInput(f"no model matches {text!r}", f"nearest: {close}" if close else "'*' takes all")
        found.update(dict.fromkeys(listed))
    part, count = _shard_of(shard)
    return list(found)[part - 1 :: count]


def _listed_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no list of models", "write one target on each line") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise BadInput(f"{path} lists no model", "write one target on each line")
    return found


def _shard_of(text: str) -> tuple[int, int]:
    if not text:
        return 1, 1
    part, _, count = text.partition("/")
    if not (part.isdecimal() and count.isdecimal() and 1 <= int(part) <= int(count)):
        raise BadInput(f"--shard {text!r} is not I/N with I from 1 to N", "for example --shard 1/4")
    return int(part), int(count)


@dataclass(frozen=True, slots=True)
class SweepOptions:
    """What is asked of every model, and how. `rows_file` keeps the rows; `retry` asks the failed ones again."""

    what: str = "flops"
    inputs: tuple[str, ...] = ()
    batch: int | None = None
    shard: str = ""
    rows_file: Path | None = None
    workers: int = 1
    limits: JobLimits = field(default_factory=JobLimits)
    executor: str = ""
    retry: bool = False


def run_sweep(targets: Sequence[str], options: SweepOptions, env: Mapping[str, Any] | None = None) -> SweepResult:
    """Ask every target, those that the file of rows has already excepted.

    Raises BadInput for a file of rows of another sweep, and an executor that cannot be reached.
    """
    header = {
        "schema": SWEEP_SCHEMA, "what": options.what, "inputs": list(options.inputs), "batch": options.batch,
        "shard": options.shard, "versions": library_versions(),
    }  # fmt: skip
    journal = Journal(options.rows_file, header) if options.rows_file is not None else None
    with journal or nullcontext():
        known = journal.rows if journal else []
        held = {row["target"]: row for row in known if not (options.retry and row["problem"])}
        missing = [target for target in targets if target not in held]
        resumed = len(targets) - len(missing)
        arguments = {"inputs": list(options.inputs), "batch": options.batch}
        jobs = [Job(target, ENTRIES[options.what], {"target": target, **arguments}) for target in missing]
        run = executor_of(options.executor, options.workers) if jobs else None
        with progress(f"sweep of {options.what}", len(jobs)) as advance:
            for answer in run(jobs, options.limits) if run else ():
                row = {"target": answer.key, "problem": answer.problem, "seconds": round(answer.seconds, 3)}
                held[answer.key] = {**row, **(answer.value or {})}
                if journal:
                    journal.append(held[answer.key])
                advance()
    rows = tuple(_row(held[target]) for target in targets)
    failed = sum(bool(row.problem) for row in rows)
    return SweepResult(
        options.what, rows, failed, resumed, options.shard, str(options.rows_file or ""),
        workers=options.workers, others=len(held.keys() - set(targets)), env=env or {},
    )  # fmt: skip


def _row(row: Mapping[str, Any]) -> SweptModel:
    shapes = tuple(tuple(shape) for shape in row.get("input", ()))
    return SweptModel(**{**row, "input": shapes, "notes": tuple(map(_read_note, row.get("notes", ())))})


def _read_note(values: Mapping[str, str]) -> Note:
    level = Level(values["level"])
    return CoverageGap(values["text"], level, values["kind"]) if "kind" in values else Note(values["text"], level)


def timm_csv(result: SweepResult) -> str:
    """The rows under the column names of timm's benchmark tables; millions and billions, as there."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    timed = ("infer_samples_per_sec", "infer_step_time") if result.what == "profile" else ()
    writer.writerow(("model", *timed, "infer_gmacs", "infer_macts", "infer_img_size", "param_count"))
    for row in result.rows:
        if row.problem or row.macs is None or row.activations is None or row.parameters is None:
            continue
        side = row.input[0][-1] if row.input else ""
        name = row.target.removeprefix(f"{zoo.TIMM}:")
        figures = (row.macs / 1e9, row.activations / 1e6, side, row.parameters / 1e6)
        times = (f"{row.per_second or 0:.2f}", f"{1000 * (row.median_s or 0):.3f}")[: len(timed)]
        writer.writerow((name, *times, f"{figures[0]:.2f}", f"{figures[1]:.2f}", side, f"{figures[3]:.2f}"))
    return out.getvalue()
