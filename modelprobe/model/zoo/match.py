"""Which network of the index has the names and shapes of a weight file: exactly, but for its head, or nearly."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from modelprobe.checkpoint.keys.reference import is_position
from modelprobe.checkpoint.wrappers import RECOMPUTED_BUFFERS
from modelprobe.model.zoo.fingerprint import KnownProfiles, NamedShapes, Profile, TensorShape, profile_of
from modelprobe.model.zoo.index import Catalogue, IndexedModel
from modelprobe.model.zoo.variants import NamingVariant, naming_variants

Verdict = Literal["certain", "likely", "unknown"]

UNTOLD = frozenset(("num_batches_tracked", "n_averaged", "total_ops", "total_params", *RECOMPUTED_BUFFERS))
"""Last words of names that come and go between releases and tools; they are not compared."""

HEAD = re.compile(r"^(?:heads?|head_\w+|fc\d?|classifier\w*|last_linear|logits|aux\w*|AuxLogits|output)(?:\.|$)")
"""Heads stand at the top of a network: `blocks.7.mlp.fc1` is a part of its body."""

MAX_COMPARED = 24
"""Networks that are compared name by name, after all were compared by their profiles."""

BODY = re.compile(r"token|embed|prompt|norm|register")
"""Words of tensors beside the blocks that take part in what a network computes."""

USED_IN_TRAINING = frozenset(("mask_token",))
"""Used in training alone."""

MIN_LIKELY = 0.8
MAX_LACKING, MAX_LACKING_SHARE = 2, 0.05
"""Tensors of the body, or the share of all tensors, that a file may lack and still be called likely."""

MIN_NEAREST, SHAPES_ALONE = 3, 0.5
"""Networks named for a file that is none of them: where too few have names in common, those of the nearest shapes,
whose likeness counts half."""

USUAL_CLASSES = (1000, 1001, 11821, 21841, 21843)
MAX_HEAD = 4
MIN_SHAPES = 12
"""Where names say nothing: a head has the classes of ImageNet and few tensors, and a network must have many different
shapes, since all plain transformers of one width have the same ten."""

MIN_SAME = 6
"""Tensors that must agree in name and shape before anything is said."""

ACCEPTED, OTHER_SHAPE, EXTRA = 0.9, 0.3, 0.5
"""What a tensor with an explained difference counts, one with an unexplained shape, and what an extra one takes."""


@dataclass(frozen=True, slots=True)
class OtherShape:
    """A tensor that has one shape in the file and another in the network."""

    name: str
    file: TensorShape
    network: TensorShape


@dataclass(frozen=True, slots=True)
class ZooCandidate:
    """A network and what speaks against it. `score` is 1 when names and shapes are exactly its own.

    `same_as` are the networks that fit just as well: their names and shapes do not tell them apart here. `settings` are
    constructor arguments that make up for a difference: `num_classes`, `in_chans`. `differences` are those in words.
    """

    target: str
    score: float
    same: int
    other_shape: tuple[OtherShape, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    settings: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    same_as: tuple[str, ...] = ()
    explained: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """The networks found, best first, under the naming that led to them. `by_shapes`: the names are none of theirs.

    `ambiguous`: networks that fit equally well have other costs; `by_name`: what the file calls itself tells them
    apart.
    """

    verdict: Verdict
    candidates: tuple[ZooCandidate, ...]
    variant: NamingVariant
    by_shapes: bool = False
    ambiguous: bool = False
    by_name: bool = False


def match_network(names: NamedShapes, catalogue: Catalogue, prefer: Sequence[str] = ()) -> Match:
    """The networks that names and shapes are nearest to. `prefer` are names that the file itself gives its network:

    they tell apart what names and shapes do not.
    """
    tables = _tables(catalogue)
    best: tuple[list[ZooCandidate], NamingVariant] | None = None
    for variant in naming_variants(names):
        kinds = _told_kinds(profile_of(variant.names))
        near, here = tables.nearest(kinds, MAX_COMPARED), comparable(variant.names)
        found = sorted(
            (_compared(here, model, comparable(catalogue.names(model))) for model in near),
            key=lambda candidate: (-candidate.score, *_preferred_first(candidate.target, prefer)),
        )
        if found and (best is None or found[0].score > best[0][0].score):
            best = found, variant
        if best is not None and best[0][0].score == 1:
            break
    if best is None or best[0][0].score < MIN_LIKELY:
        by_shapes = _by_shapes(names, catalogue, prefer)
        if by_shapes is not None:
            return by_shapes
    match = Match("unknown", (), NamingVariant(names))
    if best is not None:
        match = _with_statistics(_judged(*best, catalogue, prefer), catalogue, prefer)
    if match.verdict == "unknown" and len(match.candidates) < MIN_NEAREST:
        known = {candidate.target for candidate in match.candidates}
        others = [
            replace(one, score=round(SHAPES_ALONE * one.score, 4), differences=("other names",))
            for one in _near_by_shapes(names, catalogue, prefer)
            if one.target not in known
        ]
        match = replace(match, candidates=(*match.candidates, *others))
    return match


def _with_statistics(match: Match, catalogue: Catalogue, prefer: Sequence[str]) -> Match:
    """Also the networks that the file is of if its batch norms were saved without their running statistics."""
    here = comparable(match.variant.names)
    first = match.candidates[0]
    called = first.explained and first.target.partition(":")[2] in prefer
    if called or any(_is_statistic(name) for name in here):
        return match
    near = _tables_without_statistics(catalogue).nearest(_told_kinds(profile_of(match.variant.names)), MAX_COMPARED)
    found = []
    for model in near:
        there = comparable(catalogue.names(model))
        kept = {name: shape for name, shape in there.items() if not _is_statistic(name)}
        candidate = _compared(here, model, kept)
        if len(kept) < len(there) and candidate.explained:
            lost = f"no running statistics ({len(there) - len(kept)} tensors)"
            found.append(replace(candidate, differences=(*candidate.differences, lost)))
    if not found:
        return match
    found.sort(key=lambda candidate: _preferred_first(candidate.target, prefer))
    targets = {candidate.target for candidate in found}
    rest = [candidate for candidate in match.candidates if candidate.target not in targets]
    found, rest = ([first, *found], rest[1:]) if first.explained and first in rest else (found, rest)
    return replace(match, verdict="likely", candidates=(*found, *rest), ambiguous=True)


def _is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var")


@functools.lru_cache(maxsize=1)
def _tables_without_statistics(catalogue: Catalogue) -> KnownProfiles[tuple[str, TensorShape]]:
    """The networks with batch norms, without what those keep beside their parameters."""
    return KnownProfiles(
        [
            (model, Counter({kind: n for kind, n in profile.items() if not _is_statistic(kind[0])}))
            for model, profile in _tables(catalogue).models
            if any(_is_statistic(kind[0]) for kind in profile)
        ]
    )


def _judged(found: list[ZooCandidate], variant: NamingVariant, catalogue: Catalogue, prefer: Sequence[str]) -> Match:
    first = found[0]
    equals = [c.target for c in found[1:] if _fits_as_well(c, first)]
    top = replace(first, same_as=tuple(equals))
    others = [candidate for candidate in found[1:] if candidate.target not in equals]
    if first.score < MIN_LIKELY or first.same < MIN_SAME or _lacks_much(first):
        return Match("unknown", (top, *others), variant)
    alike = _costs(catalogue, (first.target, *equals)) == 1
    called = [target for target in (first.target, *equals) if target.partition(":")[2] in prefer]
    by_name = not alike and bool(called) and _costs(catalogue, called) == 1
    verdict: Verdict = "certain" if first.explained and (alike or by_name) else "likely"
    return Match(verdict, (top, *others), variant, ambiguous=not alike, by_name=by_name)


def _lacks_much(candidate: ZooCandidate) -> bool:
    """Whether the file lacks more than a few tensors of the network's body: then it is another network."""
    lacking = sum(not HEAD.search(name) for name in candidate.missing)
    total = candidate.same + len(candidate.other_shape) + len(candidate.missing)
    return lacking > max(MAX_LACKING, MAX_LACKING_SHARE * total)


