"""Does any damage to a file get past the reader? Seeded mutants of every format: an error of ours, or a listing.

20,000 of them under `-m slow`; a few hundred in the everyday run.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from modelprobe.analyzers.scan import scan
from modelprobe.analyzers.weights import summarize_weights
from modelprobe.checkpoints.reader import open_checkpoint
from modelprobe.errors import ProbeError
from tests.checkpoints.seeds import SEEDS

EVERYDAY = 40
MANY = 20_000 // len(SEEDS) + 1
SECONDS = 5.0

TOKENS = (
    *(b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\x04", b"PK\1\2", b"PK\3\4"),
    *(b"(", b".", b"R", b"t", b"Q", b"b", b"u", b"h\0", b"c__builtin__\neval\n", b"cos\nsystem\n", b"\x8a\xff"),
    *(b"\x8e" + b"\xff" * 8, b"{", b'"', b"[" * 500, b"9" * 400, b"-1", b"1e999", b"\x1b[31m", b"\xed\xa0\x80"),
    *(b"]" * 300, b"a" * 300, b"../", b"NaN"),
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Between one and six wounds: flipped, overwritten, inserted, cut, doubled or swapped bytes, favouring the ends."""
    wounded = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        if not wounded:
            break
        at = place(len(wounded), rng)
        kind = rng.randrange(7)
        if kind == 0:
            wounded[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            wounded[at] = rng.randrange(256)
        elif kind == 2:
            token = rng.choice(TOKENS)
            wounded[at : at + len(token)] = token
        elif kind == 3:
            wounded[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            del wounded[at : at + rng.choice((1, 2, 8, 100))]
        elif kind == 5:
            del wounded[at:]
        else:
            other = place(len(wounded), rng)
            length = rng.choice((1, 4, 30, 200))
            wounded[at:at] = wounded[other : other + length]
    return bytes(wounded)


def place(length: int, rng: random.Random) -> int:
    """Headers stand at the ends, so half the wounds do too."""
    near = min(length, 400)
    return rng.choice((rng.randrange(length), rng.randrange(near), length - 1 - rng.randrange(near)))


def survive(path: Path) -> None:
    """Open, summarise and scan; only a ProbeError may come out."""
    for ask in (lambda: summarize_weights(open_checkpoint(path)).report(), lambda: scan(path).report()):
        started = time.process_time()
        with suppress(ProbeError):
            ask()
        assert time.process_time() - started < SECONDS


def trap(*_: object) -> None:
    raise AssertionError("the reader called something")


def fuzz(kind: str, seed_files: dict[str, Path], folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = seed_files[kind]
    data = source.read_bytes()
    path = folder / source.name
    for neighbour in source.parent.iterdir():
        (folder / neighbour.name).write_bytes(neighbour.read_bytes())
    survive(path)
    for name in ("system", "popen"):
        monkeypatch.setattr(os, name, trap)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, trap)
    before = set(sys.modules)
    rng = random.Random(f"modelprobe {kind}")
    for number in range(count):
        path.write_bytes(mutated(data, rng))
        try:
            survive(path)
        except BaseException:
            print(f"mutant {number} of {kind}: {path.read_bytes()[:2000]!r}")
            raise
    assert not {name for name in set(sys.modules) - before if not name.startswith("modelprobe.")}


@pytest.mark.parametrize("kind", SEEDS)
def test_some_mutants(kind: str, seed_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(kind, seed_files, tmp_path, EVERYDAY, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SEEDS)
def test_many_mutants(kind: str, seed_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzz(kind, seed_files, tmp_path, MANY, monkeypatch)
