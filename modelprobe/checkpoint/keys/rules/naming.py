"""Rules for names that are known as names: of published code bases, and those that timm's own conversions take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from modelprobe.checkpoint.keys.draft import Part, PlanDraft, RuleStage, ValueStep, key_rule
from modelprobe.checkpoint.keys.name_tree import leading
from modelprobe.checkpoint.keys.rearranged import Rearranged, rearranged
from modelprobe.checkpoint.keys.schemes import LUKEMELAS, LUKEMELAS_ASSUMES, NAMING_SCHEMES, lukemelas_names

Renames = Mapping[str, str]

MAX_WRAPPERS = 3
MIN_HITS = 0.5
"""The share of the new names that must be expected, query, key and value aside."""

CLIP_BLOCK = re.compile(r"(?:visual\.|vision_model\.)?transformer\.resblocks\.\d+\.")

PROJECTION = re.compile(r".*\.attn\.(?:query|key|value)\.(?:weight|bias)")


@key_rule("names of a published code base", RuleStage.REQUESTS)
def scheme(draft: PlanDraft) -> None:
    """One of the namings that `schemes` lists, behind whatever wrappers."""
    if draft.reference is None or not draft.missing():
        return
    expected = draft.expected
    for wrapper, names in _unwrapped(draft.parts):
        for title, renames, assumes, unfolded in _namings(list(names), draft):
            hits = sum(1 for new in renames.values() if new in expected)
            fused = sum(1 for new in renames.values() if PROJECTION.fullmatch(new))
            if hits <= sum(1 for name in draft.parts if name in expected) or hits < MIN_HITS * (len(renames) - fused):
                continue
            moved = {f"{wrapper}{old}": new for old, new in renames.items()}
            if draft.rename(moved, f"names of {title}", f"the names are those of {title}"):
                _unfold(draft, unfolded)
                _as_convolutions(draft, moved.values())
                if assumes:
                    draft.assumed.append(f"{title}: {assumes}")
            return


def _unwrapped(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """What stands before all names, and the names without it: nothing, then one leading segment more each time."""
    held, before = list(names), ""
    for _ in range(MAX_WRAPPERS):
        yield before, held
        segment = leading(held)
        if not segment:
            return
        before, held = f"{before}{segment}.", [name[len(segment) + 1 :] for name in held]


def _namings(names: list[str], draft: PlanDraft) -> Iterator[tuple[str, Renames, str, str]]:
    for known in NAMING_SCHEMES:
        found = known.renamed(names)
        if found:
            yield known.name, found, known.assumes, known.unfolded
    found = lukemelas_names(names, draft.expected)
    if found:
        yield LUKEMELAS, found, LUKEMELAS_ASSUMES, ""


def _unfold(draft: PlanDraft, pattern: str) -> None:
    """The input channels of a patch merging, from those within a channel to those of each patch together."""
    for name, part in draft.parts.items():
        if pattern and re.fullmatch(pattern, name) and part.shape[-1] % 4 == 0:
            above, channels = part.shape[:-1], part.shape[-1] // 4
            order = (*range(len(above)), *(len(above) + at for at in (2, 1, 0)))  # columns, rows, channels
            turned = part.then("reshape", *above, channels, 2, 2).then("permute", *order).then("reshape", *part.shape)
            draft.parts[name] = replace(turned, shape=part.shape)


def _as_convolutions(draft: PlanDraft, names: Iterable[str]) -> None:
    """A linear layer where the network has a convolution of one pixel, or the other way about."""
    expected = draft.expected
    for name in names:
        part, want = draft.parts.get(name), expected.get(name)
        if part is None or want is None or part.shape == want.shape:
            continue
        if (*part.shape, 1, 1) == want.shape or part.shape == (*want.shape, 1, 1):
            draft.parts[name] = part.then("reshape", *want.shape, shape=want.shape)


@key_rule("timm's own conversion", RuleStage.SPELLING)
def library_conversion(draft: PlanDraft) -> None:
    """`checkpoint_filter_fn` of the family: what timm does with the files that the authors published."""
    reference = draft.reference
    if reference is None or reference.convert is None or not draft.missing() or not draft.unexpected():
        return
    before = _count_fitting(draft, {name: part.shape for name, part in draft.parts.items()})
    for wrapper, names in _unwrapped(draft.parts):
        parts = {name: draft.parts[f"{wrapper}{name}"] for name in names}
        found = rearranged(reference.convert, {name: part.shape for name, part in parts.items()})
        fitting = _count_fitting(draft, {name: made.shape for name, made in (found or {}).items()})
        if found and fitting > max(before, MIN_HITS * len(draft.expected)):
            _take_conversion(draft, parts, found)
            if any(CLIP_BLOCK.match(name) for name in names) and "QuickGELU" not in reference.kinds.values():
                draft.assumed.append(_without_quick_gelu(reference.label))
            return


def _without_quick_gelu(label: str) -> str:
    """The names of CLIP do not tell which of two activations its network was trained with."""
    text = "OpenAI trained CLIP with QuickGELU, OpenCLIP with GELU, under the same names; this network has GELU"
    other = label.replace("_clip_", "_clip_quickgelu_")
    return f"{text}, {other} has the other" if other != label else text


def _count_fitting(draft: PlanDraft, shapes: Mapping[str, tuple[int, ...]]) -> int:
    expected = draft.expected
    return sum(1 for name, shape in shapes.items() if name in expected and expected[name].shape == shape)


def _take_conversion(draft: PlanDraft, parts: Mapping[str, Part], found: Mapping[str, Rearranged]) -> None:
    rule, made, used, invented = "timm's own conversion", [], set[str](), []
    for name, new in found.items():
        sources = [parts[source] for source in new.sources]
        if any(part.steps for part in sources) and (len(sources) > 1 or new.steps):
            return  # an earlier rule changed its values: the steps would not be in order
        want = draft.expected.get(name)
        if not sources and want is None:
            continue
        if not sources and want is not None:
            made.append(Part(name, want.shape, want.dtype, (), (ValueStep("zeros"),), want.role))
            invented.append(name)
            continue
        steps = (*sources[0].steps, *(ValueStep(op, numbers) for op, numbers in new.steps))
        every = tuple(source for part in sources for source in part.sources)
        made.append(replace(sources[0], name=name, shape=new.shape, sources=every, steps=steps))
        used |= {part.name for part in sources}
    unused = [part.name for part in parts.values() if part.name not in used]
    if draft.make(made, rule, "timm converts the authors' files of this family in this way", used):
        draft.drop([name for name in unused if name in draft.parts], rule, "timm's own conversion leaves it out")
        if invented:
            draft.assumed.append(f"{', '.join(invented)} is zero: the file's layer has none")
