"""Which pickles and which code lie in a file, at whatever place: in an archive, in a row, one in another?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelprobe.checkpoint.bytes.source import Inflated, Source, Span
from modelprobe.checkpoint.bytes.zip import ZipDirectory
from modelprobe.checkpoint.formats.pickled import global_entries
from modelprobe.checkpoint.limits import Limits
from modelprobe.checkpoint.pickle.base64 import Memory, decoded
from modelprobe.checkpoint.pickle.nodes import Blob
from modelprobe.checkpoint.pickle.read import BrokenPickle, read_pickle
from modelprobe.checkpoint.records import GlobalEntry
from modelprobe.errors import ProbeError

MOST_IN_A_ROW = 64
MOST_NESTED = 2_000
MOST_INFLATED = 64 << 20
"""Bytes of a compressed pickle up to which what is nested in it is followed."""

CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe", ".bat", ".ps1")
OPENERS = b"\x80(]}c"
NAMING = (b"c", b"i", b"\x93", b"\x82", b"\x83", b"\x84")
"""The opcodes that name something to import."""

NUMPY = b"\x93NUMPY"


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that could run. `kind`: pickle, nested pickle, code. `error` when it could be read only in part."""

    where: str
    kind: str
    globals: tuple[GlobalEntry, ...] = ()
    error: str = ""
    remarks: tuple[str, ...] = ()


def inspect(source: Source, limits: Limits) -> Iterator[Found]:
    """Every pickle and piece of code in a file, whatever its format."""
    head = source.read(0, 256)
    if head[:4] == b"PK\3\4":
        yield from _archive(source, limits)
    elif head[:6] == NUMPY:
        yield from _object_array(source, head, "", limits)
    elif head[:1] == OPENERS[:1] and looks_pickled(head):
        yield from _row(source, "", limits)
    elif looks_pickled(head):  # or it is a text that begins with one of these letters
        yield from (found for found in _row(source, "", limits) if not found.error or _calls(found))
    else:  # a pickle may begin with any value
        yield from _calling(source, "", limits)


def looks_pickled(head: bytes) -> bool:
    """Whether bytes could begin a pickle."""
    return len(head) > 1 and (head[0] in OPENERS[1:] or (head[0] == OPENERS[0] and head[1] <= 5))


def _archive(source: Source, limits: Limits) -> Iterator[Found]:
    """The pickles among the members: by name, and by their first bytes outside the folders that hold raw data."""
    archive = ZipDirectory(source, limits)
    for name, member in archive.members.items():
        if name.endswith(CODE):
            yield Found(name, "code")
            continue
        named = name.endswith((".pkl", ".pickle", ".pt", ".pth", ".debug_pkl"))
        if member.size < 2 or (not named and "/data/" in name and name.rpartition("/")[2].isdigit()):
            continue
        try:
            feed = archive.open(member, limits.pickle_bytes)
            if isinstance(feed, Inflated) and feed.size <= MOST_INFLATED:  # read backwards and forwards
                feed = Memory(feed.read(0, feed.size), source.name)
            head = feed.read(0, 256)
            if head[:6] == NUMPY:
                yield from _object_array(feed, head, name, limits)
            elif head[:4] == b"PK\3\4" and not isinstance(feed, Inflated):
                yield from _archive(feed, limits) if source.size > feed.size else ()
            elif named or (head[:1] == b"\x80" and looks_pickled(head)):
                yield from _row(feed, name, limits)
        except ProbeError as error:
            yield Found(name, "pickle", error=error.message)


def _object_array(feed: Source, head: bytes, name: str, limits: Limits) -> Iterator[Found]:
    """An array of Python objects is a pickle behind numpy's header."""
    start = 10 + int.from_bytes(head[8:10], "little") if head[6] == 1 else 12 + int.from_bytes(head[8:12], "little")
    if b"|O" in head and start < feed.size:
        yield from _row(Span(feed, start, feed.size - start), name, limits)


def _row(feed: Source, where: str, limits: Limits, depth: int = 0) -> Iterator[Found]:
    """The pickles that stand one after the other (a legacy torch file has five), each with those inside it."""
    at = 0
    for number in range(MOST_IN_A_ROW):
        kind = "nested pickle" if depth else "pickle"
        try:
            pickled = read_pickle(feed, at, limits)
        except BrokenPickle as error:
            if number == 0 or error.globals:
                yield Found(where, kind, global_entries(error.globals, where), error.message)
            return
        yield Found(where, kind, global_entries(pickled.globals, where), "", pickled.findings)
        if depth < limits.nested:
            for blob in pickled.blobs[:MOST_NESTED]:
                yield from _nested(blob, where, limits, depth + 1)
            if not isinstance(feed, Inflated):
                yield from _encoded(feed, at, pickled.end, where, limits, depth + 1)
        at = pickled.end
        if not looks_pickled(feed.read(at, 8)):
            yield from _calling(Span(feed, at, feed.size - at), where, limits, depth) if at < feed.size else ()
            return


def _encoded(feed: Source, start: int, stop: int, where: str, limits: Limits, depth: int) -> Iterator[Found]:
    """Texts inside a pickle that are a pickle in base64."""
    for place, data in decoded(feed, start, stop):
        span = Memory(data, feed.name)
        spot = f"{where or 'the pickle'} at byte {place:,}, in base64"
        if data[:1] == b"\x80" and looks_pickled(data):
            yield from (found for found in _row(span, spot, limits, depth) if found.globals)
        elif any(opcode in data for opcode in NAMING):
            yield from _calling(span, spot, limits, depth)


def _calling(feed: Source, where: str, limits: Limits, depth: int = 0) -> Iterator[Found]:
    """What does not look like a pickle is reported as one only if unpickling it would come to a call."""
    yield from filter(_calls, _row(feed, where, limits, depth))


def _calls(found: Found) -> bool:
    return any(entry.called for entry in found.globals)


def _nested(blob: Blob, where: str, limits: Limits, depth: int) -> Iterator[Found]:
    """Bytes inside a pickle that are a pickle, or a torch file, themselves."""
    if blob.feed is None or isinstance(blob.feed, Inflated) or blob.length < 4:
        return
    span = Span(blob.feed, blob.offset, blob.length)
    head = blob.data[:8] if blob.data is not None else span.read(0, 8)
    place = f"{where or 'the pickle'} at byte {blob.offset:,}"
    if head[:1] == b"\x80" and looks_pickled(head):
        yield from (found for found in _row(span, place, limits, depth) if found.globals or not found.error)
    elif head[:1] in (b"c", b"(") and blob.data is not None and b"." in blob.data:
        yield from (found for found in _row(span, place, limits, depth) if found.globals)
    elif blob.data is not None and any(opcode in blob.data for opcode in NAMING):
        yield from _calling(span, place, limits, depth)
