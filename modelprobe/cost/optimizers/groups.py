"""`params --groups`: parameter groups for an optimizer, by weight decay and learning rate, as code and as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from modelprobe.cost.params import optimizer_role
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Column, Fact, Facts, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit
from modelprobe.tracing.records import ModuleTree, StateTensor

GROUPS_CODE = """\
from fnmatch import fnmatchcase

RATES = {rates}  # the first that fits a name


def parameter_groups(model, weight_decay=0.01):
    groups = {{}}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rates = [
            rate
            for pattern, rate in RATES.items()
            if fnmatchcase(name, pattern) or fnmatchcase(name, f"{{pattern}}.*")
        ]
        rate = rates[0] if rates else None
        # Not to vectors and biases: timm's rule, and that of most recipes.
        decay = parameter.ndim > 1 and name.rpartition(".")[2] != "bias"
        group = groups.setdefault((rate, decay), {{"params": []}})
        group["params"].append(parameter)
        group["weight_decay"] = weight_decay if decay else 0.0
        if rate is not None:
            group["lr"] = rate
    return list(groups.values())


# torch.optim.AdamW(parameter_groups(model), lr=1e-3)
"""


@dataclass(frozen=True, slots=True)
class TrainedGroup:
    """Parameters that an optimizer treats alike. `rate` is None where the optimizer's own learning rate holds."""

    pattern: str
    rate: float | None
    decays: bool
    tensors: int
    total: int
    share: float


@dataclass(frozen=True, slots=True)
class GroupsResult(Result):
    """The groups, and a Python function `parameter_groups(model)` that makes them."""

    model: str
    groups: tuple[TrainedGroup, ...]
    frozen: int
    code: str
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The groups with their counts, then the code."""
        total = sum(group.total for group in self.groups)
        facts = Facts((
            Fact("Trained", total, Unit.QUANTITY, f"{total:,} parameters in {len(self.groups)} groups"),
            Fact("Frozen", self.frozen, Unit.QUANTITY, f"{self.frozen:,}"),
        ))  # fmt: skip
        columns = (
            Column("pattern", "Parameters"),
            Column("rate", "lr"),
            Column("decays", "Weight decay", Unit.YESNO),
            Column("tensors", "Tensors", Unit.COUNT, priority=1),
            Column("total", "Params", Unit.COUNT),
            Column("share", "Share", Unit.SHARE, priority=1),
        )
        rows = tuple(
            Row((g.pattern, "default" if g.rate is None else f"{g.rate:g}", g.decays, g.tensors, g.total, g.share))
            for g in self.groups
        )
        lines = tuple(Row((line,)) for line in self.code.splitlines())
        return self.blocks_report(
            f"{self.model}: parameter groups",
            "modelprobe.parameter-groups/1",
            facts,
            Table(columns, rows, title="Groups", key="groups"),
            Table((Column("code", "Code"),), lines, title="As code", key="code"),
            *self.notes,
        )


def parse_rates(texts: Sequence[str]) -> dict[str, float]:
    """`head.*=1e-2` as pattern and learning rate, in order. Raises BadInput for anything else."""
    rates: dict[str, float] = {}
    for text in texts:
        pattern, _, number = text.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        if not pattern or not 0 <= rate < float("inf"):
            raise BadInput(f"--lr {text!r} is not a pattern and a rate", "for example --lr 'fc.*=1e-2' --lr '*=1e-3'")
        if pattern in rates:
            raise BadInput(f"--lr gives {pattern!r} two rates", "leave one of them out")
        rates[pattern] = rate
    return rates


def groups_of(
    tree: ModuleTree,
    rates: Mapping[str, float],
    *,
    model: str = "",
    notes: Sequence[Note] = (),
    env: Mapping[str, Any] | None = None,
) -> GroupsResult:
    """The trainable parameters by the first pattern of `rates` that fits, and by whether weight decay is applied.

    Raises BadInput for a pattern that is the first to fit no parameter.
    """
    unique = [entry for entry in tree.unique_state() if entry.role == "parameter"]
    found: dict[tuple[str, bool], list[StateTensor]] = {}
    for entry in unique:
        if entry.requires_grad:
            pattern = next((p for p in rates if _rate_fits(entry.path, p)), "")
            found.setdefault((pattern, optimizer_role(entry) == "weight"), []).append(entry)
    idle = [pattern for pattern in rates if pattern not in {key[0] for key in found}]
    if idle:
        names = ", ".join(dict.fromkeys(entry.path.split(".")[0] for entry in unique))
        raise BadInput(
            f"--lr {idle[0]!r} is the first to fit no parameter", f"the first match counts; there are {names}"
        )
    total = sum(entry.numel for group in found.values() for entry in group)
    order = {pattern: place for place, pattern in enumerate(rates)}
    groups = tuple(
        TrainedGroup(
            pattern or ("all others" if rates else "all"),
            rates.get(pattern),
            decays,
            len(entries),
            sum(entry.numel for entry in entries),
            sum(entry.numel for entry in entries) / total if total else 0.0,
        )
        for (pattern, decays), entries in sorted(
            found.items(), key=lambda item: (order.get(item[0][0], len(order)), not item[0][1])
        )
    )
    frozen = sum(entry.numel for entry in unique if not entry.requires_grad)
    code = GROUPS_CODE.format(rates=_as_code(rates))
    return GroupsResult(model or tree.cls, groups, frozen, code, tuple(notes), env or {})


def _rate_fits(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _as_code(rates: Mapping[str, float]) -> str:
    inner = ", ".join(f'"{pattern}": {rate!r}' for pattern, rate in rates.items())
    if len(inner) <= 60:
        return "{" + inner + "}"
    lines = "".join(f'    "{pattern}": {rate!r},\n' for pattern, rate in rates.items())
    return "{\n" + lines + "}"
