"""The pickles and the code in a file, at whatever place: in an archive, one after another, one in another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelprobe.checkpoint.bytes.source import ByteSource, Inflated, Span
from modelprobe.checkpoint.bytes.zip import ZipDirectory
from modelprobe.checkpoint.formats.pickled import global_entries
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.base64 import Memory, decoded
from modelprobe.checkpoint.pickle.nodes import Blob
from modelprobe.checkpoint.pickle.reader import BrokenPickle, read_pickle
from modelprobe.checkpoint.records import GlobalEntry
from modelprobe.errors import ProbeError

MAX_CONSECUTIVE = 64
MAX_NESTED = 2_000
MAX_INFLATED_BYTES = 64 << 20
"""Bytes of a compressed pickle up to which what is nested in it is followed."""

CODE = (".py", ".pyc", ".so", ".dll", ".dylib", ".sh", ".exe", ".bat", ".ps1")
OPENERS = b"\x80(]}c"
NAMING = (b"c", b"i", b"\x93", b"\x82", b"\x83", b"\x84")
"""The opcodes that name something to import."""

NUMPY_START = b"\x93NUMPY"


@dataclass(frozen=True, slots=True)
class Executable:
    """One thing that could run. `kind`: pickle, nested pickle, code. `error` when it could be read only in part."""

    where: str
    kind: str
    globals: tuple[GlobalEntry, ...] = ()
    error: str = ""
    remarks: tuple[str, ...] = ()


def inspect(source: ByteSource, limits: ReadLimits) -> Iterator[Executable]:
    """Every pickle and piece of code in a file, whatever its format."""
    head = source.read(0, 256)
    if head[:4] == b"PK\3\4":
        yield from _archive(source, limits)
    elif head[:6] == NUMPY_START:
        yield from _object_array(source, head, "", limits)
    elif head[:1] == OPENERS[:1] and looks_pickled(head):
        yield from _consecutive(source, "", limits)
    elif looks_pickled(head):  # or it is a text that begins with one of these letters
        yield from (found for found in _consecutive(source, "", limits) if not found.error or _calls(found))
    else:  # a pickle may begin with any value
        yield from _calling(source, "", limits)


def looks_pickled(head: bytes) -> bool:
    """Whether bytes could begin a pickle."""
    return len(head) > 1 and (head[0] in OPENERS[1:] or (head[0] == OPENERS[0] and head[1] <= 5))


def _archive(source: ByteSource, limits: ReadLimits) -> Iterator[Executable]:
    """The pickles among the members: by name, and by their first bytes outside the folders that hold raw data."""
    archive = ZipDirectory(source, limits)
    for name, member in archive.members.items():
        if name.endswith(CODE):
            yield Executable(name, "code")
            continue
        named = name.endswith((".pkl", ".pickle", ".pt", ".pth", ".debug_pkl"))
        if member.size < 2 or (not named and "/data/" in name and name.rpartition("/")[2].isdigit()):
            continue
        try:
            feed = archive.open(member, limits.pickle_bytes)
            if isinstance(feed, Inflated) and feed.size <= MAX_INFLATED_BYTES:  # read backwards and forwards
                feed = Memory(feed.read(0, feed.size), source.name)
            head = feed.read(0, 256)
            if head[:6] == NUMPY_START:
                yield from _object_array(feed, head, name, limits)
            elif head[:4] == b"PK\3\4" and not isinstance(feed, Inflated):
                yield from _archive(feed, limits) if source.size > feed.size else ()
            elif named or (head[:1] == b"\x80" and looks_pickled(head)):
                yield from _consecutive(feed, name, limits)
        except ProbeError as error:
            yield Executable(name, "pickle", error=error.message)


def _object_array(feed: ByteSource, head: bytes, name: str, limits: ReadLimits) -> Iterator[Executable]:
    """An array of Python objects is a pickle behind numpy's header."""
    start = 10 + int.from_bytes(head[8:10], "little") if head[6] == 1 else 12 + int.from_bytes(head[8:12], "little")
    if b"|O" in head and start < feed.size:
        yield from _consecutive(Span(feed, start, feed.size - start), name, limits)


def _consecutive(feed: ByteSource, where: str, limits: ReadLimits, depth: int = 0) -> Iterator[Executable]:
    """The pickles that stand one after the other (a legacy torch file has five), each with those inside it."""
    at = 0
    for number in range(MAX_CONSECUTIVE):
        kind = "nested pickle" if depth else "pickle"
        try:
            pickled = read_pickle(feed, at, limits)
        except BrokenPickle as error:
            if number == 0 or error.globals:
                yield Executable(where, kind, global_entries(error.globals, where), error.message)
            return
        yield Executable(where, kind, global_entries(pickled.globals, where), "", pickled.findings)
        if depth < limits.nested:
            for blob in pickled.blobs[:MAX_NESTED]:
                yield from _nested_pickles(blob, where, limits, depth + 1)
            if not isinstance(feed, Inflated):
                yield from _encoded(feed, at, pickled.end, where, limits, depth + 1)
        at = pickled.end
        if not looks_pickled(feed.read(at, 8)):
            yield from _calling(Span(feed, at, feed.size - at), where, limits, depth) if at < feed.size else ()
            return


def _encoded(
    feed: ByteSource, start: int, stop: int, where: str, limits: ReadLimits, depth: int
) -> Iterator[Executable]:
    """Texts inside a pickle that are a pickle in base64."""
    for place, data in decoded(feed, start, stop):
        span = Memory(data, feed.name)
        spot = f"{where or 'the pickle'} at byte {place:,}, in base64"
        if data[:1] == b"\x80" and looks_pickled(data):
            yield from (found for found in _consecutive(span, spot, limits, depth) if found.globals)
        elif any(opcode in data for opcode in NAMING):
            yield from _calling(span, spot, limits, depth)


def _calling(feed: ByteSource, where: str, limits: ReadLimits, depth: int = 0) -> Iterator[Executable]:
    """What does not look like a pickle is reported as one only if unpickling it would come to a call."""
    yield from filter(_calls, _consecutive(feed, where, limits, depth))


def _calls(found: Executable) -> bool:
    return any(entry.called for entry in found.globals)


def _nested_pickles(blob: Blob, where: str, limits: ReadLimits, depth: int) -> Iterator[Executable]:
    """Bytes inside a pickle that are a pickle, or a torch file, themselves."""
    if blob.feed is None or isinstance(blob.feed, Inflated) or blob.length < 4:
        return
    span = Span(blob.feed, blob.offset, blob.length)
    head = blob.data[:8] if blob.data is not None else span.read(0, 8)
    place = f"{where or 'the pickle'} at byte {blob.offset:,}"
    if head[:1] == b"\x80" and looks_pickled(head):
        yield from (found for found in _consecutive(span, place, limits, depth) if found.globals or not found.error)
    elif head[:1] in (b"c", b"(") and blob.data is not None and b"." in blob.data:
        yield from (found for found in _consecutive(span, place, limits, depth) if found.globals)
    elif blob.data is not None and any(opcode in blob.data for opcode in NAMING):
        yield from _calling(span, place, limits, depth)
