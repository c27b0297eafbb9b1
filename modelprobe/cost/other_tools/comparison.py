"""The report of `modelprobe reconcile`: what other tools count for a model, and which operators make the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelprobe.cost.conventions import CONVENTIONS, find_convention
from modelprobe.cost.conventions.convention import Convention, ToolCount
from modelprobe.cost.other_tools.tool import Tool, ToolResult
from modelprobe.cost.rollup import model_name
from modelprobe.model.zoo.published import DIGITS, Published
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, labelled, scaled
from modelprobe.tracing.records import Trace

PUBLISHED = "published"

MAX_REASONS = 4
"""Reasons that are named; the others are added up."""

TRANSPOSED = "transposed conv"
"""Of the kind conv, in a module of torch.nn."""

LEAST_SHARE = 0.0005
"""The least share of our figure that a reason has to make up to be named on its own."""


@dataclass(frozen=True, slots=True)
class Reason:
    """What a tool counts of one kind of operator more or less than modelprobe, in MACs, and why in a few words."""

    kind: str
    difference: float
    why: str


@dataclass(frozen=True, slots=True)
class ToolRow:
    """A tool's `figure` in its own `unit`, `per_mac` of which are one MAC, or the `problem` that stood in its way.

    `macs` is the figure in MACs, `ratio` that to modelprobe's, `unexplained` what of it (in MACs) its convention does
    not predict, None where there is no convention. `reasons` add up to the difference, less what is unexplained.
    """

    tool: str
    version: str
    unit: str
    per_mac: int
    figure: int | float | None
    macs: float | None
    ratio: float | None
    unexplained: float | None
    reasons: tuple[Reason, ...]
    problem: str = ""
    place: str = ""
    seconds: float = 0.0
    remark: str = ""


@dataclass(frozen=True, slots=True)
class ToolComparison(Result):
    """The cost of one forward pass, and what other tools say of it."""

    model: str
    inputs: tuple[str, ...]
    macs: int
    rows: tuple[ToolRow, ...]
    notes: tuple[Note, ...]
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """Two facts, one table, notes."""
        facts = Facts(
            (
                Fact("Input", ", ".join(self.inputs) or "none"),
                Fact("MACs", self.macs, Unit.MACS, f"{self.macs:,} by modelprobe (conv, matmul, attention, recurrent)"),
            )
        )
        title = f"{self.model}: cost of one forward pass as other tools count it"
        return self.blocks_report(title, "modelprobe.flops-compare/1", facts, _comparison_table(self), *self.notes)


def compare_with_tools(
    trace: Trace, tools: Sequence[Tool], answers: Mapping[str, ToolResult], figures: Sequence[Published] = ()
) -> ToolComparison:
    """What `tools` answered beside what `trace` recorded, and beside the `figures` that its authors publish.

    The ledger has to hold function calls (`functions=True`), which one of the tools looks at.
    """
    rows = [_published_row(trace, figure) for figure in figures]
    rows += [_tool_row(trace, tool, answers[tool.name]) for tool in tools]
    versions = {row.tool: row.version for row in rows if row.version}
    return ToolComparison(
        model=model_name(trace),
        inputs=tuple(trace.env.get("inputs", ())),
        macs=trace.macs,
        rows=tuple(rows),
        notes=(
            *trace.notes,
            *_uncounted_note_of_ours(trace),
            *_comparison_notes(rows),
            *_published_settings(trace, rows),
        ),
        env={**trace.env, "tools": versions},
    )


def _tool_row(trace: Trace, tool: Tool, result: ToolResult) -> ToolRow:
    figure, macs, unexplained = result.figure, None, None
    reasons: tuple[Reason, ...] = ()
    if figure is not None:
        macs = figure / tool.per_mac if tool.per_mac > 1 else figure
        if tool.convention in CONVENTIONS:
            convention = find_convention(tool.convention)
            found = convention.predict(trace)
            reasons = explain(trace, found, convention)
            unexplained = (figure - found.total) / convention.per_mac
    return ToolRow(
        tool=tool.name,
        version=tool.version if tool.installed else "",
        unit=tool.unit,
        per_mac=tool.per_mac,
        figure=figure,
        macs=macs,
        ratio=None if macs is None else _ratio(macs, trace),
        unexplained=unexplained,
        reasons=reasons,
        problem=result.problem,
        place=result.place,
        seconds=result.seconds,
    )


def _published_row(trace: Trace, figure: Published) -> ToolRow:
    """The authors' figure, which has three decimals in billions: what they round away is not a difference."""
    convention = find_convention("torchvision")
    found = convention.count(trace)
    same = round(found.total / 1e9, DIGITS) == round(figure.macs / 1e9, DIGITS)
    parameters = trace.tree.parameter_count()
    other = figure.of_data or (not same and parameters != figure.parameters)  # another model, or other boxes
    return ToolRow(
        PUBLISHED,
        "",
        "MACs",
        1,
        figure.macs,
        figure.macs,
        _ratio(figure.macs, trace),
        None if other else 0.0 if same else float(figure.macs - found.total),
        () if other else explain(trace, found, convention),
        remark=_remark(figure, parameters),
    )


