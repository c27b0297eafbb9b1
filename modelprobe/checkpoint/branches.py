"""The parts of a checkpoint that can be the model (branches): rules that name them, and the order of preference.

How to add one: write a row of `BRANCH_RULES` (the key, and the reason that is shown) at the place where it should win,
and add a case to `tests/checkpoint/test_branches.py`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace

from modelprobe.checkpoint.records import Branch, Checkpoint, Item, TensorEntry
from modelprobe.errors import BadInput

BRANCH_RULES: tuple[tuple[str, str], ...] = (
    (r"state_dict|model_state_dict|model_state|model_weights|net_state_dict", "the key that holds a state_dict"),
    (r"model|module|net|network|params|weights", "the key that holds the model"),
    (r"teacher|target_encoder|target_network", "the teacher of a self-supervised training"),
    (r"param_shapes", "the parameters that the flat shards hold"),
    (r"ema_state_dict|state_dict_ema|model_ema|ema_state|ema_model|ema|ema_params|params_ema", "averaged weights"),
    (r"student|online_encoder|encoder|generator|g_ema|g|netG|generator_state_dict", "a network among several"),
    (r"backbone|student_state_dict|teacher_state_dict|discriminator|d|netD", "a network among several"),
    (r"blobs", "the arrays of a Caffe2 file"),
)
"""Key and reason, in the order of preference. A key matches as a whole."""

AVERAGED = re.compile(r"(^|_)ema(_|$)|averag|swa", re.IGNORECASE)
NOT_MODELS = re.compile(
    r"optim|sched|scaler|^loops$|callback|momentum|^amp$|rng|^args$|hyper_?param|^loss|history|^queue", re.IGNORECASE
)
"""Keys whose tensors are no weights."""

MAX_STRAY_TENSORS = 2


def find_branches(found: Checkpoint) -> tuple[Branch, ...]:
    """The parts that could be the model, the chosen one first; none when the file has no tensors."""
    if not found.tensors:
        return ()
    tree = found.tree
    whole = _branch((), tree.kind, "", found.tensors)
    if tree.kind == "module":
        return (replace(whole, rule="the root is a whole model"),)
    groups = _tensors_by_key(found.tensors)
    candidates = [*_branch_candidates(tree, groups, ())]
    for child in tree.children:
        if child.kind == "dict" and not NOT_MODELS.search(child.key):
            candidates += _branch_candidates(child, groups, (child.key,))
    direct = sum(1 for entry in found.tensors if len(entry.path) == 1)
    if not candidates or direct > max(MAX_STRAY_TENSORS, len(found.tensors) // 2):
        rule = "the root is a state_dict" if direct else "no key names the model: all tensors are shown"
        if tree.kind == "object":
            rule = f"{tree.type}, not a torch module"
        elif tree.kind == "tensor":
            rule = "a tensor without a name"
        return (replace(whole, rule=rule), *(branch for _, branch in sorted(candidates, key=_preference)))
    chosen = sorted(candidates, key=_preference)
    return tuple(branch for _, branch in chosen)


def _preference(candidate: tuple[int, Branch]) -> tuple[int, int, int]:
    rank, branch = candidate
    return rank, len(branch.path), -branch.nbytes


def _tensors_by_key(tensors: Iterable[TensorEntry]) -> dict[tuple[str, ...], list[TensorEntry]]:
    """The tensors under each first key, and under each pair of first keys."""
    groups: dict[tuple[str, ...], list[TensorEntry]] = {}
    for entry in tensors:
        for depth in (1, 2):
            if len(entry.path) > depth:
                groups.setdefault(entry.path[:depth], []).append(entry)
    return groups


def _branch_candidates(
    parent: Item, groups: dict[tuple[str, ...], list[TensorEntry]], above: tuple[str, ...]
) -> Iterator[tuple[int, Branch]]:
    for child in parent.children:
        path = (*above, child.key)
        tensors = groups.get(path)
        if not tensors or child.kind not in ("dict", "module", "object") or NOT_MODELS.search(child.key):
            continue
        rank, rule = rank_of(child.key)
        if rank is None and not above and parent.kind == child.kind == "object":
            continue  # the object is one thing: a part of it is no model
        if rank is None:
            rank, rule = (
                (len(BRANCH_RULES), "a whole model")
                if child.kind == "module"
                else (len(BRANCH_RULES) + 1, "a dictionary of tensors" if child.kind == "dict" else child.type)
            )
        if above and rank > len(BRANCH_RULES):
            continue  # two levels down only what a rule names
        inner = sum(1 for item in child.children if rank_of(item.key)[0] is not None and item.tensors)
        if inner and not any(len(entry.path) == len(path) + 1 for entry in tensors):
            rank += len(BRANCH_RULES) + 2  # a mere folder of branches, which are candidates themselves
        yield rank, _branch(path, child.kind, rule, tensors)


def rank_of(key: str) -> tuple[int | None, str]:
    """The place of a key among the rules, and the reason."""
    for rank, (pattern, reason) in enumerate(BRANCH_RULES):
        if re.fullmatch(pattern, key):
            return rank, reason
    if AVERAGED.search(key):
        return 4, "averaged weights"
    return None, ""


def chosen_branch(found: Checkpoint, name: str | None) -> Branch:
    """The branch asked for, or the one that the reader chose. Raises BadInput where there is none."""
    branch = found.branch if name is None else branch_named(found, name)
    if branch is None and name is not None:
        known = ", ".join(branch.name or "." for branch in found.branches) or "none"
        raise BadInput(f"{found.path} has no tensors under {name}", f"branches of this file: {known}")
    if branch is None:
        hint = f"`modelprobe summary {shlex.quote(found.path)}` lists its contents"
        raise BadInput(f"{found.path} holds no tensors", hint)
    return branch


def branch_named(found: Checkpoint, name: str) -> Branch | None:
    """The branch a person asked for by its dotted name; "." is the root. Any key that holds tensors will do."""
    if name in ("", "."):
        return _branch((), found.tree.kind, "--branch", found.tensors) if found.tensors else None
    for branch in found.branches:
        if branch.name == name:
            return replace(branch, rule="--branch")
    for depth in (1, 2, 3):
        tensors = [entry for entry in found.tensors if ".".join(entry.path[:depth]) == name and len(entry.path) > depth]
        if tensors:
            return _branch(tensors[0].path[:depth], "dict", "--branch", tensors)
    return None


def _branch(path: tuple[str, ...], kind: str, rule: str, tensors: Iterable[TensorEntry]) -> Branch:
    held = tuple(tensors)
    numel = sum(entry.numel for entry in held)
    return Branch(path, kind, rule, len(held), numel, sum(entry.nbytes for entry in held))