def _fits_as_well(other: ZooCandidate, first: ZooCandidate) -> bool:
    """Whether nothing in the file tells two networks apart: where both lack a head, heads may differ."""
    if first.explained != other.explained:
        return False
    if other.score == first.score:
        return True
    headless = first.explained and first.missing and other.missing
    return bool(headless) and (other.same, other.extra, other.settings) == (first.same, first.extra, first.settings)


def _costs(catalogue: Catalogue, targets: Iterable[str]) -> int:
    """How many different costs these networks have."""
    return len({(m.parameters, m.macs) for m in map(catalogue.get, targets) if m is not None})


def comparable(names: NamedShapes) -> dict[str, TensorShape]:
    """The tensors that tell networks apart: no counters, no buffers that are computed, no scales of quantisation."""
    return {name: tuple(shape) for name, shape in names.items() if not _untold(name, names)}


def _untold(name: str, names: Mapping[str, object]) -> bool:
    module, _, last = name.rpartition(".")
    return last in UNTOLD or last == "zero_point" or (last == "scale" and f"{module}.zero_point" in names)


def _told_kinds(profile: Profile) -> Profile:
    """The part of a profile that tells networks apart."""
    untold = {kind for kind in profile if _is_untold(kind[0])}
    if not untold:
        return profile
    scaled = {pattern.rpartition(".")[0] for pattern, _ in untold if pattern.endswith(".zero_point")}
    untold |= {kind for kind in profile if scaled and kind[0].removesuffix(".scale") in scaled}
    return Counter({kind: count for kind, count in profile.items() if kind not in untold})


