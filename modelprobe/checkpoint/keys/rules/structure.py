"""The rule for another library's names of the same network: found by shapes and structure, never by a list of models.

Tensors are gathered into units, one per layer. Where both sides have the same units, the k-th of a shape in the file is
taken for the k-th of that shape in the reference. Where several units share a shape that is an assumption, which the
draft records: it must be proven by equal outputs, or asked for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from modelprobe.checkpoint.keys.draft import Part, PlanDraft, RuleStage, key_rule
from modelprobe.checkpoint.keys.reference import Expectation, ExpectedTensor
from modelprobe.checkpoint.keys.rules.missing import COUNTER
from modelprobe.checkpoint.keys.rules.shapes import TRIPLES
from modelprobe.checkpoint.keys.words import projection_order, words_apart

LEAVES = ("weight", "bias", "running_mean", "running_var", COUNTER)
VALUE = "value"
MIN_AGREEING_SHARE = 0.5
"""Below this share of names that agree already, those too may agree by accident."""

Dims = tuple[int, ...]
Signature = tuple[tuple[str, Dims], ...]


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """The tensors of one layer, by what they are. `fused` holds query, key and value where they are apart.

    `strides` tell convolutions of one shape apart, and the norms behind them, where their network is known.
    """

    owner: str
    leaves: dict[str, tuple[str, Dims]]
    fused: tuple[LayerTensors, ...] = ()
    strides: tuple[int, ...] = ()


@key_rule("names of another library", RuleStage.STRUCTURE)
def aligned(draft: PlanDraft) -> None:
    """The k-th layer of a shape for the k-th layer of that shape."""
    if draft.reference is None or not draft.missing() or draft.problems:
        return
    if draft.misshapen():  # a name that both use for different things: none of the names can be trusted
        source, target = _every(draft)
    else:
        source = _layers_of(draft.unexpected(), draft.known)
        target = _layers_of(draft.missing(), draft.reference)
    found = _matched_layers(source, target) or _matched_layers(*_every(draft))
    if found is None:
        return
    _carry_out(draft, found)


def _every(draft: PlanDraft) -> tuple[list[LayerTensors], list[LayerTensors]]:
    """All layers of both sides, whether their names agree or not."""
    source = _layers_of(draft.parts.values(), draft.known)
    return source, _layers_of(
        [want for want in draft.expected.values() if want.name not in draft.allowed_missing], draft.reference
    )


def _layers_of(tensors: Iterable[Part | ExpectedTensor], network: Expectation | None) -> list[LayerTensors]:
    found = layers_of([(tensor.name, tensor.shape) for tensor in tensors])
    return _striding(found, network.strides) if network and network.strides else found


def layers_of(named: Sequence[tuple[str, Dims]]) -> list[LayerTensors]:
    """The layers of a list of tensors, in its order."""
    found: dict[str, LayerTensors] = {}
    for name, shape in named:
        owner, leaf = owner_and_leaf(name)
        found.setdefault(owner, LayerTensors(owner, {})).leaves[leaf] = (name, shape)
    return list(found.values())


def _striding(every: list[LayerTensors], strides: Mapping[str, tuple[int, ...]]) -> list[LayerTensors]:
    """Convolutions with their strides, and batch norms with those of the convolution that they stand behind."""
    found: list[LayerTensors] = []
    for unit in every:
        behind = found[-1] if found and "running_mean" in unit.leaves else None
        known = (*behind.strides, *behind.leaves["weight"][1]) if behind and "weight" in behind.leaves else ()
        found.append(replace(unit, strides=strides.get(unit.owner, known)))
    return found


def owner_and_leaf(name: str) -> tuple[str, str]:
    """The layer a tensor belongs to, and what it is in it: `a.in_proj_weight` is the weight of `a.in_proj`."""
    owner, _, last = name.rpartition(".")
    if last in LEAVES:
        return owner, last
    for leaf in ("weight", "bias"):
        if last.endswith(f"_{leaf}"):
            return f"{owner}.{last[: -len(leaf) - 1]}", leaf
    return name, VALUE


def strided_signature(unit: LayerTensors) -> Signature:
    """What a unit looks like, and how a convolution moves: shortcuts have shapes of other layers, not their strides."""
    return (*exact_signature(unit), ("strides", unit.strides))


def exact_signature(unit: LayerTensors) -> Signature:
    """What a unit looks like, shape for shape; batch counters aside, which old files lack."""
    shapes = ((leaf, shape) for leaf, (_, shape) in unit.leaves.items() if leaf != COUNTER)
    return tuple(sorted(_tall(unit, leaf, shape) for leaf, shape in shapes))


def loose_signature(unit: LayerTensors) -> Signature:
    """The same, where a 1x1 convolution is a linear layer, and a kernel over a whole map is one too."""
    return tuple(sorted((leaf, _flat_shape(leaf, shape)) for leaf, shape in exact_signature(unit)))


def _tall(unit: LayerTensors, leaf: str, shape: Dims) -> tuple[str, Dims]:
    return leaf, (shape[0] * 3, *shape[1:]) if unit.fused else shape


def _flat_shape(leaf: str, shape: Dims) -> Dims:
    if leaf == "weight" and len(shape) > 1:
        return shape[0], math.prod(shape[1:])
    return tuple(dim for dim in shape if dim != 1)


Pairs = list[tuple[LayerTensors, LayerTensors]]


def _matched_layers(
    source: list[LayerTensors], target: list[LayerTensors]
) -> tuple[Pairs, dict[Signature, int]] | None:
    """Each unit of the file with one of the reference, and how many share each signature; None without a bijection."""
    for mine in (source, with_fused_projections(source)):
        for theirs in (target, with_fused_projections(target)):
            for look in (strided_signature, exact_signature, loose_signature):
                found = _by_order(mine, theirs, look)
                if found is not None:
                    return found
    return None


def _by_order(
    mine: list[LayerTensors], theirs: list[LayerTensors], look: Callable[[LayerTensors], Signature]
) -> tuple[Pairs, dict[Signature, int]] | None:
    counts = Counter(map(look, mine))
    if not mine or counts != Counter(map(look, theirs)):
        return None
    waiting: dict[Signature, list[LayerTensors]] = {}
    for unit in reversed(theirs):
        waiting.setdefault(look(unit), []).append(unit)
    return [(unit, waiting[look(unit)].pop()) for unit in mine], dict(counts)


def with_fused_projections(every: list[LayerTensors]) -> list[LayerTensors]:
    """The same layers with query, key and value of one attention as one."""
    by_owner = {unit.owner: unit for unit in every}
    gone: set[str] = set()
    found = []
    for unit in every:
        three = _query_key_value(unit.owner, by_owner)
        if three and len({exact_signature(each) for each in three}) == 1:
            gone |= {each.owner for each in three}
            found.append(replace(three[0], fused=three))
        elif unit.owner not in gone:
            found.append(unit)
    return found if gone else every


def _query_key_value(owner: str, by_owner: dict[str, LayerTensors]) -> tuple[LayerTensors, ...]:
    """Query, key and value, if this is the query of three."""
    above, dot, last = owner.rpartition(".")
    for triple in TRIPLES:
        names = [f"{above}{dot}{name}" for name in triple]
        if last == triple[0] and all(name in by_owner for name in names):
            return tuple(by_owner[name] for name in names)
    return ()


def _carry_out(draft: PlanDraft, found: tuple[Pairs, dict[Signature, int]]) -> None:
    pairs, counts = found
    made, used = [], []
    for mine, theirs in pairs:
        new, gone = _converted_part(draft, mine, theirs)
        made += new
        used += gone
    share = 1 - len(used) / max(len(draft.parts), 1)
    every = Counter(map(exact_signature, _layers_of(draft.expected.values(), None)))
    several = any(count > 1 for count in counts.values()) or any(
        every[exact_signature(theirs)] > 1 for _, theirs in pairs
    )
    changed = [part for part in made if part.name not in used or part != draft.parts.get(part.name)]
    reason = f"{len(pairs):,} layers of the same shapes on both sides, in the same order"
    if not changed or not draft.make(made, "names of another library", reason, used):
        return
    draft.structural = True
    if several or share < MIN_AGREEING_SHARE:
        draft.by_order.append(tuple(part.name for part in made))
    draft.doubts += [
        f"{mine.owner} is taken for {theirs.owner}, which has its shapes"
        for mine, theirs in pairs
        if not draft.by_order and words_apart(*_ends_apart(mine, theirs))
    ]


def _ends_apart(mine: LayerTensors, theirs: LayerTensors) -> tuple[str, str]:
    """What is left of two names without what they begin with alike, and without those of projections."""
    old, new = mine.owner.split("."), theirs.owner.split(".")
    if all(each.fused or projection_order(name[-1]) for each, name in ((mine, old), (theirs, new))):
        old, new = old[:-1], new[:-1]
    while old and new and old[0] == new[0]:
        old, new = old[1:], new[1:]
    return "_".join(old), "_".join(new)


def _converted_part(draft: PlanDraft, mine: LayerTensors, theirs: LayerTensors) -> tuple[list[Part], list[str]]:
    """The parts that a layer of the reference is made of, and the parts they use up."""
    made, used = [], []
    for leaf, (name, shape) in theirs.leaves.items():
        sources = [unit.leaves[leaf][0] for unit in (mine.fused or (mine,)) if leaf in unit.leaves]
        if not sources:
            continue  # a batch counter: another rule adds it
        parts = [draft.parts[source] for source in sources]
        part = replace(parts[0], name=name)
        if mine.fused and not theirs.fused:
            rows = sum(each.shape[0] for each in parts)
            every = tuple(source for each in parts for source in each.sources)
            part = replace(part, sources=every).then("join", shape=(rows, *parts[0].shape[1:]))
        elif theirs.fused and not mine.fused:
            made += _cut_in_three(part, leaf, theirs)
            used += sources
            continue
        made.append(part if part.shape == shape else part.then("reshape", *shape, shape=shape))
        used += sources
    if mine.fused and theirs.fused:
        for one, other in zip(mine.fused[1:], theirs.fused[1:], strict=True):
            more, gone = _converted_part(draft, replace(one, fused=()), replace(other, fused=()))
            made += more
            used += gone
    return made, used + [n for leaf, (n, _) in mine.leaves.items() if leaf == COUNTER and leaf not in theirs.leaves]


def _cut_in_three(part: Part, leaf: str, theirs: LayerTensors) -> list[Part]:
    third = (part.shape[0] // 3, *part.shape[1:])
    return [
        replace(part, name=unit.leaves[leaf][0]).then("third", index, shape=third)
        for index, unit in enumerate(theirs.fused)
    ]
