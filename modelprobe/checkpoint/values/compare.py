"""Two checkpoints compared: names first, then values, a piece of a tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from modelprobe.checkpoint.records import DISTRIBUTED, Branch, Checkpoint, Item, Scalar, TensorEntry
from modelprobe.checkpoint.values.gather import ZERO
from modelprobe.checkpoint.values.reader import TensorReader
from modelprobe.checkpoint.values.sides import Sides
from modelprobe.checkpoint.write.extras import NotKept
from modelprobe.checkpoint.write.tensor import TensorToWrite, flat, memory_of, to_write
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    import torch

ELEMENTS_AT_ONCE = 1 << 20
"""Elements compared at once."""

MAX_CANDIDATES = 20_000
"""Pairs of equal tensors whose names are compared; beyond, they pair in order."""

VALUES, NAME = "equal values", "name"


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor in both files. `found` says how a renamed one was found: by `equal values`, or by its `name`."""

    name: str
    other: str
    found: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """How far the values of a pair are apart, of `numel` elements.

    `max_abs` and `max_rel` (relative to the larger of the two) leave out the `unbounded` elements, where one is NaN or
    infinite and the other is not. `equal` elements are the same, or both NaN; `beyond` are further apart than
    tolerance * max(1, |a|, |b|). `cosine` is None where one side is all zeros.
    """

    numel: int
    equal: int
    beyond: int
    unbounded: int
    max_abs: float
    max_rel: float
    cosine: float | None
    norm_a: float
    norm_b: float


@dataclass(frozen=True, slots=True)
class ValueChange:
    """An entry that is no tensor. None where a side does not have it."""

    path: str
    before: str | None
    after: str | None


def pair_up(sides: Sides) -> tuple[list[Pair], list[str], list[str]]:
    """The pairs in the order of the first file, then the names that only the first and only the second one has."""
    removed = {name: tensor for name, tensor in sides.left.items() if name not in sides.right}
    added = {name: tensor for name, tensor in sides.right.items() if name not in sides.left}
    renamed = _by_values(removed, added)
    for name, other in _pairs_by_name(removed, added, renamed).items():
        renamed[name] = Pair(name, other, NAME)
    both = [name for name in sides.left if name in sides.right or name in renamed]
    pairs = [renamed.get(name, Pair(name, name)) for name in both]
    taken = {pair.other for pair in renamed.values()}
    return pairs, [name for name in removed if name not in renamed], [name for name in added if name not in taken]


def _by_values(removed: Mapping[str, TensorToWrite], added: Mapping[str, TensorToWrite]) -> dict[str, Pair]:
    """Tensors under another name: equal in shape, dtype and every bit. Among equals the most alike names pair."""
    shapes = {_kind(tensor) for tensor in removed.values()} & {_kind(tensor) for tensor in added.values()}
    groups: dict[bytes, list[str]] = {}
    for name, tensor in added.items():
        if _kind(tensor) in shapes:
            groups.setdefault(_tensor_digest(tensor), []).append(name)
    found: dict[str, Pair] = {}
    rivals: dict[bytes, list[str]] = {}
    for name, tensor in removed.items():
        if groups and _kind(tensor) in shapes:
            rivals.setdefault(_tensor_digest(tensor), []).append(name)
    for digest, names in rivals.items():
        for name, other in _paired_names(names, groups.get(digest, [])):
            found[name] = Pair(name, other, VALUES)
    return found


