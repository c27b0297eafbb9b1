"""The central directory of a zip archive, read strictly and with bounds.

torch and Python's zipfile disagree about several malformed archives (duplicates, prefixes, local names); what either of
them could read differently is refused or told.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelprobe.checkpoint.bytes.source import ByteSource, Inflated, Span
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.records import quick
from modelprobe.errors import BadInput

STORED, DEFLATED = 0, 8
COMPRESSIONS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 99: "encrypted"}
END_BYTES = 1 << 18  # one read that holds the end record and, as a rule, the whole directory

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_FIELDS = struct.Struct("<8xHH4xIIIHH10xI").unpack_from  # the same entry, without what is of no use here
_LENGTHS = struct.Struct("<3H").unpack_from  # of an entry's name, extra field and comment
_LOCAL = struct.Struct("<4s5H3L2H")
_ABSENT = 0xFFFFFFFF
_REFUSED_BITS = 0x1 | 0x20 | 0x40 | 0x2000

DISAGREE = "refused, since programs disagree about such archives"
AGAIN = "the download is incomplete: get the file again and compare its size with the original"


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of the directory. `header` is the position of its local header in the source."""

    name: str
    method: int
    packed: int
    size: int
    header: int
    crc: int
    flags: int = 0


_central_entry = quick(Member)


class Members(Mapping[str, Member]):
    """The entries of a directory by name, in its order; each is decoded when it is asked for.

    200,000 entries take 35 MB like this, and three times as much as objects.
    """

    def __init__(self, raw: bytes, places: dict[str, int], name: str) -> None:
        self._raw = raw
        self._places = places
        self._name = name

    def __getitem__(self, name: str) -> Member:
        return self.at(name, self._places[name])

    def at(self, name: str, place: int) -> Member:
        """The entry at a place of the directory."""
        return _central_entry(name, *self.numbers(place))

    def numbers(self, place: int) -> tuple[int, int, int, int, int, int]:
        """Method, packed size, size, position of the local header, checksum, flags of the entry at a place."""
        flags, method, crc, packed, size, named, extra, header = _FIELDS(self._raw, place)
        if packed == _ABSENT or size == _ABSENT or header == _ABSENT:
            begin = place + _ENTRY.size + named
            size, packed, header = self._zip64(self._raw[begin : begin + extra], size, packed, header)
        return method, packed, size, header, crc, flags

    def place(self, name: str) -> int:
        """Where the entry stands in the directory; -1 without."""
        return self._places.get(name, -1)

    def _zip64(self, extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
        """The three numbers with those replaced that stand in the zip64 extra field, in its order."""
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, at)
            if kind == 1:
                field = extra[at + 4 : at + 4 + length]
                numbers = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
                values = [next(numbers, -1) if number == _ABSENT else number for number in (size, packed, header)]
                if -1 in values:
                    break
                return values[0], values[1], values[2]
            at += 4 + length
        raise BadInput(f"{self._name} has a damaged zip64 entry", DISAGREE)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


