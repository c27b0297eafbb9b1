"""What torch's caching allocator on a GPU makes of a run: the bytes it hands out, and those that it reserves.

The rules are those of c10/cuda/CUDACachingAllocator.cpp with its default settings: sizes are rounded to 512 bytes, up
to 1 MiB come from segments of 2 MiB, up to 10 MiB from segments of 20 MiB, and larger ones from a segment of their own,
rounded to 2 MiB; the smallest free piece that is large enough is taken and split; free neighbours are joined.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field

ROUNDING = 512
SMALL = 2**20
SMALL_SEGMENT = 2 * 2**20
LARGE_SEGMENT = 20 * 2**20
MIN_OWN_SEGMENT = 10 * 2**20
OWN_ROUNDING = 2 * 2**20


@dataclass(eq=False, slots=True)
class Piece:
    """A part of a segment; `before` and `after` are its neighbours there."""

    number: int
    nbytes: int
    small: bool
    free: bool = False
    before: Piece | None = None
    after: Piece | None = None


@dataclass
class CachingAllocator:
    """The simulated allocator. `allocated` and `reserved` are bytes now, the `peak_` ones their maxima."""

    allocated: int = 0
    reserved: int = 0
    peak_allocated: int = 0
    peak_reserved: int = 0
    _pieces: dict[int, Piece] = field(default_factory=dict)
    _free: dict[bool, list[tuple[int, int, Piece]]] = field(default_factory=lambda: {True: [], False: []})
    _made: int = 0

    def take(self, key: int, nbytes: int) -> None:
        """Allocate `nbytes` under `key`; nothing for an empty tensor."""
        if not nbytes:
            return
        rounded = max(ROUNDING, -(-nbytes // ROUNDING) * ROUNDING)
        small = rounded <= SMALL
        piece = self._found(rounded, small) or self._segment(rounded, small)
        rest = piece.nbytes - rounded
        if rest >= ROUNDING if small else rest > SMALL:
            tail = self._piece(rest, small)
            tail.before, tail.after = piece, piece.after
            if piece.after is not None:
                piece.after.before = tail
            piece.after, piece.nbytes = tail, rounded
            self._release(tail)
        self._pieces[key] = piece
        self.allocated += piece.nbytes
        self.peak_allocated = max(self.peak_allocated, self.allocated)

    def give_back(self, key: int) -> None:
        """Free what was allocated under `key`, and join it with its free neighbours."""
        piece = self._pieces.pop(key, None)
        if piece is None:
            return
        self.allocated -= piece.nbytes
        for left, right in ((piece.before, piece), (piece, piece.after)):
            other = left if right is piece else right
            if other is None or not other.free:
                continue
            self._free[other.small].remove((other.nbytes, other.number, other))
            piece.nbytes += other.nbytes
            if other is piece.before:
                piece.before = other.before
                if piece.before is not None:
                    piece.before.after = piece
            else:
                piece.after = other.after
                if piece.after is not None:
                    piece.after.before = piece
        self._release(piece)

    def _found(self, nbytes: int, small: bool) -> Piece | None:
        pool = self._free[small]
        place = bisect_left(pool, nbytes, key=lambda entry: entry[0])
        if place == len(pool):
            return None
        piece = pool.pop(place)[2]
        piece.free = False
        return piece

    def _segment(self, nbytes: int, small: bool) -> Piece:
        if small:
            size = SMALL_SEGMENT
        elif nbytes < MIN_OWN_SEGMENT:
            size = LARGE_SEGMENT
        else:
            size = -(-nbytes // OWN_ROUNDING) * OWN_ROUNDING
        self.reserved += size
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return self._piece(size, small)

    def _piece(self, nbytes: int, small: bool) -> Piece:
        self._made += 1
        return Piece(self._made, nbytes, small)

    def _release(self, piece: Piece) -> None:
        piece.free = True
        insort(self._free[piece.small], (piece.nbytes, piece.number, piece), key=lambda entry: entry[:2])


def simulate(events: Iterable[tuple[int, int]]) -> CachingAllocator:
    """The allocator after (key, bytes) events; bytes below 0 free what stands under the key."""
    allocator = CachingAllocator()
    for key, nbytes in events:
        if nbytes < 0:
            allocator.give_back(key)
        else:
            allocator.take(key, nbytes)
    return allocator
