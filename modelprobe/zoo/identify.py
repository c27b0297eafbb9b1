"""The answer of `modelprobe identify`: which network a weight file belongs to, from its names and shapes alone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelprobe.checkpoint.adapters.lora import Lora, find_lora
from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.keys.name_tree import drop_patterns
from modelprobe.checkpoint.keys.plan import entries_by_name
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.own_words import architecture_words
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.model.zoo.fingerprint import TensorShape
from modelprobe.model.zoo.index import read_catalogue
from modelprobe.model.zoo.match import Match, Verdict, ZooCandidate, match_network
from modelprobe.model.zoo.names import TIMM, TORCHVISION
from modelprobe.report.blocks import Block, Column, Fact, Facts, Level, Note, Report, Row, Table
from modelprobe.report.result import Result
from modelprobe.report.units import Unit, first_few, shape
from modelprobe.zoo.blueprint import Blueprint, blueprint_of

MAX_CANDIDATES_SHOWN = 3
MAX_AGAINST = 3
"""Names shown of those that speak against a network."""

_STATE_OF_OPTIMIZER = re.compile(r".*(?:exp_avg(?:_sq)?|momentum_buffer|max_exp_avg_sq|square_avg|step)")
_DELTA = re.compile(r".*(?:[._]delta|\.diff(?:_b)?)")


@dataclass(frozen=True, slots=True)
class IdentifyResult(Result):
    """What a file is. `verdict` is `certain`, `likely` or `unknown`; `target` is None when it is unknown.

    `kind` is `network`, `adapter`, `optimizer` or `delta`. `candidates` are the nearest networks, each with what speaks
    against it. `naming` says what was done to the names first. `command` loads the file into the network.
    """

    path: str
    branch: str
    kind: str
    verdict: Verdict
    target: str | None
    tensors: int
    candidates: tuple[ZooCandidate, ...]
    naming: tuple[str, ...] = ()
    by_shapes: bool = False
    command: str = ""
    blueprint: Blueprint | None = None
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(repr=False, default_factory=dict)

    def report(self) -> Report:
        """The verdict, the nearest networks, or what names and shapes imply."""
        many = "tensor" if self.tensors == 1 else "tensors"
        facts = [Fact("File", self.path, detail=f"{self.tensors:,} {many} in {self.branch or 'the root'}")]
        first = self.candidates[0] if self.candidates else None
        named = self.target if self.target else f"unknown {self.kind}" if self.kind == "network" else self.kind
        detail = ", ".join((*(first.differences if first else ()), *self.naming)) if self.target else ""
        facts.append(Fact("Network", named, detail=detail))
        facts.append(Fact("Verdict", self.verdict))
        if self.target and first is not None and first.same_as:
            count = len(first.same_as)
            facts.append(
                Fact("Same names and shapes", first_few(first.same_as, 6), detail=f"{count} more" if count > 6 else "")
            )
        if self.command:
            facts.append(
                Fact("Repair it" if self.command.startswith("modelprobe repair") else "Check it", self.command)
            )
        blocks: list[Block] = [Facts(tuple(facts))]
        if self.candidates:
            blocks.append(_candidate_table(self.candidates))
        if self.blueprint is not None:
            blocks += self.blueprint.blocks()
        return self.blocks_report(f"{self.path}: which network", "modelprobe.identify/1", *blocks, *self.notes)


def _candidate_table(candidates: tuple[ZooCandidate, ...]) -> Table:
    columns = (
        Column("target", "Nearest"),
        Column("score", "Score", Unit.SHARE),
        Column("same", "Same", Unit.COUNT, priority=2),
        Column("other_shape", "Other shape", Unit.COUNT, priority=3),
        Column("missing", "Missing", Unit.COUNT, priority=1),
        Column("extra", "Extra", Unit.COUNT, priority=1),
        Column("against", "Against it", wrap=True, priority=4),
    )
    rows = (
        Row((c.target, c.score, c.same, len(c.other_shape), len(c.missing), len(c.extra), _against(c)))
        for c in candidates
    )
    return Table(columns, tuple(rows), key="candidates")


def _against(candidate: ZooCandidate) -> str:
    """The first names that speak against a network."""
    named = ["other names"] if "other names" in candidate.differences else []
    said = [f"{o.name} {shape(o.file)}, not {shape(o.network)}" for o in candidate.other_shape[:MAX_AGAINST]]
    said += [f"no {name}" for name in candidate.missing[: MAX_AGAINST - len(said)]]
    said += [f"also {name}" for name in candidate.extra[: max(0, MAX_AGAINST - len(said))]]
    return "; ".join(named + said)


def identify(path: str, branch: str | None = None, env: Mapping[str, Any] | None = None) -> IdentifyResult:
    """Which network of the index a weight file is of; its header alone is read. Raises BadInput when it cannot be."""
    found = open_checkpoint(path)
    lora = find_lora(found)
    if lora is not None:
        return _adapter(found, lora, env or {})
    chosen = chosen_branch(found, branch)
    names = {name: entry.shape for name, entry in entries_by_name(found, chosen).items()}
    kind = _kind_of_contents(found, names)
    if kind != "network":
        text = {
            "optimizer": "The file holds the state of an optimizer, and no weights.",
            "delta": "The file holds differences of weights: they mean something only with their base.",
        }[kind]
        return IdentifyResult(
            path, chosen.name, kind, "unknown", None, len(names), (), notes=(Note(text, Level.WARNING),), env=env or {}
        )
    catalogue = read_catalogue()
    match = match_network(names, catalogue, architecture_words(found))
    notes = [Note(f"{text[:1].upper()}{text[1:]}.", Level.WARNING) for text in catalogue.problems]
    others = [b.name for b in found.branches if b.name != chosen.name]
    if others:
        notes.append(Note(f"The file also holds {first_few(others, 4)}: --branch chooses.", Level.INFO))
    unknown = match.verdict == "unknown"
    top = match.candidates[0] if match.candidates else None
    return IdentifyResult(
        path, chosen.name, kind, match.verdict, None if unknown or top is None else top.target, len(names),
        match.candidates[:MAX_CANDIDATES_SHOWN], match.variant.how, match.by_shapes,
        "" if unknown or top is None else loading_command(path, top, match),
        blueprint_of(names) if unknown else None, (*notes, *_verdict_notes(match)), env or {},
    )  # fmt: skip


def network_facts(path: str) -> dict[str, str]:
    """The network of a weight file for a bill of materials; empty where its names and shapes do not tell it."""
    found = identify(path)
    if found.target is None:
        return {}
    first = found.candidates[0]
    facts = {"target": found.target, "verdict": found.verdict}
    others = {"differences": first.differences, "same names and shapes": first.same_as[:6], "naming": found.naming}
    return facts | {key: ", ".join(texts) for key, texts in others.items() if texts}


def _verdict_notes(match: Match) -> Iterator[Note]:
    if match.verdict == "likely" and match.by_shapes:
        yield Note("Named by its shapes alone: the names are another library's.", Level.ASSUMED)
    elif match.verdict == "likely" and match.ambiguous and match.candidates[0].explained:
        text = "Names and shapes do not tell it from networks of other costs (under the same names and shapes)."
        yield Note(text, Level.ASSUMED)
    elif match.by_name:
        yield Note("Told from others of the same names and shapes by what the file calls itself.", Level.INFO)
    elif match.verdict == "likely":
        yield Note("Likely, not certain: what speaks against it is in the table.", Level.ASSUMED)
    elif match.verdict == "unknown":
        yield Note("No network of the index has these names and shapes; name it with --arch.", Level.WARNING)


def loading_command(path: str, candidate: ZooCandidate, match: Match) -> str:
    """The command that checks the file against the network, or rewrites it where its names are others or too many.

    None where no such command would work: for packed integers, and where the network cannot be built like that.
    """
    target, settings = candidate.target, dict(candidate.settings)
    if target.startswith(f"{TORCHVISION}:") and "in_chans" in settings:  # its builders take no such argument
        target = next((other for other in candidate.same_as if other.startswith(f"{TIMM}:")), "")
    if not target or any(name.endswith((".zero_point", "._packed_params")) for name in match.variant.names):
        return ""
    given = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    if not match.by_shapes:
        kept = [name for name in match.variant.names if name not in candidate.extra]
        patterns = drop_patterns((*candidate.missing, *candidate.extra), kept)
        given += [text for pattern in patterns for text in ("--drop", pattern)]
    rewritten = match.variant.how or match.by_shapes or candidate.extra
    written = ["-o", f"{Path(path).stem}.repaired.safetensors"] if rewritten else []
    return shlex.join(["modelprobe", "repair" if rewritten else "keys", path, "--arch", target, *given, *written])


def _kind_of_contents(found: Checkpoint, names: Mapping[str, TensorShape]) -> str:
    keys = {child.key for child in found.tree.children}
    states = sum(1 for name in names if _STATE_OF_OPTIMIZER.fullmatch(name))
    if {"state", "param_groups"} <= keys or 2 * states > len(names):
        return "optimizer"
    return "delta" if 2 * sum(1 for name in names if _DELTA.fullmatch(name)) > len(names) else "network"


def _networks_of(lora: Lora) -> list[str]:
    """The networks of the index that have every layer that the adapter changes."""
    weights = {
        f"{layer.module}.weight": (layer.up.shape[0], *layer.down.shape[1:])
        for layer in lora.layers
        if not layer.embedding
    }
    return read_catalogue().holding(weights) if weights else []


def _adapter(found: Checkpoint, lora: Lora, env: Mapping[str, Any]) -> IdentifyResult:
    ranks = ", ".join(map(str, lora.ranks))
    layers = [layer.module for layer in lora.layers]
    alphas = sorted({alpha for layer in lora.layers if (alpha := lora.alpha(layer)) is not None})
    text = f"LoRA of rank {ranks}{f', alpha {alphas[0]:g}' if len(alphas) == 1 else ''}, {len(layers):,} layers: "
    base = f" Its configuration names {lora.base} as the base." if lora.base else " The file does not name its base."
    notes = [Note(f"{text}{first_few(layers, 3)}.{base} `modelprobe summary` shows more.", Level.INFO)]
    fits = _networks_of(lora)
    if fits:
        notes.append(Note(f"It fits {first_few(fits, 4)}, which have these layers with these shapes.", Level.INFO))
    name = found.branch.name if found.branch else ""
    return IdentifyResult(
        found.path, name, "adapter", "unknown", None, len(found.tensors), (), notes=tuple(notes), env=env
    )
