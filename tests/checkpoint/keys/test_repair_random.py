"""Random networks under random changes of names: a plan that may be carried out sends each tensor where it belongs.

Only names and shapes are made here, so thousands of cases cost little. What was really done to each name is known; a
refusal is always allowed, a wrong plan never. `-m slow` tries 20,000.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from tests.checkpoint.keys.rules.test_rules import plan

WORDS = "module model net conv norm attn mlp block stem head layer features fc proj backbone encoder 0 1 2 3".split()
WRAPPERS = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "model", "net", "wrap", "x0"]
NEW = ["renamed", "other", "b", "trunk", "left", "right", "7"]
LEAVES = [("weight",), ("weight", "bias"), ("weight", "bias", "running_mean", "running_var")]
SHAPES = [(4,), (4, 4), (4, 3, 3, 3), (8, 4), (8,)]

Shapes = dict[str, tuple[int, ...]]
Named = list[tuple[str, str]]
"""Names in the file with the names that they really had, in the file's order; nothing for what is not the network's."""


def network(rng: random.Random, depth: int = 3) -> Shapes:
    """A tree of layers; equal blocks in a row are frequent, as they are in networks."""
    if depth == 0 or rng.random() < 0.2:
        shape = rng.choice(SHAPES)
        return {leaf: shape if leaf == "weight" else shape[:1] for leaf in rng.choice(LEAVES)}
    found: Shapes = {}
    children = rng.sample(WORDS, rng.randint(1, 4))
    repeated = network(rng, depth - 1)
    for word in children:
        inside = repeated if rng.random() < 0.5 else network(rng, depth - 1)
        found.update({f"{word}.{name}": shape for name, shape in inside.items()})
    return found


def nodes(names: Named) -> list[tuple[str, ...]]:
    """Every path in the file's names that has something below it, the root among them."""
    paths = {tuple(name.split(".")[:depth]) for name, _ in names for depth in range(name.count(".") + 1)}
    return sorted(paths)


def wrapped(names: Named, rng: random.Random) -> Named:
    """Wrappers, or any words, before everything."""
    front = "".join(f"{rng.choice(WRAPPERS)}." for _ in range(rng.randint(1, 3)))
    return [(front + name, true) for name, true in names]


def inserted(names: Named, rng: random.Random) -> Named:
    """A wrapper around an inner module."""
    path, wrapper = rng.choice(nodes(names)), rng.choice(WRAPPERS[:5])
    at = len(path)
    return [
        (".".join([*parts[:at], wrapper, *parts[at:]]) if tuple(parts[:at]) == path else name, true)
        for name, true in names
        for parts in [name.split(".")]
    ]


def renamed(names: Named, rng: random.Random) -> Named:
    """A block, or two, under other names."""
    for _ in range(rng.randint(1, 2)):
        path, new = rng.choice(nodes(names)), rng.choice(NEW)
        if path:
            at = len(path) - 1
            names = [
                (".".join([*parts[:at], new, *parts[at + 1 :]]) if tuple(parts[: at + 1]) == path else name, true)
                for name, true in names
                for parts in [name.split(".")]
            ]
    return names


def shuffled(names: Named, rng: random.Random) -> Named:
    """The children of one module in another order in the file."""
    path = rng.choice(nodes(names))
    inside = [pair for pair in names if tuple(pair[0].split(".")[: len(path)]) == path]
    keys = list(dict.fromkeys(name.split(".")[len(path)] for name, _ in inside))
    rng.shuffle(keys)
    inside.sort(key=lambda pair: keys.index(pair[0].split(".")[len(path)]))
    return [pair for pair in names if pair not in inside] + inside


def swapped(names: Named, rng: random.Random) -> Named:
    """Two neighbours change names with each other: nobody can see it, unless their insides differ."""
    path = rng.choice(nodes(names))
    at = len(path)
    keys = sorted({n.split(".")[at] for n, _ in names if tuple(n.split(".")[:at]) == path and n.count(".") > at})
    if len(keys) < 2:
        return names
    one, other = rng.sample(keys, 2)
    names_of = {one: f"{one}x", other: f"{other}x"}
    moved = []
    for name, true in names:
        parts = name.split(".")
        if tuple(parts[:at]) == path:
            parts[at] = names_of.get(parts[at], parts[at])
        moved.append((".".join(parts), true))
    return moved


def beside(names: Named, rng: random.Random) -> Named:
    """Something that is not the network's: a counter, a loss, a second copy under another prefix."""
    kind = rng.randrange(3)
    if kind == 0:
        return [*names, ("n_averaged", "")]
    if kind == 1:
        return [*names, ("loss.weight", ""), ("metric.total", "")]
    return [*names, *((f"copy.{name}", "") for name, _ in names)]


CHANGES: list[Callable[[Named, random.Random], Named]] = [wrapped, inserted, renamed, shuffled, swapped, beside]


def verdict(seed: int) -> str:
    """`right`, `refused` or what went wrong, for the network and the changes that belong to a seed."""
    rng = random.Random(seed)
    shapes = network(rng)
    names: Named = [(name, name) for name in shapes]
    for change in rng.choices(CHANGES, k=rng.randint(1, 3)):
        names = change(names, rng)
    if len({name for name, _ in names}) < len(names):
        return "refused"  # two of one name: no file could hold them
    there = {name: shapes.get(true) or shapes.get(name.removeprefix("copy."), (4,)) for name, true in names}
    found = plan(there, shapes)
    if not found.good:
        return "refused"
    truth = dict(names)
    wrong = {part.sources[0]: part.name for part in found.parts if part.sources and truth[part.sources[0]] != part.name}
    lost = set(shapes) - {part.name for part in found.parts}
    return f"seed {seed}: {wrong or lost}, expected {shapes}, file {names}" if wrong or lost else "right"


def tried(seeds: range) -> Counter[str]:
    found = Counter(verdict(seed) for seed in seeds)
    assert set(found) <= {"right", "refused"}, next(text for text in found if text not in ("right", "refused"))
    return found


@pytest.mark.zoo
def test_no_plan_is_wrong() -> None:
    assert tried(range(300))["right"] > 100


@pytest.mark.slow
def test_no_plan_is_wrong_in_20000_cases(record_property: pytest.RecordProperty) -> None:
    found = tried(range(20_000))
    record_property("figure random repairs", {"cases": 20_000, **found, "wrong": 0})
