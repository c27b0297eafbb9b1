"""The report of `modelprobe params`: parameters by module, dtype and optimizer group; shared and frozen ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelprobe.cost.folding import folded_mark, folded_paths, name_of_run, stem
from modelprobe.cost.patterns import matching
from modelprobe.cost.rollup import choose_rows, state_inside
from modelprobe.cost.tables import hidden_notes, row_mark, row_table
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table, Tone
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, exact_count, first_few
from modelprobe.tracing.records import ModuleTree, StateTensor

FOLDED_NOTE = "Rows marked xN are N blocks with equal classes and parameters; figures are per block."


@dataclass(frozen=True, slots=True)
class ModuleParameters:
    """One module and everything below it; a tensor that it holds twice is counted once.

    `same_as` names the first place of a module that stands at several. `folded` names further modules that are equal
    to it, whose figures these are each; `run` of them are neighbours, in a pattern of `every` modules where not 0.
    """

    path: str
    cls: str
    depth: int
    tensors: int
    total: int
    trainable: int
    nbytes: int
    share: float
    same_as: str = ""
    folded: tuple[str, ...] = ()
    run: int = 1
    every: int = 0

    @property
    def name(self) -> str:
        """The last segment of the path; of a folded run, the first and the last."""
        return name_of_run(self)


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters with something in common: a dtype, or a role in the optimizer."""

    name: str
    tensors: int
    total: int
    nbytes: int
    share: float
    decays: bool | None = None


@dataclass(frozen=True, slots=True)
class SharedParameter:
    """One tensor under several names. `saved` is what counting each name would add."""

    names: tuple[str, ...]
    shape: tuple[int, ...]
    saved: int


@dataclass(frozen=True, slots=True)
class Freeze:
    """What would still train if the parameters that `patterns` name were frozen."""

    patterns: tuple[str, ...]
    tensors: int
    frozen: int
    trainable: int


@dataclass(frozen=True, slots=True)
class ParamsResult(Result):
    """The parameters of a model, tied and shared ones counted once."""

    model: str
    total: int
    trainable: int
    frozen: int
    tensors: int
    nbytes: int
    buffers: int
    buffer_bytes: int
    depth: int
    hidden: int
    modules: tuple[ModuleParameters, ...]
    dtypes: tuple[ParameterGroup, ...]
    groups: tuple[ParameterGroup, ...]
    shared: tuple[SharedParameter, ...]
    freeze: Freeze | None
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """Totals, the module tree, dtypes, optimizer groups, shared tensors."""
        tables = [_module_table(self)]
        if self.groups:
            tables.append(_group_table("Optimizer groups", "groups", self.groups))
        if len(self.dtypes) > 1:
            tables.append(_group_table("By dtype", "dtypes", self.dtypes))
        if self.shared:
            tables.append(_shared_table(self.shared))
        folded = [Note(FOLDED_NOTE)] if any(row.folded for row in self.modules) else []
        notes = (*self.notes, *folded, *hidden_notes(self.hidden, self.depth, tree=True))
        return self.blocks_report(
            f"{self.model}: parameters", "modelprobe.params/1", Facts(_parameter_facts(self)), *tables, *notes
        )


def parameters_of(
    tree: ModuleTree,
    *,
    model: str = "",
    depth: int | None = None,
    freeze: Sequence[str] = (),
    folded: bool = False,
    notes: Sequence[Note] = (),
    env: Mapping[str, Any] | None = None,
) -> ParamsResult:
    """The parameters of `tree`, by module to `depth`. `freeze` holds wildcard patterns of modules or parameters.

    `folded` makes one row of equal blocks. Raises BadInput for a pattern that matches nothing.
    """
    unique = [entry for entry in tree.unique_state() if entry.role == "parameter"]
    buffers = [entry for entry in tree.unique_state() if entry.role == "buffer"]
    total = sum(entry.numel for entry in unique)
    rows = _module_parameters(tree, total)
    rows = folded_paths(rows, _parameters_form) if folded else rows
    visible, shown, hidden = choose_rows(rows, depth, None, tree=True)
    notes = [*notes, *_lazy_notes(tree)]
    trainable = sum(entry.numel for entry in unique if entry.requires_grad)
    return ParamsResult(
        model=model or tree.cls,
        total=total,
        trainable=trainable,
        frozen=total - trainable,
        tensors=len(unique),
        nbytes=sum(entry.nbytes for entry in unique),
        buffers=sum(entry.numel for entry in buffers),
        buffer_bytes=sum(entry.nbytes for entry in buffers),
        depth=shown or 0,
        hidden=hidden,
        modules=visible,
        dtypes=_parameter_groups(unique, lambda entry: entry.dtype),
        groups=_optimizer_groups(unique),
        shared=_shared_parameters(tree),
        freeze=_freeze(tree, tuple(freeze)) if freeze else None,
        notes=tuple(notes),
        env=env or {},
    )