class ZipDirectory:
    """The entries of an archive by name, in the order of the directory."""

    def __init__(self, source: ByteSource, limits: ReadLimits) -> None:
        self.source = source
        self.limits = limits
        self.findings: list[str] = []
        tail_at = max(0, source.size - END_BYTES)
        self._tail_at, self._tail = tail_at, source.read(tail_at, END_BYTES)
        start, length, declared = self._locate()
        self.start = start
        self._ordered = True
        self.members = self._entries(start, length)
        if declared != len(self.members) and declared != 0xFFFF:
            self.findings.append(f"the zip announces {declared:,} entries and lists {len(self.members):,}")
        self._check()

    def _locate(self) -> tuple[int, int, int]:
        """Position, length and declared entry count of the directory."""
        at = self._tail.rfind(b"PK\5\6")
        if at < 0 or len(self._tail) - at < _END.size:
            raise BadInput(f"{self.source.name} is a truncated zip: its central directory is missing", AGAIN)
        _, disk, first, here, count, length, start, comment = _END.unpack_from(self._tail, at)
        end_at = self._tail_at + at
        spare = self.source.size - end_at - _END.size - comment
        if spare > 0:
            self.findings.append(f"{spare:,} bytes follow the zip archive")
        if spare < 0:
            raise BadInput(f"{self.source.name} is a truncated zip: its last {-spare} bytes are missing", AGAIN)
        directory_end = end_at
        locator_at = at - _LOCATOR.size
        if locator_at >= 0 and self._tail[locator_at : locator_at + 4] == b"PK\6\7":
            plain = count
            directory_end, start, length, count, here = self._locate64(locator_at)
            if plain not in (count, 0xFFFF):
                self.findings.append(f"the zip announces {plain:,} entries in one place and {count:,} in another")
        elif disk or first:
            raise self._bad("is one volume of a zip that was split")
        if start + length != directory_end:
            raise self._bad(
                "has something before its zip archive, or its directory is not where it says"
                if start + length < directory_end
                else "has a zip directory that lies outside the file"
            )
        if here != count:
            raise self._bad("is one volume of a zip that was split")
        return start, length, count

    def _locate64(self, locator_at: int) -> tuple[int, int, int, int, int]:
        _, _, end64_at, _ = _LOCATOR.unpack_from(self._tail, locator_at)
        if end64_at + _END64.size > self._tail_at + locator_at:
            raise self._bad("has a zip directory that lies outside the file")
        raw = self.source.read(end64_at, _END64.size)
        if len(raw) < _END64.size or raw[:4] != b"PK\6\6":
            raise self._bad("has a damaged zip64 record")
        _, _, _, _, _, _, here, count, length, start = _END64.unpack(raw)
        return end64_at, start, length, count, here

    def _entries(self, start: int, length: int) -> Members:
        if length > self.limits.members * 64 or length > self.source.size:
            raise self._bad(f"has a zip directory of {length:,} bytes, more than is read")
        raw = self._window(start, length)
        if len(raw) < length:
            raise self._bad("has a zip directory that lies outside the file")
        places: dict[str, int] = {}
        members = Members(raw, places, self.source.name)
        at = reached = 0
        while at < length:
            if at + _ENTRY.size > length or raw[at : at + 4] != b"PK\1\2":
                raise self._bad("has a damaged zip directory")
            named, extra, comment = _LENGTHS(raw, at + 28)
            begin = at + _ENTRY.size
            name = raw[begin : begin + named].decode("utf-8", "surrogateescape")
            if begin + named + extra + comment > length:
                raise self._bad("has a damaged zip directory")
            if name in places:
                raise self._bad(f"holds two members called {name}: it is ambiguous which one is meant")
            _, packed, _, header, _, _ = members.numbers(at)
            self._ordered = self._ordered and header >= reached
            reached = header + _LOCAL.size + named + packed
            places[name] = at
            at = begin + named + extra + comment
        self._ordered = self._ordered and reached <= self.start
        return members

    def _window(self, start: int, length: int) -> bytes:
        if start >= self._tail_at:
            return self._tail[start - self._tail_at : start - self._tail_at + length]
        return self.source.read(start, length)

    def _check(self) -> None:
        """Refuse what two readers could read in two ways."""
        if len({name.casefold() for name in self.members}) < len(self.members):
            raise self._bad(f"holds two members whose names differ in case only: {self._twin()}")
        if "" in self.members or any("\0" in name for name in self.members):
            raise self._bad("holds a member whose name is empty or has a NUL character in it")
        if self._ordered:  # as they come, each begins behind the one before
            return
        reached, before = 0, None
        for member in sorted(self.members.values(), key=lambda member: member.header):
            if member.header < reached:
                other = f" and {before.name}" if before else ""
                raise self._bad(f"holds members that overlap: {member.name}{other}")
            reached, before = member.header + _LOCAL.size + len(member.name) + member.packed, member
        if reached > self.start:
            raise self._bad(f"holds a member that reaches into the directory: {before.name if before else ''}")

    def _twin(self) -> str:
        seen: set[str] = set()
        for name in self.members:
            if name.casefold() in seen:
                return name
            seen.add(name.casefold())
        return ""

    def _bad(self, what: str) -> BadInput:
        return BadInput(f"{self.source.name} {what}", DISAGREE)

    def get(self, name: str) -> Member | None:
        """The member called `name`."""
        return self.members.get(name)

    def open(self, member: Member, bound: int = 0) -> ByteSource:
        """The bytes of a member, inflated if need be and then at most `bound` of them."""
        if member.method not in (STORED, DEFLATED):
            method = COMPRESSIONS.get(member.method, f"method {member.method}")
            raise BadInput(
                f"{self.source.name} is packed with {method}, which torch does not read either: {member.name}"
            )
        if member.flags & _REFUSED_BITS:
            raise BadInput(f"{self.source.name} is encrypted or patched: {member.name}", "unpack it first")
        start = self.data_start(member)
        if member.method == STORED:
            if member.packed != member.size:
                raise self._bad(f"gives two sizes for {member.name}")
            return Span(self.source, start, member.size)
        return Inflated(self.source, start, member.packed, member.size, min(bound or member.size, member.size))

    def data_start(self, member: Member) -> int:
        """Where the data of a member begins: behind its local header, whose length stands only there."""
        raw = self.source.read(member.header, _LOCAL.size)
        if len(raw) < _LOCAL.size or raw[:4] != b"PK\3\4":
            raise self._bad(f"has no local header where the directory says: {member.name}")
        named, extra = _LOCAL.unpack(raw)[-2:]
        local = self.source.read(member.header + _LOCAL.size, named).decode("utf-8", "surrogateescape")
        if local != member.name:
            self.findings.append(
                f"the directory and the local header name a member differently: {member.name}, {local}"
            )
        start = member.header + _LOCAL.size + named + extra
        if start + member.packed > self.start:
            raise self._bad(f"holds a member that reaches into the directory: {member.name}")
        return int(start)

    def read(self, name: str, bound: int) -> bytes:
        """A small member as a whole, b"" without; more than `bound` bytes are refused."""
        member = self.members.get(name)
        if member is None:
            return b""
        if member.size > bound:
            raise self._bad(f"holds a {name} of {member.size:,} bytes")
        return self.open(member, bound).read(0, bound)