@functools.cache
def _is_untold(pattern: str) -> bool:
    return pattern.rpartition(".")[2] in UNTOLD or pattern.endswith(".zero_point")


# Comparing


@functools.lru_cache(maxsize=1)
def _tables(catalogue: Catalogue) -> KnownProfiles[tuple[str, TensorShape]]:
    return KnownProfiles([(model, _told_kinds(profile)) for model, profile in catalogue.profiles()])


def _compared(here: Mapping[str, TensorShape], model: IndexedModel, there: Mapping[str, TensorShape]) -> ZooCandidate:
    """A network beside the names of a file: what agrees, what does not, and whether a head or an input explains it."""
    same = sum(1 for name, shape in there.items() if here.get(name) == shape)
    others = tuple(OtherShape(n, here[n], s) for n, s in there.items() if n in here and here[n] != s)
    missing = tuple(name for name in there if name not in here)
    extra = tuple(name for name in here if name not in there)
    settings, said, accepted = _explanation(others, missing, extra, len(there))
    unexplained = len(others) + len(missing) - accepted
    points = same + ACCEPTED * accepted + OTHER_SHAPE * max(0, len(others) - accepted)
    score = points / max(1.0, len(there) + EXTRA * len(extra))
    few_extra = len(extra) <= 2 + len(there) // 50 and not any(_changes_body(name, there) for name in extra)
    return ZooCandidate(
        model.target, round(score, 4), same, others, missing, extra, settings, said,
        explained=not unexplained and few_extra and same >= MIN_SAME,
    )  # fmt: skip


def _changes_body(name: str, there: Mapping[str, TensorShape]) -> bool:
    """Whether an extra tensor belongs into the network's body, which then computes something else."""
    first = name.partition(".")[0]
    if HEAD.search(name) or name in USED_IN_TRAINING:
        return False
    return bool(BODY.search(first)) or any(other.startswith(f"{first}.") for other in there)


