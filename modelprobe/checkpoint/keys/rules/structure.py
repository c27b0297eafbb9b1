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

from modelprobe.checkpoint.keys.draft import Draft, Part, Stage, rule
from modelprobe.checkpoint.keys.reference import Reference, Want
from modelprobe.checkpoint.keys.rules.missing import COUNTER
from modelprobe.checkpoint.keys.rules.shapes import TRIPLES

LEAVES = ("weight", "bias", "running_mean", "running_var", COUNTER)
VALUE = "value"
HALF = 0.5
"""Below this share of names that agree already, those too may agree by accident."""

Shape = tuple[int, ...]
Signature = tuple[tuple[str, Shape], ...]


@dataclass(frozen=True, slots=True)
class Unit:
    """The tensors of one layer, by what they are. `fused` holds query, key and value where they are apart.

    `strides` tell convolutions of one shape apart, and the norms behind them, where their network is known.
    """

    owner: str
    leaves: dict[str, tuple[str, Shape]]
    fused: tuple[Unit, ...] = ()
    strides: tuple[int, ...] = ()


@rule("names of another library", Stage.STRUCTURE)
def aligned(draft: Draft) -> None:
    """The k-th layer of a shape for the k-th layer of that shape."""
    if draft.reference is None or not draft.missing() or draft.troubles:
        return
    if draft.misshapen():  # a name that both use for different things: none of the names can be trusted
        source, target = _every(draft)
    else:
        source = _units(draft.unexpected(), draft.known)
        target = _units(draft.missing(), draft.reference)
    found = _matched(source, target) or _matched(*_every(draft))
    if found is None:
        return
    _carry_out(draft, found)


def _every(draft: Draft) -> tuple[list[Unit], list[Unit]]:
    """All layers of both sides, whether their names agree or not."""
    source = _units(draft.parts.values(), draft.known)
    return source, _units([want for want in draft.wants.values() if want.name not in draft.excused], draft.reference)


def _units(tensors: Iterable[Part | Want], network: Reference | None) -> list[Unit]:
    found = units([(tensor.name, tensor.shape) for tensor in tensors])
    return _striding(found, network.strides) if network and network.strides else found


def units(named: Sequence[tuple[str, Shape]]) -> list[Unit]:
    """The layers of a list of tensors, in its order."""
    found: dict[str, Unit] = {}
    for name, shape in named:
        owner, leaf = _split(name)
        found.setdefault(owner, Unit(owner, {})).leaves[leaf] = (name, shape)
    return list(found.values())


def _striding(every: list[Unit], strides: Mapping[str, tuple[int, ...]]) -> list[Unit]:
    """Convolutions with their strides, and batch norms with those of the convolution that they stand behind."""
    found: list[Unit] = []
    for unit in every:
        behind = found[-1] if found and "running_mean" in unit.leaves else None
        known = (*behind.strides, *behind.leaves["weight"][1]) if behind and "weight" in behind.leaves else ()
        found.append(replace(unit, strides=strides.get(unit.owner, known)))
    return found


def _split(name: str) -> tuple[str, str]:
    """The layer a tensor belongs to, and what it is in it: `a.in_proj_weight` is the weight of `a.in_proj`."""
    owner, _, last = name.rpartition(".")
    if last in LEAVES:
        return owner, last
    for leaf in ("weight", "bias"):
        if last.endswith(f"_{leaf}"):
            return f"{owner}.{last[: -len(leaf) - 1]}", leaf
    return name, VALUE


def moving(unit: Unit) -> Signature:
    """What a unit looks like, and how a convolution moves: shortcuts have shapes of other layers, not their strides."""
    return (*exact(unit), ("strides", unit.strides))


def exact(unit: Unit) -> Signature:
    """What a unit looks like, shape for shape; batch counters aside, which old files lack."""
    shapes = ((leaf, shape) for leaf, (_, shape) in unit.leaves.items() if leaf != COUNTER)
    return tuple(sorted(_tall(unit, leaf, shape) for leaf, shape in shapes))


def loose(unit: Unit) -> Signature:
    """The same, where a 1x1 convolution is a linear layer, and a kernel over a whole map is one too."""
    return tuple(sorted((leaf, _flat(leaf, shape)) for leaf, shape in exact(unit)))


