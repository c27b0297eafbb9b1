"""The answers of `modelprobe index`: what the index holds, what was built, what was added of a package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelprobe.environment import library_versions
from modelprobe.errors import BadInput
from modelprobe.model.zoo.index import read_catalogue, user_index
from modelprobe.model.zoo.names import TIMM, TORCHVISION
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, first_few
from modelprobe.zoo.build_index import BuiltIndex, add_to_user_index, build_index, measure_all, zoo_targets
from modelprobe.zoo.package_targets import targets_of_package

MAX_PROBLEMS_SHOWN = 20
MIN_TENSORS = 6
"""In the state_dict of a network; what has fewer is a part of one."""


@dataclass(frozen=True, slots=True)
class IndexResult(Result):
    """What an index holds: networks by origin, and the versions that they were counted with.

    `problems` are the targets that could not be counted, with the reason.
    """

    title: str
    path: str
    nbytes: int
    origins: Mapping[str, int]
    versions: Mapping[str, str]
    problems: Mapping[str, str]
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The file, networks by origin, what went wrong."""
        facts = [Fact("File", self.path), Fact("Size", self.nbytes, Unit.BYTES)]
        facts += [Fact(f"Made with {name}", version) for name, version in self.versions.items()]
        columns = (Column("origin", "Origin"), Column("models", "Models", Unit.COUNT))
        table = Table(columns, tuple(Row((name, count)) for name, count in self.origins.items()), key="origins")
        listed = list(self.problems.items())
        notes = [Note(f"{target}: {text}", Level.WARNING) for target, text in listed[:MAX_PROBLEMS_SHOWN]]
        if len(listed) > MAX_PROBLEMS_SHOWN:
            notes.append(Note(f"{len(listed) - MAX_PROBLEMS_SHOWN:,} more could not be counted.", Level.WARNING))
        return self.blocks_report(self.title, "modelprobe.index/1", Facts(tuple(facts)), table, *notes, *self.notes)


def describe_index(env: Mapping[str, Any]) -> IndexResult:
    """The packaged index, and this user's."""
    from modelprobe.model.zoo.index import PACKAGED

    catalogue = read_catalogue()
    notes = [Note(f"{text[:1].upper()}{text[1:]}.", Level.WARNING) for text in catalogue.problems]
    if len(catalogue.indices) > 1:
        own = len(catalogue.indices[1].models)
        notes.append(Note(f"{own:,} of them are from your own index, {user_index()}.", Level.INFO))
    size = PACKAGED.stat().st_size if PACKAGED.exists() else 0
    origins = Counter(model.origin for model in catalogue.models)
    versions = catalogue.indices[0].versions
    return IndexResult("Index of networks", str(PACKAGED), size, origins, versions, {}, tuple(notes), env)


def index_built(path: Path, workers: int, *, force: bool, env: Mapping[str, Any]) -> IndexResult:
    """Count both zoos and write the file."""
    built = build_index(path, workers, force=force)
    return _added("Index built", path, built, (), env)


def package_added(package: str, workers: int, *, env: Mapping[str, Any]) -> IndexResult:
    """Count a package's models and add them to the user's index. Raises BadInput when there is none to add."""
    if package in (TORCHVISION, TIMM):
        known = {model.target for model in read_catalogue().models}
        targets = [target for target in zoo_targets() if target.startswith(f"{package}:") and target not in known]
        if not targets:
            raise BadInput(f"every model of the installed {package} is in the index", "`modelprobe models` lists them")
    else:
        targets = targets_of_package(package)
    built = measure_all(targets, workers)
    networks = tuple(row for row in built.rows if len(row["state"]) >= MIN_TENSORS)
    small = [str(row["name"]) for row in built.rows if len(row["state"]) < MIN_TENSORS]
    left_out = f"fewer than {MIN_TENSORS} tensors, as parts of networks have: {first_few(small, 6)}"
    built = replace(built, rows=networks)
    if not built.rows:
        reason = next(iter(built.problems.values()), left_out)
        raise BadInput(f"no model of {package} could be counted", f"the first: {reason}" if built.problems else reason)
    failed = add_to_user_index(built.rows)
    notes = [Note(f"Nothing was kept: {failed}.", Level.WARNING)] if failed else []
    if small:
        notes.append(Note(f"Left out: {left_out}.", Level.INFO))
    return _added(f"Added from {package}", user_index(), built, notes, env)


def _added(title: str, path: Path, built: BuiltIndex, notes: Sequence[Note], env: Mapping[str, Any]) -> IndexResult:
    size = path.stat().st_size if path.exists() else 0
    origins = Counter(str(row["origin"]) for row in built.rows)
    return IndexResult(title, str(path), size, origins, library_versions(), built.problems, tuple(notes), env)
