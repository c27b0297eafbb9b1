"""The answer of `modelprobe models`: networks by name and by cost, families, and the ones that nothing beats."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelprobe.environment import library_versions, usable_cores
from modelprobe.errors import BadInput
from modelprobe.model.zoo import names as zoo
from modelprobe.model.zoo.index import Catalogue, Index, IndexedModel, model_of_row, read_catalogue
from modelprobe.report.blocks import Block, Cell, Column, Fact, Facts, Figure, Level, Note, Report, Row, Table, plain
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, first_few

MAX_COUNTED_LIVE = 40
"""Networks that are newer than the index and are counted at once; of more, `modelprobe index add` does it."""

MODEL_COLUMNS: dict[str, tuple[Column, Callable[[IndexedModel], Cell]]] = {
    "name": (Column("name", "Model"), lambda model: model.name),
    "origin": (Column("origin", "Origin", priority=3), lambda model: model.origin),
    "family": (Column("family", "Family", priority=6), lambda model: model.family),
    "task": (Column("task", "Task", priority=6), lambda model: model.task),
    "params": (Column("parameters", "Params", Unit.QUANTITY), lambda model: model.parameters),
    "gmacs": (Column("macs", "MACs", Unit.MACS), lambda model: model.macs),
    "flops": (Column("flops", "FLOPs", Unit.FLOPS, 4), lambda model: model.flops),
    "activations": (Column("activations", "Activations", Unit.QUANTITY, 4), lambda model: model.activations),
    "memory": (Column("memory", "Memory", Unit.BYTES, 4), lambda model: model.memory),
    "top1": (Column("top1", "Top-1 %", Unit.NUMBER), lambda model: model.top1),
    "input": (Column("input", "Input", Unit.SHAPE, 2), lambda model: model.input),
    "weights": (Column("weights", "Weights", priority=5), lambda model: first_few([w.name for w in model.weights], 2)),
    "licence": (
        Column("licence", "Licence", priority=5),
        lambda model: first_few(sorted({w.licence for w in model.weights if w.licence}), 2),
    ),
    "features": (
        Column("features", "Feature channels / stride", priority=5),
        lambda model: " ".join(f"{channels}/{stride}" for stride, channels in dict.fromkeys(model.features)),
    ),
}
"""What `--columns` may name, and what `--sort` sorts by."""

USUAL_COLUMNS = ("name", "origin", "params", "gmacs", "top1", "input", "weights")
DESCENDING = ("top1",)
AXES = {"gmacs": ("macs", "MACs"), "params": ("parameters", "parameters")}


@dataclass(frozen=True, slots=True)
class ModelFilter:
    """What is asked for. None, "" and False ask for nothing; `min_top1` is in percent."""

    pattern: str = ""
    max_params: int | None = None
    max_macs: int | None = None
    min_top1: float | None = None
    has_weights: bool = False
    task: str = ""
    sort: str = ""
    top: int | None = None

    @property
    def asks(self) -> bool:
        """Whether it leaves anything out."""
        limits = (self.max_params, self.max_macs, self.min_top1)
        return bool(self.pattern or self.has_weights or self.task or any(limit is not None for limit in limits))

    def takes(self, model: IndexedModel) -> bool:
        """Whether a network stays within the limits; a figure that nobody knows does not."""
        return (
            (self.max_params is None or model.parameters <= self.max_params)
            and (self.max_macs is None or (model.macs is not None and model.macs <= self.max_macs))
            and (self.min_top1 is None or (model.top1 is not None and model.top1 >= self.min_top1))
            and (not self.has_weights or bool(model.weights))
            and (not self.task or model.task == self.task)
        )


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """The networks of one module of a library: how many, and the least and most of each cost."""

    name: str
    origin: str
    count: int
    parameters: tuple[int, int]
    macs: tuple[int, int] | None
    top1: float | None


@dataclass(frozen=True, slots=True)
class ModelsResult(Result):
    """The networks found. `front` are the targets that no other one beats in `against` and accuracy at once.

    `uncounted` are names that stand in no index; `hidden` are networks that `top` left out. `versions` are those that
    the figures were made with.
    """

    pattern: str
    torchvision: int
    timm: int
    models: tuple[IndexedModel, ...]
    families: tuple[ModelFamily, ...] = ()
    uncounted: tuple[str, ...] = ()
    hidden: int = 0
    against: str = "gmacs"
    front: tuple[str, ...] = ()
    plot: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    columns: tuple[str, ...] = field(repr=False, default=USUAL_COLUMNS)
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields; of every network also its `target` and best `top1`."""
        rows = [{"target": model.target, **plain(model), "top1": model.top1} for model in self.models]
        return {**plain(self), "models": rows}

    def report(self) -> Report:
        """How many there are, then families or networks, the plot, notes."""
        facts = Facts(
            (Fact("torchvision", self.torchvision, Unit.COUNT), Fact("timm", self.timm, Unit.COUNT), *self._others())
        )
        table = _family_table(self.families) if self.families else _model_table(self)
        blocks: list[Block] = [facts, table]
        if self.plot:
            caption = f"top-1 accuracy against {AXES[self.against][1]}; the line joins the Pareto front"
            blocks.append(Figure(Path(self.plot), caption))
        title = f"Models matching {self.pattern}" if self.pattern else "Models of torchvision and timm"
        return self.blocks_report(title, "modelprobe.models/2", *blocks, *self.notes)

    def _others(self) -> tuple[Fact, ...]:
        counts = len(self.models) + self.hidden - self.torchvision - self.timm
        return (Fact("other packages", counts, Unit.COUNT),) if counts > 0 else ()