def _remark(figure: Published, parameters: int) -> str:
    name = f"{figure.entries[0]} of torchvision"
    if figure.of_data:
        return f"{name}, for one random image: it depends on what is found there"
    differs = parameters != figure.parameters
    return f"{name}, with {figure.parameters:,} parameters instead of {parameters:,}" if differs else name


def _ratio(macs: float, trace: Trace) -> float | None:
    return macs / trace.macs if trace.macs else None


def _uncounted_note_of_ours(trace: Trace) -> list[Note]:
    """A warning on what modelprobe's own figure leaves out."""
    names = ", ".join(f"{item.name} x{item.count}" for item in trace.uncounted)
    return [Note(f"Not in modelprobe's own figure (no formula): {names}.", Level.WARNING)] if names else []


def _comparison_notes(rows: Sequence[ToolRow]) -> list[Note]:
    notes = _asked_notes(rows)
    silent = [row for row in rows if row.problem]
    if silent:
        names = ", ".join(row.tool for row in silent)
        text = f"{len(silent)} of {len(rows)} rows have no figure: {names}."
        notes.append(Note(text, Level.WARNING))
    for row in rows:
        if row.unexplained:
            text = f"{row.tool}: {signed(row.unexplained)} MACs are not explained by its known rules."
            notes.append(Note(text, Level.WARNING))
    return notes


def _asked_notes(rows: Sequence[ToolRow]) -> list[Note]:
    """The versions that ran and where, and FLOPs per MAC, on which tools do not agree."""
    places: dict[str, list[str]] = {}
    for row in rows:
        if row.place and row.figure is not None:
            places.setdefault(row.place, []).append(f"{row.tool} {row.version}".strip())
    asked = "; ".join(f"on {place}: {', '.join(tools)}" for place, tools in places.items())
    units = [f"{row.tool} {row.per_mac}" for row in rows if row.unit == "FLOPs" and row.figure is not None]
    texts = [f"Ran {asked}."] if asked else []
    texts += [f"FLOPs per MAC: {', '.join(units)}."] if units else []
    return [Note(" ".join(texts), Level.INFO)] if texts else []


def _published_settings(trace: Trace, rows: Sequence[ToolRow]) -> list[Note]:
    """Notes on published figures of a tool that were made under other settings."""
    notes = []
    for row in rows:
        convention = find_convention(row.tool) if row.tool in CONVENTIONS else None
        if convention is None or convention.as_installed is None or row.figure is None:
            continue
        found = convention.count(trace)
        if found.total == convention.predict(trace).total:
            continue
        texts = found.notes or (f"{convention.follows} says {found.total:,} {convention.amount}, other releases less.",)
        notes += [Note(f"{row.tool}: {text}", Level.INFO) for text in texts]
    return notes


def _comparison_table(result: ToolComparison) -> Table:
    columns = (
        Column("tool", "Tool"),
        Column("says", "Reports"),
        Column("macs", "In MACs", Unit.MACS),
        Column("ratio", "vs ours", Unit.SHARE),
        Column("why", "Reasons", wrap=True),
    )
    own = Row(("modelprobe", labelled(result.macs, Unit.MACS), result.macs, 1.0 if result.macs else None, ""))
    rows = [
        Row((row.tool, _says(row), row.macs, row.ratio, _why(row, result)), quiet=bool(row.problem))
        for row in result.rows
    ]
    return Table(columns, (own, *rows))


def _says(row: ToolRow) -> str:
    if row.figure is None:
        return ""
    unit = {"MACs": Unit.MACS, "FLOPs": Unit.FLOPS}.get(row.unit)
    return labelled(row.figure, unit) if unit is not None else f"{scaled(row.figure)} {row.unit}"


