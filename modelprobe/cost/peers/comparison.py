"""What do other tools say when they are asked about this model, and which operators make the difference?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelprobe.cost.conventions import CONVENTIONS
from modelprobe.cost.peers.answer import Answer
from modelprobe.cost.peers.peer import Peer
from modelprobe.cost.peers.peer_reasons import Reason, explain, signed, told
from modelprobe.model.zoo.published import DIGITS, Published
from modelprobe.report.blocks import Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, labelled, scaled
from modelprobe.tracing.records import Trace

PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class PeerRow:
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
class PeerComparison(Result):
    """The cost of one forward pass, and what other tools say of it."""

    model: str
    inputs: tuple[str, ...]
    macs: int
    rows: tuple[PeerRow, ...]
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
        title = f"{self.model}: the cost of one forward pass as other tools count it"
        return Report(title, "modelprobe.flops-compare/1", (facts, _table(self), *self.notes), self.to_dict(), self.env)


def compare_with_peers(
    trace: Trace, peers: Sequence[Peer], answers: Mapping[str, Answer], figures: Sequence[Published] = ()
) -> PeerComparison:
    """What `peers` answered beside what `trace` recorded, and beside the `figures` that its authors publish.

    The ledger has to hold function calls (`functions=True`), which one of the tools looks at.
    """
    rows = [_published_row(trace, figure) for figure in figures]
    rows += [_row(trace, peer, answers[peer.name]) for peer in peers]
    versions = {row.tool: row.version for row in rows if row.version}
    return PeerComparison(
        model=str(trace.env.get("model", trace.tree.cls)),
        inputs=tuple(trace.env.get("inputs", ())),
        macs=trace.macs,
        rows=tuple(rows),
        notes=(*trace.notes, *_own_notes(trace), *_notes(rows), *_settings(trace, rows)),
        env={**trace.env, "peers": versions},
    )


def _row(trace: Trace, peer: Peer, answer: Answer) -> PeerRow:
    version = peer.version if peer.installed else ""
    if answer.figure is None:
        none = (None, None, None, None)
        return PeerRow(
            peer.name, version, peer.unit, peer.per_mac, *none, (), answer.problem, answer.place, answer.seconds
        )
    macs = answer.figure / peer.per_mac if peer.per_mac > 1 else answer.figure
    unexplained: float | None = None
    reasons: tuple[Reason, ...] = ()
    convention = CONVENTIONS.get(peer.convention)
    if convention is not None:
        found = convention.predict(trace)
        reasons = explain(trace, found, convention)
        unexplained = (answer.figure - found.total) / convention.per_mac
    return PeerRow(
        peer.name,
        version,
        peer.unit,
        peer.per_mac,
        answer.figure,
        macs,
        _ratio(macs, trace),
        unexplained,
        reasons,
        place=answer.place,
        seconds=answer.seconds,
    )


def _published_row(trace: Trace, figure: Published) -> PeerRow:
    """The authors' figure, which has three decimals in billions: what they round away is not a difference."""
    convention = CONVENTIONS["torchvision"]
    found = convention.count(trace)
    same = round(found.total / 1e9, DIGITS) == round(figure.macs / 1e9, DIGITS)
    parameters = trace.tree.parameter_count()
    other = figure.of_data or (not same and parameters != figure.parameters)  # another model, or other boxes
    return PeerRow(
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
    said = f"{figure.entries[0]} of torchvision"
    if figure.of_data:
        return f"{said}, for one random image: it depends on what is found there"
    if parameters != figure.parameters:
        said += f", with {figure.parameters:,} parameters instead of {parameters:,}"
    return said


def _ratio(macs: float, trace: Trace) -> float | None:
    return macs / trace.macs if trace.macs else None


def _own_notes(trace: Trace) -> list[Note]:
    """What our own figure, which the others are measured by, leaves out."""
    names = ", ".join(f"{item.name} x{item.count}" for item in trace.uncounted)
    return [Note(f"Not in modelprobe's own figure, for want of a formula: {names}.", Level.WARNING)] if names else []


def _notes(rows: Sequence[PeerRow]) -> list[Note]:
    notes = _asked_notes(rows)
    silent = [row for row in rows if row.problem]
    if silent:
        names = ", ".join(row.tool for row in silent)
        text = f"{len(silent)} of {len(rows)} rows have no figure: {names}."
        notes.append(Note(text, Level.WARNING))
    for row in rows:
        if row.unexplained:
            text = f"{row.tool} says {signed(row.unexplained)} MACs that its rules, as known here, do not explain."
            notes.append(Note(text, Level.WARNING))
    return notes


def _asked_notes(rows: Sequence[PeerRow]) -> list[Note]:
    """Who was asked and where, and what a FLOP is: tools do not agree."""
    places: dict[str, list[str]] = {}
    for row in rows:
        if row.place and row.figure is not None:
            places.setdefault(row.place, []).append(f"{row.tool} {row.version}".strip())
    asked = "; ".join(f"on {place}: {', '.join(tools)}" for place, tools in places.items())
    told = [f"{row.per_mac} to {row.tool}" for row in rows if row.unit == "FLOPs" and row.figure is not None]
    texts = [f"Asked {asked}."] if asked else []
    texts += [f"One MAC in FLOPs: {', '.join(told)}."] if told else []
    return [Note(" ".join(texts), Level.INFO)] if texts else []


def _settings(trace: Trace, rows: Sequence[PeerRow]) -> list[Note]:
    """How a figure of the same tool comes about that others publish."""
    notes = []
    for row in rows:
        convention = CONVENTIONS.get(row.tool)
        if convention is None or convention.live is None or row.figure is None:
            continue
        found = convention.count(trace)
        if found.total == convention.live(trace).total:
            continue
        texts = found.notes or (f"{convention.follows} says {found.total:,} {convention.amount}, other releases less.",)
        notes += [Note(f"{row.tool}: {text}", Level.INFO) for text in texts]
    return notes


def _table(result: PeerComparison) -> Table:
    columns = (
        Column("tool", "Tool"),
        Column("says", "It says"),
        Column("macs", "In MACs", Unit.MACS),
        Column("ratio", "Of ours", Unit.SHARE),
        Column("why", "Why", wrap=True),
    )
    own = Row(("modelprobe", labelled(result.macs, Unit.MACS), result.macs, 1.0 if result.macs else None, ""))
    rows = [
        Row((row.tool, _says(row), row.macs, row.ratio, _why(row, result)), quiet=bool(row.problem))
        for row in result.rows
    ]
    return Table(columns, (own, *rows))


def _says(row: PeerRow) -> str:
    if row.figure is None:
        return ""
    unit = {"MACs": Unit.MACS, "FLOPs": Unit.FLOPS}.get(row.unit)
    return labelled(row.figure, unit) if unit is not None else f"{scaled(row.figure)} {row.unit}"


def _why(row: PeerRow, result: PeerComparison) -> str:
    if row.problem:
        return row.problem
    parts = told(row.reasons, result.macs)
    if row.unexplained is None and not row.remark:
        parts = [f"{signed((row.macs or 0) - result.macs)}, its rules are not known here"]
    elif row.unexplained:
        parts.append(f"unexplained: {signed(row.unexplained)}")
    return "; ".join([*([row.remark] if row.remark else []), *parts]) or "the same"