def _model_table(result: ModelsResult) -> Table:
    chosen = [MODEL_COLUMNS[name] for name in result.columns]
    rows = tuple(
        Row(
            tuple(read(model) for _, read in chosen),
            mark="Pareto" if result.plot and model.target in result.front else "",
        )
        for model in result.models
    )
    return Table(tuple(column for column, _ in chosen), rows, key="models")


def _family_table(families: Sequence[ModelFamily]) -> Table:
    columns = (
        Column("name", "Family"),
        Column("origin", "Origin"),
        Column("count", "Models", Unit.COUNT),
        Column("least_parameters", "Params from", Unit.QUANTITY),
        Column("most_parameters", "Params to", Unit.QUANTITY),
        Column("least_macs", "MACs from", Unit.MACS, priority=2),
        Column("most_macs", "MACs to", Unit.MACS),
        Column("top1", "Best top-1 %", Unit.NUMBER, priority=1),
    )
    rows = (Row((f.name, f.origin, f.count, *f.parameters, *(f.macs or (None, None)), f.top1)) for f in families)
    return Table(columns, tuple(rows), key="families")


def find_models(asked: ModelFilter, columns: Sequence[str] = (), env: Mapping[str, Any] | None = None) -> ModelsResult:
    """The networks that `asked` describes: those of the installed zoos, and what was added to the user's index.

    Names that stand in no index are counted now, and kept, unless they are many. Raises BadInput when nothing is found.
    """
    chosen = known_model_columns(columns)
    catalogue = read_catalogue()
    listed = _listed_targets(asked.pattern, catalogue)
    if not listed:
        raise _nothing_matches(asked.pattern)
    fresh, uncounted, notes = _counted_live([target for target in listed if catalogue.get(target) is None], asked)
    known = [model for target in listed if (model := catalogue.get(target) or fresh.get(target)) is not None]
    found = [model for model in known if asked.takes(model)]
    if not found and not uncounted:
        raise _none_within(asked, known)
    found = _sorted_models(found, asked.sort)
    families = () if asked.asks or asked.sort or columns else families_of(found)
    counts = {
        origin: sum(target.startswith(f"{origin}:") for target in _targets(found))
        for origin in (zoo.TORCHVISION, zoo.TIMM)
    }
    notes = [*(_problem_note(text) for text in catalogue.problems), *notes, *_filter_notes(asked, known)]
    return ModelsResult(
        asked.pattern,
        counts[zoo.TORCHVISION],
        counts[zoo.TIMM],
        tuple(found[: asked.top]),
        families,
        tuple(uncounted),
        len(found) - len(found[: asked.top]),
        versions=catalogue.indices[0].versions,
        notes=(*notes, *_version_notes(catalogue.indices[0], found), *_both_note(found), *_top_note(found, asked.top)),
        columns=chosen,
        env=env or {},
    )