def _lazy_notes(tree: ModuleTree) -> list[Note]:
    lazy = [entry.path for entry in tree.state if entry.role == "parameter" and entry.lazy]
    if not lazy:
        return []
    text = (
        f"{len(lazy)} parameters of lazy modules have no size before a forward pass and count as 0 here: "
        f"{first_few(lazy, 3)}. `summary` runs one and counts them."
    )
    return [Note(text, Level.WARNING)]


def _module_parameters(tree: ModuleTree, total: int) -> list[ModuleParameters]:
    inside = state_inside(tree)
    rows = []
    for node in tree.modules:
        entries = [entry for entry in inside.get(node.path, {}).values() if entry.role == "parameter"]
        if entries or not node.path:
            count = sum(entry.numel for entry in entries)
            rows.append(
                ModuleParameters(
                    node.path,
                    node.cls,
                    node.depth,
                    len(entries),
                    count,
                    sum(entry.numel for entry in entries if entry.requires_grad),
                    sum(entry.nbytes for entry in entries),
                    count / total if total else 0.0,
                    tree.aliases.get(node.path, ""),
                )
            )
    return rows


def _parameters_form(row: ModuleParameters) -> Hashable:
    """Equal for modules that differ in nothing that is shown but the number at the end of their names."""
    name = stem(row.path.rpartition(".")[2])
    return (name, row.cls, row.tensors, row.total, row.trainable, row.nbytes, bool(row.same_as))


def _parameter_groups(entries: Iterable[StateTensor], key: Callable[[StateTensor], str]) -> tuple[ParameterGroup, ...]:
    found: dict[str, list[StateTensor]] = {}
    for entry in entries:
        found.setdefault(key(entry), []).append(entry)
    total = sum(entry.numel for group in found.values() for entry in group)
    rows = [
        ParameterGroup(
            name,
            len(group),
            sum(entry.numel for entry in group),
            sum(entry.nbytes for entry in group),
            sum(entry.numel for entry in group) / total if total else 0.0,
        )
        for name, group in found.items()
    ]
    return tuple(sorted(rows, key=lambda group: -group.total))


_ROLES = {"weight": True, "bias": False, "norm": False, "scale or token": False}


def _optimizer_groups(entries: Sequence[StateTensor]) -> tuple[ParameterGroup, ...]:
    """Weight, bias, norm and the rest, with whether weight decay is applied by the field's rule:

    not to vectors and scalars, not to biases (timm's `param_groups_weight_decay`, and most training recipes).
    """
    return tuple(
        ParameterGroup(g.name, g.tensors, g.total, g.nbytes, g.share, _ROLES[g.name])
        for g in _parameter_groups(entries, optimizer_role)
    )


def optimizer_role(entry: StateTensor) -> str:
    """`norm`, `bias`, `weight` or, for other vectors and scalars, `scale or token`."""
    name = entry.path.rpartition(".")[2]
    if "norm" in entry.owner.lower() and len(entry.shape) <= 1:
        return "norm"
    if name == "bias" or name.endswith("_bias") or name.startswith("bias_"):
        return "bias" if len(entry.shape) <= 1 or name == "bias" else "weight"
    return "weight" if len(entry.shape) > 1 else "scale or token"


