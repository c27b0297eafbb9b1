"""Candidates for the network that a weight file was saved from, when its names are those of another library.

Candidates come from what the file says of itself, from its own name, and from the other library's names that resemble
the wanted one. A candidate counts only when the file's names and shapes are exactly its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from modelprobe.checkpoint.keys.draft import PlanOptions
from modelprobe.checkpoint.keys.plan import KeyPlan, plan_keys
from modelprobe.checkpoint.keys.reference import Expectation, reference_of_model, state_entries
from modelprobe.checkpoint.own_words import architecture_words
from modelprobe.checkpoint.records import Branch, Checkpoint
from modelprobe.errors import ProbeError
from modelprobe.model.target import Target, resolve
from modelprobe.model.zoo import names as zoo

MAX_UNLIKE_SHARE = 0.2
"""The share of tensors that may have another shape or be absent: counters, buffers, an embedding of another grid."""

MAX_CANDIDATES_BUILT = 16
"""Candidates that are built (on meta) at most."""

Known = tuple[Target, Expectation, KeyPlan]


def own_networks(found: Checkpoint, branch: Branch, wanted: Target, options: PlanOptions) -> Iterator[Known]:
    """The networks whose names and shapes the file has, each with the plan that leads to it, the likeliest first."""
    plain = replace(options, dtype="", drop_head=False, unproven=False)
    for spec in candidates(found, wanted):
        for settings in ((), *_settings(wanted)):
            try:
                known = own_network(found, branch, resolve(spec, settings), plain)
            except ProbeError:
                continue
            if known is not None:
                yield known
                break


def own_network(found: Checkpoint, branch: Branch, target: Target, options: PlanOptions) -> Known | None:
    """The plan from the file to the names of `target`, if wrappers are all that stands between."""
    reference = reference_of_model(target.build().module, target.spec)
    if not _could_hold(found, branch, reference):
        return None
    plan = plan_keys(found, branch, reference, options)
    return (target, reference, plan) if plan.complete and not plan.structural and plan.certain else None


def _could_hold(found: Checkpoint, branch: Branch, reference: Expectation) -> bool:
    """Whether nearly all that a network has could be in the file, by the last words of names and by shapes."""
    there = Counter((entry.path[-1].rpartition(".")[2], entry.shape) for entry in state_entries(found, branch))
    wanted = Counter((want.name.rpartition(".")[2], want.shape) for want in reference.expected if not want.same)
    return sum((wanted - there).values()) <= MAX_UNLIKE_SHARE * len(reference.expected)


def _settings(wanted: Target) -> list[tuple[str, ...]]:
    classes = wanted.given.get("num_classes")
    return [(f"num_classes={classes}",)] if isinstance(classes, int) else []


def candidates(found: Checkpoint, wanted: Target) -> tuple[str, ...]:
    """Names worth a try, in order."""
    names = architecture_words(found)
    known = zoo.zoo_names()
    specs = [f"{origin}:{name}" for name in names for origin in known.origins(name)]
    for origin in (zoo.TORCHVISION, zoo.TIMM):
        if origin != wanted.origin and wanted.origin in (zoo.TORCHVISION, zoo.TIMM):
            specs += [f"{origin}:{name}" for name in similar_names(wanted.name, origin)]
    own = f"{wanted.origin}:{wanted.name}"
    return tuple(spec for spec in dict.fromkeys(specs) if spec != own)[:MAX_CANDIDATES_BUILT]


def similar_names(name: str, origin: str) -> list[str]:
    """The names of a library that share the most words with `name`: `vit_b_16`, `vit_base_patch16_224`."""
    known = zoo.zoo_names()
    words = _words(name.partition(".")[0])
    every = known.torchvision if origin == zoo.TORCHVISION else known.timm
    scored = [
        (-_shared_words(words, _words(other)), len(other), other) for other in every if _family(words, _words(other))
    ]
    return [other for _, _, other in sorted(scored)][:MAX_CANDIDATES_BUILT]


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+", name.lower().replace("_", " "))


def _family(words: list[str], others: list[str]) -> bool:
    """Whether the first words begin alike: `regnet` and `regnety`."""
    first, second = words[:1], others[:1]
    return first == second or any(
        a[:3] == b[:3] and len(min(a, b, key=len)) > 2 for a, b in zip(first, second, strict=False)
    )


def _shared_words(words: list[str], others: list[str]) -> int:
    """How many words have a counterpart that begins with them, or the other way about; less what is left over."""
    rest = list(others)
    shared = 0
    for word in words:
        match = next((other for other in rest if _akin(word, other)), None)
        if match is not None:
            rest.remove(match)
            shared += 1
    return 4 * shared - len(rest)


def _akin(word: str, other: str) -> bool:
    """Whether one begins with the other; of numbers, whether zeros apart they are one: `400mf` and `004`."""
    if word.isdecimal() and other.isdecimal():
        return word == other or word.strip("0") == other.strip("0")
    return word.startswith(other) or other.startswith(word)