def known_model_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns asked for, or the usual ones. Raises BadInput for one that there is not."""
    asked = [part.strip().lower() for text in columns for part in text.split(",") if part.strip()]
    for name in asked:
        if name not in MODEL_COLUMNS:
            raise BadInput(f"models has no column {name!r}", f"columns: {', '.join(MODEL_COLUMNS)}")
    return tuple(dict.fromkeys(asked)) or USUAL_COLUMNS


def families_of(models: Iterable[IndexedModel]) -> tuple[ModelFamily, ...]:
    """The families by library and name."""
    groups: dict[tuple[str, str], list[IndexedModel]] = {}
    for model in models:
        groups.setdefault((model.origin, model.family), []).append(model)
    found = []
    for (origin, family), members in sorted(groups.items()):
        macs = [model.macs for model in members if model.macs is not None]
        parameters = [model.parameters for model in members]
        top1 = max((model.top1 for model in members if model.top1 is not None), default=None)
        span = (min(macs), max(macs)) if macs else None
        found.append(ModelFamily(family, origin, len(members), (min(parameters), max(parameters)), span, top1))
    return tuple(found)


def with_front(result: ModelsResult, against: str) -> ModelsResult:
    """The same with its Pareto front: none is as cheap and more accurate, none cheaper and as accurate."""
    key = AXES[against][0]
    priced = [m for m in result.models if m.top1 is not None and getattr(m, key) is not None]
    if not priced:
        raise BadInput(
            "none of these models has a published top-1 accuracy to plot",
            "torchvision's have: modelprobe models resnet",
        )
    best, front = -1.0, []
    for model in sorted(priced, key=lambda m: (getattr(m, key), -(m.top1 or 0))):
        if (model.top1 or 0) > best:
            best = model.top1 or 0
            front.append(model.target)
    left = len(result.models) - len(priced)
    text = f"{left:,} of these models have no published top-1 accuracy and are not in the plot."
    return replace(
        result, against=against, front=tuple(front), notes=(*result.notes, *((Note(text, Level.INFO),) if left else ()))
    )


def _listed_targets(pattern: str, catalogue: Catalogue) -> list[str]:
    """The targets that a pattern names, in the natural order of names."""
    found = zoo.find_targets(pattern)
    wild = any(character in pattern for character in "*?[")
    wanted = pattern.lower() if wild else f"*{pattern.lower()}*"
    for model in catalogue.models:
        own = model.origin not in (zoo.TORCHVISION, zoo.TIMM)
        if own and any(fnmatch.fnmatchcase(text.lower(), wanted) for text in (model.name, model.target)):
            found.append((model.name, model.origin))
    return [f"{origin}:{name}" for name, origin in sorted(found, key=lambda entry: zoo.natural(entry[0]))]


def _nothing_matches(pattern: str) -> BadInput:
    close = zoo.nearest(pattern.strip("*?"))
    return BadInput(
        f"no model matches {pattern!r}",
        f"nearest: {', '.join(close)}" if close else "`modelprobe models` lists all families",
    )


def _none_within(asked: ModelFilter, known: Sequence[IndexedModel]) -> BadInput:
    """What to loosen: the limit without which most are left."""
    limits: dict[str, Any] = {"max_params": None, "max_macs": None, "min_top1": None, "has_weights": False, "task": ""}
    counts = {}
    for key, none in limits.items():
        if getattr(asked, key) != none:
            loosened: dict[str, Any] = {key: none}
            counts[key] = sum(replace(asked, **loosened).takes(model) for model in known)
    key = max(counts, key=lambda name: counts[name], default="")
    option = {"max_macs": "--max-gmacs"}.get(key, f"--{key.replace('_', '-')}")
    hint = f"without {option} there are {counts[key]:,}" if key and counts[key] else "loosen more than one of them"
    if key == "min_top1" and all(model.top1 is None for model in known if replace(asked, min_top1=None).takes(model)):
        hint += ", whose accuracy their library's metadata does not give (timm's gives none)"
    return BadInput(f"none of {len(known):,} models stays within these limits", hint)


def _counted_live(targets: Sequence[str], asked: ModelFilter) -> tuple[dict[str, IndexedModel], list[str], list[Note]]:
    """Networks that are newer than the index, counted now and added to the user's index."""
    if not targets:
        return {}, [], []
    if len(targets) > MAX_COUNTED_LIVE or not asked.asks:
        packages = sorted({target.partition(":")[0] for target in targets})
        adds = " and ".join(f"`modelprobe index add {package}`" for package in packages)
        text = f"{len(targets):,} names are in no index and have no figures here: {adds} counts them."
        return {}, list(targets), [Note(text, Level.WARNING)]
    from modelprobe.zoo.build_index import add_to_user_index, measure_all

    built = measure_all(targets, min(len(targets), usable_cores()))
    models = {model.target: model for model in map(model_of_row, built.rows)}
    failed = add_to_user_index(built.rows)
    notes = [Note(f"{len(models):,} models in no index were counted now.", Level.INFO)] if models else []
    if failed:
        notes.append(Note(f"They were not kept: {failed}.", Level.INFO))
    notes += [Note(f"{target} could not be counted: {text}", Level.WARNING) for target, text in built.problems.items()]
    return models, list(built.problems), notes