def _tall(unit: Unit, leaf: str, shape: Shape) -> tuple[str, Shape]:
    return leaf, (shape[0] * 3, *shape[1:]) if unit.fused else shape


def _flat(leaf: str, shape: Shape) -> Shape:
    if leaf == "weight" and len(shape) > 1:
        return shape[0], math.prod(shape[1:])
    return tuple(dim for dim in shape if dim != 1)


Pairs = list[tuple[Unit, Unit]]


def _matched(source: list[Unit], target: list[Unit]) -> tuple[Pairs, dict[Signature, int]] | None:
    """Each unit of the file with one of the reference, and how many share each signature; None without a bijection."""
    for mine in (source, fused(source)):
        for theirs in (target, fused(target)):
            for look in (moving, exact, loose):
                found = _by_order(mine, theirs, look)
                if found is not None:
                    return found
    return None


def _by_order(
    mine: list[Unit], theirs: list[Unit], look: Callable[[Unit], Signature]
) -> tuple[Pairs, dict[Signature, int]] | None:
    counts = Counter(map(look, mine))
    if not mine or counts != Counter(map(look, theirs)):
        return None
    waiting: dict[Signature, list[Unit]] = {}
    for unit in reversed(theirs):
        waiting.setdefault(look(unit), []).append(unit)
    return [(unit, waiting[look(unit)].pop()) for unit in mine], dict(counts)


def fused(every: list[Unit]) -> list[Unit]:
    """The same layers with query, key and value of one attention as one."""
    by_owner = {unit.owner: unit for unit in every}
    gone: set[str] = set()
    found = []
    for unit in every:
        three = _three(unit.owner, by_owner)
        if three and len({exact(each) for each in three}) == 1:
            gone |= {each.owner for each in three}
            found.append(replace(three[0], fused=three))
        elif unit.owner not in gone:
            found.append(unit)
    return found if gone else every


def _three(owner: str, by_owner: dict[str, Unit]) -> tuple[Unit, ...]:
    """Query, key and value, if this is the query of three."""
    above, dot, last = owner.rpartition(".")
    for triple in TRIPLES:
        names = [f"{above}{dot}{name}" for name in triple]
        if last == triple[0] and all(name in by_owner for name in names):
            return tuple(by_owner[name] for name in names)
    return ()


def _carry_out(draft: Draft, found: tuple[Pairs, dict[Signature, int]]) -> None:
    pairs, counts = found
    made, used = [], []
    for mine, theirs in pairs:
        new, gone = _converted(draft, mine, theirs)
        made += new
        used += gone
    share = 1 - len(used) / max(len(draft.parts), 1)
    every = Counter(map(exact, _units(draft.wants.values(), None)))
    several = any(count > 1 for count in counts.values()) or any(every[exact(theirs)] > 1 for _, theirs in pairs)
    changed = [part for part in made if part.name not in used or part != draft.parts.get(part.name)]
    reason = f"{len(pairs):,} layers of the same shapes on both sides, in the same order"
    if not changed or not draft.make(made, "names of another library", reason, used):
        return
    draft.structural = True
    if several or share < HALF:
        draft.assumed.append(tuple(part.name for part in made))


def _converted(draft: Draft, mine: Unit, theirs: Unit) -> tuple[list[Part], list[str]]:
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
            made += _cut(part, leaf, theirs)
            used += sources
            continue
        made.append(part if part.shape == shape else part.then("reshape", *shape, shape=shape))
        used += sources
    if mine.fused and theirs.fused:
        for one, other in zip(mine.fused[1:], theirs.fused[1:], strict=True):
            more, gone = _converted(draft, replace(one, fused=()), replace(other, fused=()))
            made += more
            used += gone
    return made, used + [n for leaf, (n, _) in mine.leaves.items() if leaf == COUNTER and leaf not in theirs.leaves]


def _cut(part: Part, leaf: str, theirs: Unit) -> list[Part]:
    third = (part.shape[0] // 3, *part.shape[1:])
    return [
        replace(part, name=unit.leaves[leaf][0]).then("third", index, shape=third)
        for index, unit in enumerate(theirs.fused)
    ]
