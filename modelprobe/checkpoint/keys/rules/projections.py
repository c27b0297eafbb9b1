"""The order of query, key and value in one tensor: q, k, v unless a name says another."""

from __future__ import annotations

from dataclasses import replace

from modelprobe.checkpoint.keys.draft import Part, PlanDraft, RuleStage, ValueStep, key_rule
from modelprobe.checkpoint.keys.rules.shapes import TRIPLES
from modelprobe.checkpoint.keys.rules.structure import owner_and_leaf
from modelprobe.checkpoint.keys.words import NORMAL, projection_order

RULE = "order of query, key and value"
PER_HEAD = "query_key_value"
"""BLOOM, GPT-NeoX, Falcon and Megatron store the rows head by head, ChatGLM and others one after the other."""


def _segment(name: str) -> str:
    return owner_and_leaf(name)[0].rpartition(".")[2]


def _letter(name: str) -> str:
    """Which of the three a tensor of one of them is."""
    segment = _segment(name)
    return next((NORMAL[triple.index(segment)] for triple in TRIPLES if segment in triple), "")


@key_rule(RULE, RuleStage.FILLING)
def order_of_projections(draft: PlanDraft) -> None:
    """Rows of a `kqv` put in the order that is wanted, whichever rule renamed, joined or split it."""
    made, unknown = [], []
    for part in draft.parts.values():
        if "timm's own conversion" in part.rules:
            continue  # which knows the file
        new = _in_wanted_order(part)
        if new is None:
            unknown.append(part)
        elif new != part:
            made.append(new)
    reason = "the names say in which order the three stand in the file, and in which they are wanted"
    draft.make(made, RULE, reason, [part.name for part in made])
    if unknown:
        first = unknown[0]
        many = f" ({len(unknown):,} such tensors)" if len(unknown) > 1 else ""
        source = " + ".join(first.sources)
        draft.doubts.append(
            f"{source} becomes {first.name}{many}, and how query, key and value lie in a tensor of that name is not "
            "known: networks store them one after the other or head by head"
        )


def _in_wanted_order(part: Part) -> Part | None:
    """The part with its rows in the order wanted; None where that is not known."""
    wanted = _segment(part.name)
    segments = [_segment(source) for source in part.sources]
    if not segments or segments == [wanted]:
        return part
    cut = [step for step in part.steps if step.op == "third"]
    joined = len(segments) == 3 and any(step.op == "join" for step in part.steps)
    mine = NORMAL if joined else projection_order(segments[0])
    theirs = NORMAL if cut else projection_order(wanted)
    if not mine and not theirs:
        return part
    if PER_HEAD in (*segments[:1], wanted) or ((not mine or not theirs) and {mine, theirs} != {"", NORMAL}):
        return None
    if joined:
        return _joined_rows(part, theirs)
    if cut:
        return _cut_out(part, mine)
    if not mine or not theirs or mine == theirs:
        return part
    if not part.shape or part.shape[0] % 3:
        return None
    rest = tuple(step for step in part.steps if step.op != "thirds")
    order = ValueStep("thirds", tuple(mine.index(letter) for letter in theirs))
    return replace(part, steps=(order, *rest))


def _joined_rows(part: Part, theirs: str) -> Part:
    by_letter = {_letter(source): source for source in part.sources}
    if not theirs or set(by_letter) != set(NORMAL):
        return part
    return replace(part, sources=tuple(by_letter[letter] for letter in theirs))


def _cut_out(part: Part, mine: str) -> Part:
    letter = _letter(part.name)
    if not mine or not letter:
        return part
    index = ValueStep("third", (mine.index(letter),))
    return replace(part, steps=tuple(index if step.op == "third" else step for step in part.steps))