def _sorted_models(models: list[IndexedModel], key: str) -> list[IndexedModel]:
    """By a column: costs from the least, accuracy from the best, what has no figure last."""
    if not key:
        return models
    read = MODEL_COLUMNS[key][1]
    having = [model for model in models if read(model) not in (None, "")]
    if key in ("name", "origin", "family", "task"):
        having.sort(key=lambda model: zoo.natural(str(read(model))))
    else:
        having.sort(key=lambda model: _sortable(read(model)), reverse=key in DESCENDING)
    return [*having, *(model for model in models if read(model) in (None, ""))]


def _sortable(value: Any) -> Any:
    return (0, value) if isinstance(value, (int, float)) else (1, 0)


def _targets(models: Iterable[IndexedModel]) -> list[str]:
    return [model.target for model in models]


def _problem_note(text: str) -> Note:
    return Note(f"{text[:1].upper()}{text[1:]}.", Level.WARNING)


def _filter_notes(asked: ModelFilter, known: Sequence[IndexedModel]) -> list[Note]:
    if asked.min_top1 is None:
        return []
    silent = [m for m in known if m.top1 is None and replace(asked, min_top1=None).takes(m)]
    if not silent:
        return []
    text = (
        f"{len(silent):,} more models are within the other limits; their library's metadata gives no top-1 accuracy "
        "(timm's gives none)."
    )
    return [Note(text, Level.INFO)]


def _version_notes(index: Index, models: Sequence[IndexedModel]) -> list[Note]:
    """Where the figures are from, when the installed library is another release."""
    here = library_versions()
    origins = {model.origin for model in models}
    other = [
        f"{name} {index.versions[name]} (installed: {here[name]})"
        for name in (zoo.TORCHVISION, zoo.TIMM)
        if name in origins and name in here and index.versions.get(name, here[name]) != here[name]
    ]
    return [Note(f"Figures were counted with {' and '.join(other)}.", Level.INFO)] if other else []


def _top_note(found: Sequence[IndexedModel], top: int | None) -> list[Note]:
    left = len(found) - len(found[:top])
    return [Note(f"{left:,} more are not shown (--top).", Level.INFO)] if left else []


def _both_note(models: Sequence[IndexedModel]) -> list[Note]:
    names = [model.name for model in models if model.origin in (zoo.TORCHVISION, zoo.TIMM)]
    both = len(names) - len(set(names))
    if not both:
        return []
    are = "1 of these names is" if both == 1 else f"{both} of these names are"
    return [Note(f"{are} in both: a plain name takes torchvision's, timm:NAME the other.", Level.INFO)]