def _shared_parameters(tree: ModuleTree) -> tuple[SharedParameter, ...]:
    names: dict[int, list[StateTensor]] = {}
    for entry in tree.state:
        if entry.role == "parameter":
            names.setdefault(entry.identity, []).append(entry)
    return tuple(
        SharedParameter(tuple(entry.path for entry in entries), entries[0].shape, entries[0].numel * (len(entries) - 1))
        for entries in names.values()
        if len(entries) > 1
    )


def _freeze(tree: ModuleTree, patterns: tuple[str, ...]) -> Freeze:
    named = [entry for entry in tree.state if entry.role == "parameter"]
    hit = matching([entry.path for entry in named], patterns)
    # A tied tensor is frozen under all of its names.
    frozen = {entry.identity for entry in named if entry.path in hit}
    unique = [entry for entry in tree.unique_state() if entry.role == "parameter"]
    return Freeze(
        patterns,
        sum(entry.identity in frozen for entry in unique),
        sum(entry.numel for entry in unique if entry.identity in frozen or not entry.requires_grad),
        sum(entry.numel for entry in unique if entry.identity not in frozen and entry.requires_grad),
    )


def _parameter_facts(result: ParamsResult) -> tuple[Fact, ...]:
    facts = [
        Fact("Parameters", result.total, Unit.QUANTITY, f"{result.total:,} in {result.tensors} tensors", Tone.KEY),
        Fact("Trainable", result.trainable, Unit.QUANTITY, exact_count(result.trainable)),
        Fact("Frozen", result.frozen, Unit.QUANTITY, exact_count(result.frozen)),
        Fact("Size", result.nbytes, Unit.BYTES, ", ".join(group.name for group in result.dtypes)),
        Fact("Buffers", result.buffers, Unit.QUANTITY, f"{result.buffers:,} elements, not counted as parameters"),
    ]
    if result.shared:
        saved = sum(item.saved for item in result.shared)
        facts.append(Fact("Shared", saved, Unit.QUANTITY, f"{saved:,} not counted again under further names"))
    if result.freeze:
        what = ", ".join(result.freeze.patterns)
        left = f"{result.freeze.trainable:,}, with {what} frozen"
        facts.append(Fact("Would train", result.freeze.trainable, Unit.QUANTITY, left))
    return tuple(facts)


def _module_table(result: ParamsResult) -> Table:
    # Where nothing is frozen, a column that repeats the one beside it is the first to give way.
    trainable = 3 if result.frozen else 5
    columns = (
        Column("module", "Module"),
        Column("cls", "Class", priority=2),
        Column("tensors", "Tensors", Unit.COUNT, priority=4),
        Column("total", "Params", Unit.COUNT),
        Column("share", "Share", Unit.SHARE, bar=True, priority=1),
        Column("trainable", "Trainable", Unit.COUNT, priority=trainable),
        Column("nbytes", "Size", Unit.BYTES, priority=3),
    )

    def mark(row: ModuleParameters) -> str:
        frozen = "" if row.trainable == row.total else "partly frozen" if row.trainable else "frozen"
        return row_mark(copies=folded_mark(row), same_as=row.same_as, state=frozen)

    return row_table(columns, result.modules, tree=True, mark=mark, root=result.model, key="modules")


def _group_table(title: str, key: str, groups: tuple[ParameterGroup, ...]) -> Table:
    decay = any(group.decays is not None for group in groups)
    columns = [
        Column("name", "Group"),
        Column("tensors", "Tensors", Unit.COUNT),
        Column("total", "Params", Unit.COUNT),
        Column("share", "Share", Unit.SHARE),
        Column("nbytes", "Size", Unit.BYTES, priority=1),
        *([Column("decays", "Weight decay", Unit.YESNO, priority=1)] if decay else []),
    ]
    rows = tuple(Row(tuple(getattr(group, column.key) for column in columns)) for group in groups)
    return Table(tuple(columns), rows, title=title, key=key)


def _shared_table(shared: tuple[SharedParameter, ...]) -> Table:
    columns = (
        Column("names", "Names of one tensor"),
        Column("shape", "Shape", Unit.SHAPE),
        Column("saved", "Not counted again", Unit.COUNT, priority=1),
    )
    rows = tuple(Row((" = ".join(item.names), item.shape, item.saved)) for item in shared)
    return Table(columns, rows, title="Shared", key="shared")
