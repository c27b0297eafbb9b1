"""Damaged containers: an answer or one line, never a traceback, never more memory than the bounds allow."""

from __future__ import annotations

import contextlib
import random
import resource
from pathlib import Path

import pytest

from modelprobe.checkpoint.answers.scan import scan
from modelprobe.errors import ProbeError
from tests.checkpoint.scan.test_attacks import CALLABLES, CONTAINERS, by_global


def mutated(raw: bytes, drawn: random.Random) -> bytes:
    """Bytes changed, cut, doubled or put in."""
    data = bytearray(raw)
    for _ in range(drawn.randint(1, 6)):
        at = drawn.randrange(len(data)) if data else 0
        kind = drawn.randrange(5)
        if kind == 0 and data:
            data[at] = drawn.randrange(256)
        elif kind == 1:
            del data[at : at + drawn.randint(1, 40)]
        elif kind == 2:
            data[at:at] = bytes(drawn.randrange(256) for _ in range(drawn.randint(1, 12)))
        elif kind == 3:
            data[at:at] = data[at : at + drawn.randint(1, 200)]
        elif data:
            data[at : at + 4] = drawn.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"PK\3\4"])
    return bytes(data)


def scanned(path: Path, each: int, seed: int) -> int:
    """How many mutants of every container were answered."""
    drawn, count = random.Random(seed), 0
    for pack in CONTAINERS.values():
        raw = pack(by_global(*CALLABLES[0]))
        for _ in range(each):
            path.write_bytes(mutated(raw, drawn))
            with contextlib.suppress(ProbeError):
                scan(path).report()
            count += 1
    return count


@pytest.mark.zoo
def test_a_few_mutants_of_every_container(tmp_path: Path) -> None:
    assert scanned(tmp_path / "m", 12, 1) == 12 * len(CONTAINERS)


@pytest.mark.slow
def test_twenty_thousand_mutants(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = scanned(tmp_path / "m", 800, 2)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\n{count} mutants of {len(CONTAINERS)} containers: no traceback, {grown:.0f} MiB more at the peak")
    assert grown < 256
