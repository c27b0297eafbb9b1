"""How often `diverge` names the right operator, and how often it raises a false alarm.

`python -m tests.inside.divergence.figures faults 500` puts so many single faults into the networks of `architectures`;
`python -m tests.inside.divergence.figures equal 200` compares so many pairs that compute the same.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import dataclass, field

import torch

from modelprobe.errors import ProbeError
from modelprobe.inside.divergence.find import diverge
from modelprobe.inside.divergence.watched_run import RunSide
from tests.inside.divergence.architectures import NETWORKS, network
from tests.inside.divergence.equal_pairs import Extra, channels_last, functional, plain_attention
from tests.inside.divergence.faults import KINDS, Fault, faulty


@dataclass
class Score:
    """How many were right, and what was said of the others."""

    done: int = 0
    wrong: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return f"{self.done - len(self.wrong)} of {self.done} right"


def faults_found(count: int, seed: int = 0) -> Score:
    """`count` single faults, over all networks and kinds in turn."""
    score, names, kinds = Score(), list(NETWORKS), list(KINDS)
    rng = random.Random(seed)
    places = [(name, kind) for kind in kinds for name in names]
    while score.done < count:
        rng.shuffle(places)
        for name, kind in places:
            drawn = rng.randrange(1 << 30)
            model, x = network(name, drawn)
            made = faulty(model, kind, drawn)
            if made is None:
                continue
            twin, fault = made
            said = verdict(RunSide(model, (x,), train=fault.train), RunSide(twin, (x,), train=fault.train), fault)
            score.done += 1
            score.kinds[kind] += 1
            if said:
                score.wrong.append(f"{name}: {fault.kind} at {fault.path}: {said}")
                print(score.wrong[-1], file=sys.stderr, flush=True)
            if score.done >= count:
                break
    return score


def verdict(a: RunSide, b: RunSide, fault: Fault) -> str:
    """What was said of a fault where that is not right; empty where it is."""
    try:
        found = diverge(a, b)
    except ProbeError as error:
        return f"refused: {error.message}"
    if found.culprit is None:
        return "called equal"
    one = found.culprit
    name = one.operator.removeprefix("aten.")
    place = fault.path in (one.path_b, one.path_a) or one.path_b == f"{fault.path}.inner"
    # The module above may call the function itself, with the weight of the faulty layer.
    place |= any(row.differs and f"{fault.path}." in row.a + row.b for row in one.arguments)
    return "" if place and name in fault.operators else f"{name} in {one.path_b} ({one.reason})"


def equal_pairs(count: int, seed: int = 0) -> Score:
    """`count` pairs that compute the same, each of another kind and network in turn."""
    score, rng = Score(), random.Random(seed)
    while True:
        for name in NETWORKS:
            for kind in range(6):
                drawn = rng.randrange(1 << 30)
                model, x = network(name, drawn)
                if kind == 4 and x.is_floating_point():
                    x = torch.cat([x] * 3) + 0.1 * torch.randn(3 * len(x), *x.shape[1:])
                twin = [
                    lambda m: m, lambda m: functional(m, 0), lambda m: functional(m, 1), plain_attention,
                    lambda m: channels_last(m), Extra,
                ][kind](model)  # fmt: skip
                if twin is None:
                    continue
                found = diverge(RunSide(model, (x,), threads=1), RunSide(twin, (x,), threads=2 if kind == 0 else 1))
                score.done += 1
                if found.culprit is not None:
                    one = found.culprit
                    score.wrong.append(
                        f"{name}, pair {kind}: {one.operator} in {one.path_b} ({one.reason} {one.largest})"
                    )
                    print(score.wrong[-1], file=sys.stderr, flush=True)
                if score.done >= count:
                    return score


if __name__ == "__main__":
    what, many, *rest = sys.argv[1:]
    total = {"faults": faults_found, "equal": equal_pairs}[what](int(many), *map(int, rest))
    print(total, dict(total.kinds))