def _why(row: ToolRow, result: ToolComparison) -> str:
    if row.problem:
        return row.problem
    parts = reasons_text(row.reasons, result.macs)
    if row.unexplained is None and not row.remark:
        parts = [f"{signed((row.macs or 0) - result.macs)}, its rules are not known"]
    elif row.unexplained:
        parts.append(f"unexplained: {signed(row.unexplained)}")
    return "; ".join([*([row.remark] if row.remark else []), *parts]) or "identical"


def explain(trace: Trace, found: ToolCount, convention: Convention) -> tuple[Reason, ...]:
    """The difference between `found` and our MACs by kind of operator, the greatest first. They add up to all of it."""
    own: dict[str, dict[str, float]] = {}
    counted: dict[str, dict[str, float]] = {}
    classes = {node.path: node.cls for node in trace.tree.modules}
    for op in trace.ops:
        if op.macs:
            _add_amount(own, op.kind, classes.get(op.module, ""), op.macs)
    for item in found.items:
        _add_amount(counted, item.kind, classes.get(item.module, ""), item.amount / convention.per_mac)
    reasons = []
    for kind in dict.fromkeys((*own, *counted)):
        ours, theirs = own.get(kind, {}), counted.get(kind, {})
        difference = sum(theirs.values()) - sum(ours.values())
        if difference:
            more, fewer = convention.reasons_more.get(kind, ""), convention.reasons_fewer.get(kind, "")
            by_output = kind == TRANSPOSED and bool(theirs) and not fewer
            why = more if difference > 0 or by_output else _where_not_seen(ours, theirs, fewer)
            reasons.append(Reason(kind, difference, why))
    return tuple(sorted(reasons, key=lambda reason: -abs(reason.difference)))


def _add_amount(amounts: dict[str, dict[str, float]], kind: str, cls: str, amount: float) -> None:
    """Transposed convolutions are a kind of their own: tools that go by the output count them too high or too low."""
    inside = amounts.setdefault(TRANSPOSED if kind == "conv" and "ConvTranspose" in cls else kind, {})
    inside[cls] = inside.get(cls, 0) + amount


def _where_not_seen(ours: dict[str, float], theirs: dict[str, float], habit: str) -> str:
    """Where the tool sees nothing, or too little, and its reason: the classes of the modules that the operators ran in.

    A class that makes up most of it stands alone; what is lacking in the others is said to be there.
    """
    lacking = {cls: amount - theirs.get(cls, 0) for cls, amount in ours.items() if amount > theirs.get(cls, 0)}
    worst = sorted(lacking, key=lambda cls: -lacking[cls])
    named = worst[:2] if lacking[worst[0]] < 0.9 * sum(lacking.values()) else worst[:1]
    others = " and others" if len(worst) > len(named) and len(named) > 1 else ""
    seen = any(theirs.get(cls, 0) for cls in named)
    where = f"{'seen in part' if seen else 'not seen'} in {', '.join(named)}{others}"
    return f"{where}: {habit}" if habit else where


def reasons_text(reasons: Sequence[Reason], macs: int) -> list[str]:
    """The reasons that matter as phrases, and what the others add up to. Kinds with one reason are named together."""
    joined: dict[tuple[str, bool], list[Reason]] = {}
    for reason in reasons:
        key = (reason.why, reason.difference > 0) if reason.why else (reason.kind, True)
        joined.setdefault(key, []).append(reason)
    groups = sorted(joined.values(), key=lambda group: -abs(_total_difference(group)))
    main = [group for i, group in enumerate(groups) if i == 0 or abs(_total_difference(group)) >= LEAST_SHARE * macs][
        :MAX_REASONS
    ]
    rest = sum(map(_total_difference, groups[len(main) :]))
    return [*map(_reason_phrase, main), *([f"{signed(rest)} other kinds"] if rest else [])]


def _total_difference(group: Sequence[Reason]) -> float:
    return sum(reason.difference for reason in group)


def _reason_phrase(group: Sequence[Reason]) -> str:
    kinds, why = ", ".join(reason.kind for reason in group), group[0].why
    if group[0].difference < 0 and TRANSPOSED not in kinds:
        return f"{signed(_total_difference(group))} {kinds} {why}"
    return f"{signed(_total_difference(group))} {kinds}{f' ({why})' if why else ''}"


def signed(difference: float) -> str:
    """An amount with its sign: `+15.13 M`."""
    whole = int(difference) if float(difference).is_integer() else difference
    return f"{'+' if difference > 0 else ''}{scaled(whole)}"