def _explanation(
    others: Sequence[OtherShape], missing: Sequence[str], extra: Sequence[str], total: int
) -> tuple[dict[str, int], tuple[str, ...], int]:
    """Settings, the differences in words, and how many tensors they explain."""
    settings: dict[str, int] = {}
    said: list[str] = []
    heads = [other for other in others if _is_resized(other, 0) and HEAD.search(other.name)]
    sizes = {(other.file[0], other.network[0]) for other in heads}
    accepted = 0
    if len(sizes) == 1:
        (classes, usual), accepted = sizes.pop(), len(heads)
        settings["num_classes"] = classes
        said.append(f"head of {classes:,} classes instead of {usual:,}")
    stems = [other for other in others if _is_resized(other, 1) and other.network[1] == 3 and len(other.file) > 3]
    channels = {other.file[1] for other in stems}
    if len(channels) == 1:
        settings["in_chans"] = channels.pop()
        accepted += len(stems)
        said += [f"{text} instead of 3" for text in _counted(settings["in_chans"], "input channel", "input channels")]
    lost = [name for name in missing if HEAD.search(name)]
    if lost and len(lost) <= max(2, total // 10) and not heads:
        accepted += len(lost)
        auxiliary = all(name.lower().startswith("aux") for name in lost)
        said.append(f"no {'auxiliary classifiers' if auxiliary else 'head'} ({len(lost)} tensors)")
        if auxiliary:
            settings["aux_logits"] = False
    positions = [other for other in others if is_position(other.name)]
    if positions:
        said.append("position embedding of another input size")
    said += _counted(len(others) + len(missing) - accepted - len(positions), "difference", "differences")
    said += _counted(len(extra), "extra key", "extra keys")
    return settings, tuple(said), accepted


def _counted(number: int, one: str, more: str) -> list[str]:
    return [f"{number:,} {one if number == 1 else more}"] if number > 0 else []


def _is_resized(other: OtherShape, dim: int) -> bool:
    """Whether the shapes differ in that dimension alone."""
    if len(other.file) != len(other.network) or len(other.file) <= dim:
        return False
    return all(a == b or place == dim for place, (a, b) in enumerate(zip(other.file, other.network, strict=True)))


@functools.lru_cache(maxsize=1)
def _shape_tables(catalogue: Catalogue) -> KnownProfiles[TensorShape]:
    return KnownProfiles([(model, _shapes_of(profile)) for model, profile in _tables(catalogue).models])


def _by_shapes(names: NamedShapes, catalogue: Catalogue, prefer: Sequence[str]) -> Match | None:
    """The networks whose shapes are those of the file, whatever the names; never certain."""
    shapes, tables = Counter(comparable(names).values()), _shape_tables(catalogue)
    found = _near_by_shapes(names, catalogue, prefer)
    first = next((profile for model, profile in tables.models if found and model.target == found[0].target), None)
    if first is None or len(shapes) < MIN_SHAPES or not _are_all_explained(shapes, first):
        return None
    equals = tuple(c.target for c in found[1:] if c.score == found[0].score)
    top = replace(found[0], same_as=equals)
    rest = [candidate for candidate in found[1:] if candidate.target not in equals]
    return Match("likely", (top, *rest), NamingVariant(names), by_shapes=True)


def _near_by_shapes(names: NamedShapes, catalogue: Catalogue, prefer: Sequence[str]) -> list[ZooCandidate]:
    """The networks that share the most shapes with the file, by the share of all that either has."""
    here = comparable(names)
    shapes = Counter(here.values())
    found = []
    for model in _shape_tables(catalogue).nearest(shapes, MAX_COMPARED):
        there = comparable(catalogue.names(model))
        same = (shapes & Counter(there.values())).total()
        score = round(same / max(1, len(here) + len(there) - same), 4)
        missing, extra = _of_other_shapes(there, here), _of_other_shapes(here, there)
        said = ("other names, the same shapes",)
        found.append(ZooCandidate(model.target, score, same, missing=missing, extra=extra, differences=said))
    return sorted(found, key=lambda candidate: (-candidate.score, *_preferred_first(candidate.target, prefer)))


def _of_other_shapes(names: NamedShapes, others: NamedShapes) -> tuple[str, ...]:
    """The names whose shapes `others` do not have, or not so often."""
    left = Counter(others.values())
    left.subtract(names.values())
    lacking = {shape: -count for shape, count in left.items() if count < 0}
    found = []
    for name, shape in reversed(list(names.items())):
        if lacking.get(shape, 0) > 0:
            lacking[shape] -= 1
            found.append(name)
    return tuple(reversed(found))


def _are_all_explained(file: Counter[TensorShape], network: Counter[TensorShape]) -> bool:
    """Whether two multisets of shapes are equal but for a head: without names, a mere likeness says nothing."""
    missing, extra = network - file, file - network
    widths = {shape[1:] for shape in missing}
    heads = all(len(shape) in (1, 2) and shape[0] in USUAL_CLASSES for shape in missing)
    return heads and missing.total() <= MAX_HEAD and all(len(s) in (1, 2) and s[1:] in widths for s in extra)


def _shapes_of(profile: Profile) -> Counter[TensorShape]:
    found: Counter[TensorShape] = Counter()
    for (_, shape), count in profile.items():
        found[shape] += count
    return found


def _preferred_first(target: str, prefer: Sequence[str]) -> tuple[int, int, int, str]:
    """Among equals: what the file calls itself, then torchvision's, then the shortest name."""
    origin, _, name = target.partition(":")
    return (name not in prefer, origin != "torchvision", len(name), name)