def _paired_names(names: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Names that belong together, the most alike first; equal values make any choice a right one."""
    if len(names) * len(others) > MAX_CANDIDATES:
        return list(zip(names, others, strict=False))
    ranked = sorted(
        ((-_shared_ending(name, other), i, j) for i, name in enumerate(names) for j, other in enumerate(others)),
    )
    made: dict[int, int] = {}
    for _, i, j in ranked:
        if i not in made and j not in made.values():
            made[i] = j
    return [(names[i], others[j]) for i, j in made.items()]


def _pairs_by_name(
    removed: Mapping[str, TensorToWrite], added: Mapping[str, TensorToWrite], taken: Mapping[str, Pair]
) -> dict[str, str]:
    """Tensors whose values changed too: one name is the other behind more leading segments, the shape is the same."""
    used = {pair.other for pair in taken.values()}
    tails: dict[str, list[str]] = {}
    for name in removed:
        if name not in taken:
            for tail in _tails(name):
                tails.setdefault(tail, []).append(name)
    heads = {name for name in removed if name not in taken}
    found: dict[str, str] = {}
    for other in added:
        if other in used:
            continue
        longer = tails.get(other, [])
        shorter = [tail for tail in _tails(other) if tail in heads]
        rivals = [name for name in {*longer, *shorter} if removed[name].shape == added[other].shape]
        if len(rivals) == 1 and rivals[0] not in found:
            found[rivals[0]] = other
    return found


def _tails(name: str) -> Iterator[str]:
    """`b.c` and `c` of `a.b.c`; at most four leading segments are taken off."""
    for _ in range(4):
        _, dot, name = name.partition(".")
        if not dot or "." not in name:
            return
        yield name


def _kind(tensor: TensorToWrite) -> tuple[tuple[int, ...], str]:
    return tensor.shape, tensor.dtype


def _tensor_digest(tensor: TensorToWrite) -> bytes:
    digest = blake2b(repr(_kind(tensor)).encode(), digest_size=16)
    for piece in flat(tensor):
        digest.update(memory_of(piece))
    return digest.digest()


def _shared_ending(name: str, other: str) -> int:
    """How many last segments two names share."""
    count = 0
    for a, b in zip(reversed(name.split(".")), reversed(other.split(".")), strict=False):
        if a != b:
            break
        count += 1
    return count


def measure(a: TensorToWrite, b: TensorToWrite, tolerance: float = 0.0) -> Measured:
    """Compare the values of two tensors of the same number of elements, in float64."""
    total = _PairSums()
    for left, right in _aligned_pieces(flat(a), flat(b)):
        _add(total, left, right, tolerance)
    norms = math.sqrt(total.aa), math.sqrt(total.bb)
    same = total.equal == total.numel
    product = norms[0] * norms[1]
    cosine = (1.0 if same else max(-1.0, min(1.0, total.ab / product))) if product and math.isfinite(product) else None
    return Measured(
        total.numel, total.equal, total.beyond, total.unbounded, total.max_abs, total.max_rel, cosine, *norms
    )


class _PairSums:
    """What is added up over the pieces."""

    def __init__(self) -> None:
        self.numel = self.equal = self.beyond = self.unbounded = 0
        self.max_abs = self.max_rel = self.aa = self.bb = self.ab = 0.0


def _aligned_pieces(
    left: Iterator[torch.Tensor], right: Iterator[torch.Tensor]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pieces of equal length from two streams that are cut differently."""
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        count = min(len(a), len(b), ELEMENTS_AT_ONCE)
        yield a[:count], b[:count]
        a = a[count:] if count < len(a) else next(left, None)
        b = b[count:] if count < len(b) else next(right, None)


def _add(total: _PairSums, left: torch.Tensor, right: torch.Tensor, tolerance: float) -> None:
    import torch

    total.numel += len(left)
    parts = 2 if left.is_complex() or right.is_complex() else 1
    a = _wide(left, parts)
    if left.dtype == right.dtype and torch.equal(left.view(torch.uint8), right.view(torch.uint8)):
        square = float(torch.dot(a, a))
        total.equal += len(left)
        total.aa, total.bb, total.ab = total.aa + square, total.bb + square, total.ab + square
        return
    b = _wide(right, parts)
    whole = left.dtype == right.dtype and not left.dtype.is_floating_point and parts == 1
    equal = left == right if whole else (a == b) | (a.isnan() & b.isnan())
    apart = (a - b).abs().clamp(min=1.0 if whole else 0.0).masked_fill(equal, 0)  # int64 is finer than float64
    larger = torch.maximum(a.abs(), b.abs())
    unbounded = ~apart.isfinite()
    beyond = (~(apart <= tolerance * larger.clamp(min=1)) | unbounded) & ~equal  # inf <= tolerance * inf, too
    apart = apart.masked_fill(unbounded, 0)
    total.equal += int(equal.reshape(-1, parts).all(1).sum())
    total.beyond += int(beyond.reshape(-1, parts).any(1).sum())
    total.unbounded += int(unbounded.reshape(-1, parts).any(1).sum())
    total.max_abs = max(total.max_abs, float(apart.max()))
    total.max_rel = max(total.max_rel, float((apart / larger).nan_to_num(0).max()))
    total.aa += float(torch.dot(a, a))
    total.bb += float(torch.dot(b, b))
    total.ab += float(torch.dot(a, b))


def _wide(piece: torch.Tensor, parts: int) -> torch.Tensor:
    """Every kind of number as float64; with two parts as real and imaginary ones in turn."""
    import torch

    if parts == 2:
        return torch.view_as_real(piece.to(torch.complex128)).reshape(-1)
    return piece.to(torch.float64)


def outside_branches(a: Checkpoint, branch: Branch, b: Checkpoint, other: Branch) -> list[NotKept]:
    """The tensors outside both branches, as an optimizer's, that are not the same in both files."""
    first, second = (
        {e.name: e for e in f.tensors if e.path[: len(of.path)] != of.path} for f, of in ((a, branch), (b, other))
    )
    keys = {entry.path[0] for entry in first.values()} & {entry.path[0] for entry in second.values()}
    names = [n for n, entry in {**first, **second}.items() if entry.path[0] in keys]
    if not names or {a.format, b.format} & {DISTRIBUTED, ZERO}:
        return []
    why = f"outside {branch.name or 'the root'}, and not the same in the other file"
    with TensorReader(a) as mine, TensorReader(b) as theirs:
        return [
            NotKept(name, why)
            for name in names
            if name not in first
            or name not in second
            or not _same_values(a, first[name], mine, b, second[name], theirs)
        ]


def _same_values(
    a: Checkpoint, entry: TensorEntry, mine: TensorReader, b: Checkpoint, other: TensorEntry, theirs: TensorReader
) -> bool:
    """Whether two tensors are surely equal, by the checksums of their bytes or by the bytes."""
    if (entry.shape, entry.dtype) != (other.shape, other.dtype):
        return False
    one, two = a.storages.get(entry.storage), b.storages.get(other.storage)
    if one and two and one.crc is not None and entry.identity[1:] == other.identity[1:]:
        return (one.length, one.crc) == (two.length, two.crc)
    try:
        for reader, each in ((mine, entry), (theirs, other)):
            reader.check(each)
        first, second = to_write(mine, entry, entry.name), to_write(theirs, other, other.name)
        return _tensor_digest(first) == _tensor_digest(second)
    except BadInput:
        return False


def other_values(a: Checkpoint, b: Checkpoint) -> list[ValueChange]:
    """What differs between the entries that are no tensors."""
    before, after = _flat_values(a), _flat_values(b)
    names = [*before, *(name for name in after if name not in before)]
    return [
        ValueChange(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    ]


def _flat_values(found: Checkpoint) -> dict[str, str]:
    values: dict[str, str] = {key: str(value) for key, value in found.metadata.items()}
    stack: list[tuple[tuple[str, ...], Item]] = [((), found.tree)]
    while stack:
        path, item = stack.pop()
        for child in reversed(item.children):
            stack.append(((*path, child.key), child))
        if path and not item.children and not item.tensors and item.kind not in ("same", "deep", "opaque"):
            values[".".join(path)] = _value_text(item.kind, item.value, item.length)
    return values


def _value_text(kind: str, value: Scalar, length: int) -> str:
    return f"{kind} of {length}" if kind in ("dict", "list", "tuple", "set", "object") else str(value)
