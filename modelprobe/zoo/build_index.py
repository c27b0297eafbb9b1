"""Making the index: every network of both zoos counted by worker processes, in rows that outlive an interruption."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelprobe.console import progress
from modelprobe.environment import library_versions
from modelprobe.errors import BadInput
from modelprobe.files.atomic import atomic_write
from modelprobe.model.zoo.index import (
    SCHEMA,
    Index,
    IndexDamagedError,
    merged,
    open_index,
    pack,
    rows_of,
    user_index,
)
from modelprobe.model.zoo.names import TIMM, TORCHVISION, zoo_names
from modelprobe.zoo.journal import Journal
from modelprobe.zoo.workers import Job, JobLimits, run_jobs

MEASURE_ENTRY = "modelprobe.zoo.measure:measure_network"
MEASURE_LIMITS = JobLimits(600, 24 * 2**30)


@dataclass(frozen=True, slots=True)
class BuiltIndex:
    """What came of it: rows, and the problems by target."""

    rows: tuple[Mapping[str, Any], ...]
    problems: Mapping[str, str]


def zoo_targets() -> list[str]:
    """Every architecture of both zoos as installed here."""
    zoo = zoo_names()
    return [*(f"{TORCHVISION}:{name}" for name in zoo.torchvision), *(f"{TIMM}:{name}" for name in zoo.timm)]


def measure_all(targets: Sequence[str], workers: int, journal: Journal | None = None) -> BuiltIndex:
    """The rows of `targets`, those that the journal has already not measured again."""
    held = {row["target"]: row for row in (journal.rows if journal is not None else ())}
    missing = [target for target in targets if target not in held]
    jobs = [Job(target, MEASURE_ENTRY, {"spec": target}) for target in missing]
    with progress("counting", len(jobs)) as advance:
        for answer in run_jobs(jobs, workers, MEASURE_LIMITS):
            row = {"target": answer.key, "row": answer.value, "problem": answer.problem}
            held[answer.key] = row
            if journal is not None:
                journal.append(row)
            advance()
    known = [held[target] for target in targets]
    problems = {row["target"]: row["problem"] for row in known if row["problem"]}
    return BuiltIndex(tuple(row["row"] for row in known if not row["problem"]), problems)


def build_index(path: Path, workers: int, *, force: bool = False) -> BuiltIndex:
    """Both zoos as an index file. Rows stand in PATH.rows until it is written: an interrupted run is gone on with."""
    if path.exists() and not force:
        raise BadInput(f"{path} exists", "--force replaces it")
    place = path.with_name(path.name + ".rows")
    with Journal(place, {"schema": SCHEMA, "versions": library_versions()}) as journal:
        built = measure_all(zoo_targets(), workers, journal)
    atomic_write(path, pack(built.rows, library_versions()), force=force)
    place.unlink()
    return built


def add_to_user_index(rows: Iterable[Mapping[str, Any]]) -> str:
    """Add rows to the index in the cache directory; why that cannot be done, else "". A damaged one is made anew."""
    path = user_index()
    try:
        old = open_index(path) if path.exists() else Index()
    except IndexDamagedError:
        old = Index()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, pack(merged(rows_of(old), rows), library_versions()), force=True)
    except (OSError, BadInput) as error:
        return f"the index in {path.parent} cannot be written: {error}"
    return ""
