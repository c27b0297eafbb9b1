"""The index of torchvision's and timm's networks: read from one packaged file, and from what this user added to it.

The file is a zip archive of JSON: `header.json`, `costs.json` (one row per network), `profiles.json` (its patterns and
shapes) and `names/FAMILY.txt` (a line for each: the numbers in its names). Reading it imports no torch.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from modelprobe.errors import BadInput
from modelprobe.files.store import cache_directory
from modelprobe.model.zoo.fingerprint import NamedShapes, Profile, TensorShape, names_from, numbers_by_kind, profile_of

SCHEMA = "modelprobe.index/1"
PACKAGED = Path(__file__).with_name("index.zip")
COSTS = ("name", "origin", "family", "task", "input", "parameters", "macs", "flops", "activations", "uncounted")
OPTIONAL = ("memory",)
"""Costs that rows of earlier releases lack."""
FIELDS = (*COSTS, *OPTIONAL, "weights", "features")


class IndexDamagedError(Exception):
    """An index file that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """Weights by name; `licence`, `top1` (percent, ImageNet-1k) and `side` of the image it was measured on, in pixels,
    where the library's own records have them."""

    name: str
    licence: str | None = None
    top1: float | None = None
    side: int | None = None


@dataclass(frozen=True, slots=True)
class IndexedModel:
    """A network of the index. Costs are of one example of `input` (shapes), as `flops` counts them.

    `macs`, `flops` and `activations` are None where it could not be run without being told an input. `uncounted` is the
    number of kinds of operators without a formula. `features` are pairs of stride and channels. `memory` is the peak of
    tensors in one inference in bytes, None where nobody recorded it.
    """

    name: str
    origin: str
    family: str
    task: str
    input: tuple[tuple[int, ...], ...]
    parameters: int
    macs: int | None
    flops: int | None
    activations: int | None
    uncounted: int
    weights: tuple[PublishedWeights, ...] = ()
    features: tuple[tuple[int, int], ...] = ()
    memory: int | None = None

    @property
    def target(self) -> str:
        """What a command takes: `timm:resnet50`, `package.module:factory`."""
        return f"{self.origin}:{self.name}"

    @property
    def top1(self) -> float | None:
        """The best published top-1 accuracy in percent, of weights for the default input, which the costs are of."""
        side = self.input[0][-1] if self.input else None
        fitting = [entry.top1 for entry in self.weights if entry.top1 is not None and entry.side in (None, side)]
        return max(fitting, default=None)


@dataclass(frozen=True)
class Index:
    """One index file. `problem` says why it could not be used, when it is empty for that reason."""

    models: tuple[IndexedModel, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    path: Path = PACKAGED
    _archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)
    _families: dict[str, dict[str, str]] = field(default_factory=dict, repr=False, compare=False)

    def _read(self, member: str) -> str:
        try:
            assert self._archive is not None
            return self._archive.read(member).decode()
        except (KeyError, ValueError, OSError, zlib.error, zipfile.BadZipFile) as error:
            raise BadInput(f"the index {self.path} is damaged at {member}", "delete it, or add to it anew") from error

    @cached_property
    def profiles(self) -> Mapping[str, Profile]:
        """Target -> its profile."""
        if self._archive is None:
            return {}
        held = json.loads(self._read("profiles.json"))
        patterns, shapes = held["patterns"], [tuple(shape) for shape in held["shapes"]]
        found = {}
        for model, row in zip(self.models, held["rows"], strict=True):
            kinds = zip(row[::3], row[1::3], row[2::3], strict=True)
            found[model.target] = Counter({(patterns[p], shapes[s]): count for p, s, count in kinds})
        return found

    def _lines(self, member: str) -> dict[str, str]:
        """Target -> its line of a family's file; only the lines that are asked for are parsed."""
        if member not in self._families:
            lines = self._read(member).splitlines()
            self._families[member] = dict(line.split("\t", 1) for line in lines)
        return self._families[member]

    def names(self, model: IndexedModel) -> dict[str, TensorShape]:
        """The names and shapes of a network's state_dict."""
        numbers = json.loads(self._lines(_member(model.family))[model.target])
        kinds = self.profiles[model.target].items()
        return dict(names_from((*kind, count, held) for (kind, count), held in zip(kinds, numbers, strict=True)))


def _member(family: str) -> str:
    return f"names/{family.replace(' ', '_').replace('/', '_')}.txt"


