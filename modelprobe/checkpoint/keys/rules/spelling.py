"""Rules for tensors that are the same under another spelling: old names of LayerNorm, weight norm, dots in numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from modelprobe.checkpoint.keys.draft import Part, PlanDraft, RuleStage, key_rule
from modelprobe.checkpoint.keys.name_tree import NameNode, inverted, tree
from modelprobe.checkpoint.keys.reference import ExpectedTensor
from modelprobe.checkpoint.keys.words import CONFLICT, words_apart

Shapes = dict[str, tuple[int, ...]]
Shaped = tuple[tuple[str, tuple[int, ...]], ...]

NUMBER = re.compile(r"(?<=[^.\d])\.(?=\d)")
"""The dot of `norm.1`."""

MIN_TENSORS = 8
"""Tensors inside a block whose names and shapes tell what it is, whatever it is called itself."""

PARAMETRIZED = (
    ("weight_g", "parametrizations.weight.original0", "weight norm"),
    ("weight_v", "parametrizations.weight.original1", "weight norm"),
    ("weight_orig", "parametrizations.weight.original", "spectral norm"),
    ("weight_u", "parametrizations.weight.0._u", "spectral norm"),
    ("weight_v", "parametrizations.weight.0._v", "spectral norm"),
)
"""Old name, new name, and what it belongs to. Which of them it is, the reference tells by having both of a pair."""


def _expected_renames(draft: PlanDraft, names: dict[str, str]) -> dict[str, str]:
    """Those renames that lead to a missing tensor of the same shape, one to one."""
    wanted = draft.expected
    open_ = {want.name for want in draft.missing()}
    fine = {o: n for o, n in names.items() if n in open_ and wanted[n].shape == draft.parts[o].shape}
    return {olds[0]: new for new, olds in inverted(fine).items() if len(olds) == 1}


@key_rule("LayerNorm gamma and beta", RuleStage.SPELLING)
def gamma(draft: PlanDraft) -> None:
    """TensorFlow's names of a LayerNorm's weight and bias; any other `gamma` is left alone."""
    names = {}
    for name in draft.parts:
        parts = name.split(".")
        if len(parts) > 1 and parts[-2] == "LayerNorm" and parts[-1] in ("gamma", "beta"):
            names[name] = ".".join([*parts[:-1], "weight" if parts[-1] == "gamma" else "bias"])
    fit = names if draft.reference is None else _expected_renames(draft, names)
    draft.rename(fit, "LayerNorm gamma and beta", "TensorFlow calls a LayerNorm's weight gamma and its bias beta")


@key_rule("parametrization respelled", RuleStage.SPELLING)
def parametrized(draft: PlanDraft) -> None:
    """`weight_g`, `weight_v` and `parametrizations.weight.original0`, `original1`: both pairs of names, either way."""
    names: dict[str, str] = {}
    here = {part.name for part in draft.unexpected()}
    open_ = {want.name for want in draft.missing()}
    for old, new, what in PARAMETRIZED:
        for source, target in ((old, new), (new, old)):
            partners = [(o, n) if source == old else (n, o) for o, n, w in PARAMETRIZED if w == what]
            for name in [name for name in here if name.endswith(f".{source}") or name == source]:
                stem = name[: -len(source)]
                if all(stem + a in here and stem + b in open_ for a, b in partners):
                    names[name] = stem + target
    draft.rename(
        _expected_renames(draft, names),
        "parametrization respelled",
        "torch.nn.utils.parametrizations calls them otherwise",
    )


@key_rule("pruning mask", RuleStage.SPELLING)
def pruned(draft: PlanDraft) -> None:
    """`weight_orig` and `weight_mask`: their product is the weight."""
    wanted, made, used = draft.expected, [], []
    for name, part in draft.parts.items():
        mask = draft.parts.get(f"{name[:-5]}_mask") if name.endswith("_orig") else None
        want = wanted.get(name[:-5])
        if mask is not None and want is not None and part.shape == mask.shape == want.shape and not part.steps:
            product = replace(part, name=want.name, sources=(*part.sources, *mask.sources))
            made.append(product.then("product"))
            used += [name, mask.name]
    draft.make(made, "pruning mask", "a pruned weight is its original times its mask", used)


@key_rule("dots in names", RuleStage.SPELLING)
def dots(draft: PlanDraft) -> None:
    """`norm.1` and `norm1` (old DenseNets), names with all dots taken out (CompVis' averaged weights)."""
    unexpected, missing = draft.unexpected(), draft.missing()
    if not unexpected or not missing:
        return
    numbers = _respelled(unexpected, missing, lambda name: NUMBER.sub("", name))
    dotless = _respelled([part for part in unexpected if "." not in part.name], missing, _without_dots)
    names = _expected_renames(draft, {**dotless, **numbers})
    draft.rename(names, "dots in names", "the same names but for their dots, and there is only one of each")


def _without_dots(name: str) -> str:
    return name.replace(".", "")


def _respelled(
    parts: Sequence[Part], expected: Sequence[ExpectedTensor], spelled: Callable[[str], str]
) -> dict[str, str]:
    """Names that are equal once both are spelled another way; those that then mean several are left out."""
    olds = inverted({part.name: spelled(part.name) for part in parts})
    news = inverted({want.name: spelled(want.name) for want in expected})
    return {found[0]: news[key][0] for key, found in olds.items() if len(found) == 1 == len(news.get(key, ()))}


@key_rule("renamed block", RuleStage.SPELLING)
def block(draft: PlanDraft) -> None:
    """A block that has another name, everything in it as before: told by the names and shapes inside."""
    missing, unexpected = draft.missing(), draft.unexpected()
    if not missing or not unexpected:
        return
    mine = {part.name: part.shape for part in draft.parts.values()}
    theirs = {want.name: want.shape for want in draft.expected.values()}
    sides = _Sides(mine, theirs, tree(mine), tree(theirs))
    names: dict[str, str] = {}
    leftover = tree(part.name for part in unexpected), tree(want.name for want in missing)
    for above, segment, new in sides.renamed(*leftover, ""):
        start = f"{above}{segment}."
        below = at(leftover[0], start)
        names.update({name: f"{above}{new}.{name[len(start) :]}" for name in below.names()})
    if draft.rename(names, "renamed block", "the names and shapes inside it are those of a block that is missing"):
        draft.by_order += sides.unsure
        for old, new, open_ in sides.unlike:
            (draft.doubts if open_ else draft.assumed).append(f"{old} is taken for {new}, which has its shapes")


class _Sides:
    """Names and shapes of the file and of the reference, as trees.

    `unsure` collects what order alone settled, `unlike` names that do not speak of one thing, and whether that is all
    there is to go by.
    """

    def __init__(self, mine: Shapes, theirs: Shapes, source: NameNode, target: NameNode) -> None:
        self.mine, self.theirs = mine, theirs
        self.source, self.target = source, target
        self.unsure: list[tuple[str, ...]] = []
        self.unlike: list[tuple[str, str, bool]] = []

    def renamed(self, source: NameNode, target: NameNode, above: str) -> Iterator[tuple[str, str, str]]:
        """(what stands before it, its name in the file, its name in the reference) of blocks that differ in that."""
        for segment in [segment for segment in source.below if segment in target.below]:
            yield from self.renamed(source.below[segment], target.below[segment], f"{above}{segment}.")
        held, known = at(self.source, above), at(self.target, above)
        olds = [segment for segment in source.below if segment not in known.below]
        news = [segment for segment in target.below if segment not in held.below]
        kinds: dict[Shaped, tuple[list[str], list[str]]] = {}
        for segment in olds:
            kinds.setdefault(_shaped(held.below[segment], f"{above}{segment}.", self.mine), ([], []))[0].append(segment)
        for segment in news:
            shaped = _shaped(known.below[segment], f"{above}{segment}.", self.theirs)
            kinds.setdefault(shaped, ([], []))[1].append(segment)
        for kind, (old, new) in kinds.items():
            if old and len(old) == len(new):
                if len(old) > 1 or not self._in_order(kind, above, old[0], new[0]):
                    self.unsure.append(tuple(f"{above}{segment}" for segment in old))
                else:
                    self._compare_words(f"{above}{old[0]}", f"{above}{new[0]}", len(kind))
                yield from ((above, one, other) for one, other in zip(old, new, strict=True))

    def _compare_words(self, old: str, new: str, tensors: int) -> None:
        """Two encoders can be alike in all but their names; much inside that is alike is proof for other blocks."""
        apart = words_apart(old.rpartition(".")[2], new.rpartition(".")[2])
        if apart:
            self.unlike.append((old, new, apart == CONFLICT or tensors < MIN_TENSORS))

    def _in_order(self, kind: Shaped, above: str, old: str, new: str) -> bool:
        """Whether the blocks beside it that look the same stand in the same order on both sides."""
        held, known = at(self.source, above), at(self.target, above)
        mine = [s for s, node in held.below.items() if _shaped(node, f"{above}{s}.", self.mine) == kind]
        theirs = [s for s, node in known.below.items() if _shaped(node, f"{above}{s}.", self.theirs) == kind]
        return [new if segment == old else segment for segment in mine] == theirs


def at(root: NameNode, above: str) -> NameNode:
    """The node of a prefix that ends in a dot."""
    for segment in above.split(".")[:-1]:
        root = root.below[segment]
    return root


def _shaped(node: NameNode, prefix: str, shapes: Shapes) -> Shaped:
    """The names inside a block with their shapes: equal for a block under two names."""
    return tuple(sorted((name[len(prefix) :], shapes[name]) for name in node.names()))


@key_rule("tied tensor", RuleStage.FILLING)
def tied(draft: PlanDraft) -> None:
    """A tensor that the reference ties to another one and that the file keeps once."""
    groups: dict[str, list[str]] = {}
    for want in draft.expected.values():
        groups.setdefault(want.same or want.name, []).append(want.name)
    made: list[Part] = []
    for names in groups.values():
        there = [draft.parts[name] for name in names if name in draft.parts]
        if there and len(there) < len(names):
            made += [replace(there[0], name=name) for name in names if name not in draft.parts]
    draft.make(made, "tied tensor", "the reference uses one tensor under both names, the file keeps it once")