def pack(rows: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> bytes:
    """Rows as `measure_network` returns them, as the bytes of an index file. The same rows give the same bytes."""
    patterns: dict[str, int] = {}
    shapes: dict[TensorShape, int] = {}
    profiles: list[list[int]] = []
    families: dict[str, list[str]] = {}
    for row in rows:
        state = {name: tuple(shape) for name, shape in row["state"].items()}
        kinds, counts = numbers_by_kind(state), profile_of(state)
        flat: list[int] = []
        for (pattern, shape), count in counts.items():
            flat += (patterns.setdefault(pattern, len(patterns)), shapes.setdefault(shape, len(shapes)), count)
        profiles.append(flat)
        target = f"{row['origin']}:{row['name']}"
        families.setdefault(_member(row["family"]), []).append(
            f"{target}\t{_compact([kinds[kind] for kind in counts])}"
        )
    members = {
        "header.json": _compact({"schema": SCHEMA, "versions": dict(versions), "models": len(rows)}),
        "costs.json": _compact({"fields": FIELDS, "rows": [[row.get(key) for key in FIELDS] for row in rows]}),
        "profiles.json": _compact({"patterns": list(patterns), "shapes": list(shapes), "rows": profiles}),
        **{member: "\n".join(lines) for member, lines in sorted(families.items())},
    }
    held = BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
    return held.getvalue()


def _compact(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


def open_index(path: Path) -> Index:
    """An index file. Raises IndexDamagedError for one that is damaged, or newer than this modelprobe."""
    try:
        archive = zipfile.ZipFile(BytesIO(path.read_bytes()))
        header = json.loads(archive.read("header.json"))
        if header["schema"] != SCHEMA:
            raise IndexDamagedError(f"it has the schema {header['schema']}, not {SCHEMA}")
        costs = json.loads(archive.read("costs.json"))
        models = tuple(model_of_row(dict(zip(costs["fields"], row, strict=True))) for row in costs["rows"])
        return Index(models, header["versions"], path=path, _archive=archive)
    except IndexDamagedError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise IndexDamagedError(f"it is damaged ({type(error).__name__})") from error


def model_of_row(row: Mapping[str, Any]) -> IndexedModel:
    """A row as `measure_network` returns it."""
    return IndexedModel(
        **{key: row[key] for key in COSTS if key != "input"},
        input=tuple(tuple(shape) for shape in row["input"]),
        weights=tuple(PublishedWeights(*entry) for entry in row["weights"]),
        features=tuple((stride, channels) for stride, channels in row["features"]),
        memory=row.get("memory"),
    )


@dataclass(frozen=True, eq=False)
class Catalogue:
    """All networks that are known: of the packaged index, and of this user's own (which wins)."""

    indices: tuple[Index, ...]

    @cached_property
    def _homes(self) -> dict[str, tuple[IndexedModel, Index]]:
        return {model.target: (model, index) for index in self.indices for model in index.models}

    @property
    def models(self) -> tuple[IndexedModel, ...]:
        """Every network once."""
        return tuple(model for model, _ in self._homes.values())

    @property
    def problems(self) -> tuple[str, ...]:
        """What could not be used."""
        return tuple(index.problem for index in self.indices if index.problem)

    def get(self, target: str) -> IndexedModel | None:
        """A network by its target."""
        found = self._homes.get(target)
        return found[0] if found else None

    def profiles(self) -> Iterator[tuple[IndexedModel, Profile]]:
        """Every network with its profile."""
        for model, index in self._homes.values():
            yield model, index.profiles[model.target]

    def names(self, model: IndexedModel) -> dict[str, TensorShape]:
        """The names and shapes of a network's state_dict."""
        return self._homes[model.target][1].names(model)

    def holding(self, tensors: NamedShapes) -> list[str]:
        """The networks that have all of these tensors, with these shapes; torchvision's first, then by name."""
        wanted = profile_of(tensors)
        able = [model for model, profile in self.profiles() if all(profile[kind] >= n for kind, n in wanted.items())]
        found = [model.target for model in able if tensors.items() <= self.names(model).items()]
        return sorted(found, key=lambda target: (not target.startswith("torchvision:"), len(target), target))


def read_catalogue() -> Catalogue:
    """The packaged index and the user's. What cannot be used is left out, and is in `problems`."""
    return Catalogue(tuple(_index_at(path) for path in (PACKAGED, user_index()) if path == PACKAGED or path.exists()))


def _index_at(path: Path) -> Index:
    try:
        return open_index(path)
    except IndexDamagedError as error:
        whose, way = "the packaged index", "install modelprobe again"
        if path != PACKAGED:
            whose, way = f"the index {path}", "`modelprobe index add` makes it anew"
        return Index(problem=f"{whose} is not used: {error}; {way}")


def user_index() -> Path:
    """The file of this user's index; it may not exist."""
    return cache_directory() / PACKAGED.name


def rows_of(index: Index) -> Iterator[dict[str, Any]]:
    """The rows that an index was packed from."""
    for model in index.models:
        row: dict[str, Any] = {key: getattr(model, key) for key in (*COSTS, *OPTIONAL, "features")}
        row["weights"] = [[entry.name, entry.licence, entry.top1, entry.side] for entry in model.weights]
        yield {**row, "state": index.names(model)}


def merged(old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of both; a new one takes the place of an old one of the same target."""
    return list({f"{row['origin']}:{row['name']}": row for row in (*old, *new)}.values())
