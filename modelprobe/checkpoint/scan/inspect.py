"""The pickles and the code in a file, at whatever place: in an archive, one after another, one in another."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress

from modelprobe.checkpoint.bytes.source import ByteSource, Inflated, Span
from modelprobe.checkpoint.bytes.zip import Member, ZipDirectory
from modelprobe.checkpoint.formats.onnx import looks_like_onnx
from modelprobe.checkpoint.formats.pickled import global_entries
from modelprobe.checkpoint.limits import ReadLimits
from modelprobe.checkpoint.pickle.nodes import Blob
from modelprobe.checkpoint.pickle.reader import BrokenPickle, read_pickle
from modelprobe.checkpoint.scan import containers
from modelprobe.checkpoint.scan.binary import GGUF_STARTS, onnx_findings, tensor_places
from modelprobe.checkpoint.scan.code import code_in
from modelprobe.checkpoint.scan.encoded import Memory, decoded
from modelprobe.checkpoint.scan.found import (
    Executable,
    affordable,
    comes_to_call,
    holding,
    importable,
    room_left,
    unaffordable,
)
from modelprobe.checkpoint.scan.heads import UNKNOWN_FORMAT, begins_pickle, looks_pickled, reads_as_text, why_unread
from modelprobe.checkpoint.scan.split import joined_lists
from modelprobe.checkpoint.scan.tails import end_of_format
from modelprobe.checkpoint.scan.texts import in_text, pickles_in, unescaped_parts
from modelprobe.errors import ProbeError

MAX_CONSECUTIVE = 1_000
MAX_NESTED = 50_000
"""Values in a pickle that are looked into."""

MAX_ARCHIVES = 5
"""Archives in archives that are opened."""

MAX_TEXT = 32 << 20
"""Bytes of a text that are searched for pickles in base64."""

MAX_ONNX_TEXT = 1 << 18
"""Bytes of an ONNX file, at its begin and at its end, that are searched for them: the rest are numbers."""

TORCH_PACKAGE = ".data/extern_modules"
NAMING = (b"c", b"i", b"\x93", b"\x82", b"\x83", b"\x84")
"""The opcodes that name something to import."""

NUMPY_START = b"\x93NUMPY"
_OBJECTS = re.compile(rb"['\"][<>=|]?O\d*['\"]")
"""The type of Python objects in numpy's header, also of one field among others."""

_STORED = re.compile(r"(^|/)(data|constants|weights|xl_model_weights)/[a-z_]*\d+$")
"""Members of torch's archives that hold the bytes of a tensor and nothing else."""


def inspect(
    source: ByteSource,
    limits: ReadLimits,
    where: str = "",
    depth: int = 0,
    *,
    named: bool = False,
    script: bool = False,
) -> Iterator[Executable]:
    """Every pickle and piece of code in a file, whatever its format; and what was not read, as `unread`.

    `named`: its name says that it is a pickle. `script`: it is code of a TorchScript archive.
    """
    head = source.read(0, 512)
    if not head.strip(b"\0"):
        yield Executable(where, "unread", error="it is empty" if not head else "it begins with zeros only")
        return
    yield from _code(source, head, where, where or source.name, script=script)
    kind = containers.container_kind(head)
    if kind or head[:4] == b"PK\3\4":
        if depth >= MAX_ARCHIVES:
            yield Executable(where, "unread", error=f"archives more than {MAX_ARCHIVES} deep", container=True)
        elif kind:
            yield from _parts(source, kind, limits, where, depth)
        else:
            yield from _archive(source, limits, where, depth)
    elif containers.unopened(head):
        yield Executable(where, "unread", error=f"{containers.unopened(head)} is not opened", container=True)
    elif head[:6] == NUMPY_START:
        yield from _object_array(source, head, where, limits)
        yield from _in_tensors(source, tensor_places(source, head, limits), where, limits)
    elif named or begins_pickle(head):
        yield from _consecutive(source, where, limits)
    else:
        yield from _of_no_magic(source, head, where, limits)
    behind = None if kind or head[:4] == b"PK\3\4" else containers.zip_behind(source)
    if behind is not None and depth < MAX_ARCHIVES:
        yield Executable(where, "remark", remarks=("a zip archive stands behind other bytes",))
        yield from _archive(behind, limits, where, depth)
    end = end_of_format(source, head)
    if end is not None and end < source.size and not kind:
        yield from _behind_end(Span(source, end, source.size - end), where, limits, depth)


def _code(source: ByteSource, head: bytes, where: str, name: str, *, script: bool = False) -> Iterator[Executable]:
    """Findings in code, one by one; also that there is code of TorchScript in which nothing was found."""
    found = list(code_in(source, head, name, packed=bool(where), script=script))
    yield from (Executable(where, "code", remarks=(text,), trust=trust) for trust, text in found)
    if script and not found:
        yield Executable(where, "code")


def _behind_end(tail: ByteSource, where: str, limits: ReadLimits, depth: int) -> Iterator[Executable]:
    """What stands where no loader of the file's own format looks."""
    head = tail.read(0, 4096)
    if head[:6] == NUMPY_START:  # arrays in a row, as numpy writes and reads them
        yield from inspect(tail, limits, where, depth)
        return
    spot = f"{where or 'the file'} behind the end of its format"
    found = list(_first_calling(tail, spot, limits, depth))
    yield from found
    if not found and head.strip(b"\0 \n"):
        yield Executable(where, "unread", error=f"{tail.size:,} bytes stand behind the end of its format")


def _of_no_magic(source: ByteSource, head: bytes, where: str, limits: ReadLimits) -> Iterator[Executable]:
    """What begins like nothing that is known to run: a pickle may begin with any value, and stand behind anything."""
    found = list(_consecutive(source, where, limits) if looks_pickled(head) else _calling(source, where, limits))
    source_text = reads_as_text(head) and not any(map(importable, found))  # whose first letter is an opcode
    found = [one for one in found if not one.error or comes_to_call(one)]
    yield from found
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        yield from _hdf5(source, where, limits)
        return
    if reads_as_text(head) and not found:
        yield from _in_strings(source, 0, min(source.size, MAX_TEXT), where or "the text", limits)
    elif head[8:9] == b"{":  # the header of a safetensors file
        yield from _in_strings(source, 8, min(source.size, 8 + int.from_bytes(head[:8], "little")), where, limits)
    places = tensor_places(source, head, limits)
    numbers = min((at for at in places if at > 0), default=source.size)
    yield from _text_remarks(Span(source, 0, numbers), where)
    yield from _in_tensors(source, places, where, limits)
    yield from _beside_numbers(source, head, numbers, where, limits)
    if not found and containers.is_deflated(head):
        yield from _parts(source, "deflate", limits, where, 1)
    elif not found and (why := why_unread(source, head, source_text)):
        yield Executable(where, "unread", error=why)
        if why.startswith(UNKNOWN_FORMAT):  # it may be msgpack, or another one that holds bytes
            yield from _first_calling(Span(source, 0, min(source.size, MAX_TEXT)), where, limits, 0)


def _in_strings(source: ByteSource, start: int, stop: int, where: str, limits: ReadLimits) -> Iterator[Executable]:
    """The pickles in a text: encoded, or letter by letter as JSON and YAML write bytes."""
    yield from _encoded(source, start, stop, where, limits, 1)
    for text in unescaped_parts(source, start, min(stop, start + MAX_TEXT)):
        found = list(_first_calling(Memory(text, source.name), where, limits, 0))
        yield from found
        if found:
            return


def _in_tensors(source: ByteSource, places: Sequence[int], where: str, limits: ReadLimits) -> Iterator[Executable]:
    """The bytes of a tensor, where they are a pickle that calls something."""
    for at in places:
        if looks_pickled(source.read(at, 2)):
            spot = f"{where or 'the file'} at byte {at:,}, in a tensor"
            yield from _calling(Span(source, at, source.size - at), spot, limits)


def _beside_numbers(
    source: ByteSource, head: bytes, numbers: int, where: str, limits: ReadLimits
) -> Iterator[Executable]:
    """What GGUF and ONNX hold beside `numbers`; and that the end of a long text is not searched."""
    if head[:4] in GGUF_STARTS:
        stop = min(numbers, MAX_TEXT)
        yield from _encoded(source, 0, stop, where, limits, 1)
        yield from _first_calling(Span(source, 0, stop), where, limits, 0)
    elif looks_like_onnx(source):
        yield from (Executable(where, "remark", remarks=(text,)) for text in onnx_findings(source, limits))
        yield from _first_calling(Span(source, 0, min(source.size, MAX_TEXT)), where, limits, 0)
        for start in {0, max(0, source.size - MAX_ONNX_TEXT)}:  # its notes stand before and behind the graph
            yield from _encoded(source, start, min(source.size, start + MAX_ONNX_TEXT), where, limits, 1)
    elif source.size > MAX_TEXT and reads_as_text(head):
        yield Executable(where, "unread", error=f"of a text the first {MAX_TEXT >> 20} MiB are searched for pickles")


def _text_remarks(source: ByteSource, where: str) -> Iterator[Executable]:
    """Templates and configurations that a loader would run."""
    for trust, text in in_text(source, where or source.name):
        yield Executable(where, "remark", remarks=(text,), trust=trust)


def _hdf5(source: ByteSource, where: str, limits: ReadLimits) -> Iterator[Executable]:
    """Lambda layers of Keras and pickles, looked for in the bytes: attributes stand there as they are."""
    yield from _text_remarks(source, where)
    for at in pickles_in(source):
        spot = f"{where or 'the file'} at byte {at:,}"
        yield from _calling(Span(source, at, source.size - at), spot, limits)
    yield Executable(where, "unread", error="HDF5 is searched for pickles and Lambda layers; packed data are not read")


def _parts(source: ByteSource, kind: str, limits: ReadLimits, where: str, depth: int) -> Iterator[Executable]:
    """What is in a compressed file or a tar."""
    if kind != "tar" and not affordable(limits, 0):
        yield from unaffordable(limits, where)
        return
    for part in containers.opened(source, kind, room_left(limits)):
        if kind != "tar" and part.data is not None:
            affordable(limits, part.data.size)
        spot = f"{where}/{part.name}" if where and part.name else where or part.name
        if part.risk:
            yield Executable(spot, "remark", remarks=(part.risk,))
        if part.unread:
            yield Executable(spot, "unread", error=part.unread, container=True)
        if part.data is not None and part.data.size:
            with holding(limits, part.data.size if kind != "tar" else 0):
                for found in inspect(part.data, limits, spot, depth + 1):
                    if kind != "tar" or found.kind != "unread" or found.container:
                        yield found


def _archive(source: ByteSource, limits: ReadLimits, where: str = "", depth: int = 0) -> Iterator[Executable]:
    """The members of a zip: pickles by name and by their first bytes outside the folders that hold raw data, archives,

    texts with pickles in base64, code.
    """
    archive = ZipDirectory(source, limits)
    if any(name.endswith(TORCH_PACKAGE) for name in archive.members):
        yield Executable(where, "remark", remarks=("a torch.package archive: its importer runs the code in it",))
    for name, member in archive.members.items():
        spot = f"{where}/{name}" if where else name
        if containers.leads_out(name):
            yield Executable(spot, "remark", remarks=(containers.LEADS_OUT,))
        named = name.endswith((".pkl", ".pickle", ".pt", ".pth", ".debug_pkl"))
        if member.size < 2:
            continue
        if not named and _STORED.search(name):
            yield from _in_storage(archive, member, spot, limits)
            continue
        try:
            feed = archive.open(member, limits.pickle_bytes)
            if isinstance(feed, Inflated) and feed.size <= room_left(limits):  # read backwards and forwards
                if not affordable(limits, feed.size):
                    yield from unaffordable(limits, spot)
                    continue
                held = bytearray()  # put together from parts, so that it is held once
                while part := feed.read(len(held), containers.READ_STEP):
                    held += part
                feed = Memory(held, source.name)
            if isinstance(feed, Inflated):
                yield from _large_member(feed, spot, named, limits)
                continue
            script = name.endswith(".py") and "/code/" in name
            script = script and f"{name.partition('/code/')[0]}/constants.pkl" in archive.members
            with holding(limits, feed.size if isinstance(feed, Memory) else 0):
                yield from inspect(feed, limits, spot, depth + 1, named=named, script=script)
        except ProbeError as error:
            yield Executable(spot, "unread" if not named else "pickle", error=error.message, container=True)


def _in_storage(archive: ZipDirectory, member: Member, spot: str, limits: ReadLimits) -> Iterator[Executable]:
    """The bytes of a tensor, where they are a pickle that calls something."""
    with suppress(ProbeError):
        feed = archive.open(member, limits.pickle_bytes)
        if looks_pickled(feed.read(0, 2)):
            yield from _calling(feed, spot, limits)


def _large_member(feed: Inflated, spot: str, named: bool, limits: ReadLimits) -> Iterator[Executable]:
    """A compressed member that is not held: only what stands at its begin is looked at."""
    head = feed.read(0, 512)
    if head[:6] == NUMPY_START:
        yield from _object_array(feed, head, spot, limits)
    elif named or begins_pickle(head):
        yield from _consecutive(feed, spot, limits)
    else:
        packed = bool(containers.container_kind(head) or containers.unopened(head))
        error = "an archive inside an archive that is too large" if packed else "a compressed member that is too large"
        yield Executable(spot, "unread", error=error, container=packed)


def _object_array(feed: ByteSource, head: bytes, name: str, limits: ReadLimits) -> Iterator[Executable]:
    """An array of Python objects is a pickle behind numpy's header."""
    start = 10 + int.from_bytes(head[8:10], "little") if head[6] == 1 else 12 + int.from_bytes(head[8:12], "little")
    if _OBJECTS.search(feed.read(8, start)) and start < feed.size:
        yield from _consecutive(Span(feed, start, feed.size - start), name, limits)


def _consecutive(feed: ByteSource, where: str, limits: ReadLimits, depth: int = 0) -> Iterator[Executable]:
    """The pickles that stand one after the other (a legacy torch file has five), each with those inside it."""
    at = 0
    for number in range(MAX_CONSECUTIVE):
        kind = "nested pickle" if depth else "pickle"
        try:
            pickled = read_pickle(feed, at, limits, joblib=limits.nested)
        except BrokenPickle as error:
            if number == 0 or error.globals:
                found = global_entries(error.globals, where)
                yield Executable(where, kind, found, error.message, container=True)  # its end may hold anything
            return
        yield Executable(where, kind, global_entries(pickled.globals, where), "", pickled.findings)
        if depth < limits.nested:
            for blob in pickled.blobs[:MAX_NESTED]:
                yield from _nested_pickles(blob, where, limits, depth + 1)
            if len(pickled.blobs) > MAX_NESTED:
                yield Executable(where, "unread", error=f"more than {MAX_NESTED:,} values in a pickle", container=True)
            for how, joined in joined_lists(pickled.root):
                yield from _of_joined(joined, how, feed.name, where, limits, depth + 1)
            if not isinstance(feed, Inflated):
                yield from _encoded(feed, at, pickled.end, where, limits, depth + 1)
        at = pickled.end
        if not looks_pickled(feed.read(at, 8)):
            yield from _behind(Span(feed, at, feed.size - at), where, limits, depth) if at < feed.size else ()
            return
    yield Executable(where, "unread", error=f"more than {MAX_CONSECUTIVE:,} pickles in one file", container=True)


def _behind(tail: ByteSource, where: str, limits: ReadLimits, depth: int) -> Iterator[Executable]:
    """Pickles behind the end of another one: at once, or behind bytes that are none."""
    found = list(_calling(tail, where, limits, depth))
    yield from found
    if not found and depth < limits.nested:
        yield from _first_calling(tail, where, limits, depth)


def _first_calling(tail: ByteSource, where: str, limits: ReadLimits, depth: int) -> Iterator[Executable]:
    """The first pickle among bytes that comes to a call."""
    for at in pickles_in(tail):
        calling = list(_calling(Span(tail, at, tail.size - at), where, limits, depth + 1))
        yield from calling
        if calling:  # it is reported once, not at every place inside it
            return


def _encoded(
    feed: ByteSource, start: int, stop: int, where: str, limits: ReadLimits, depth: int
) -> Iterator[Executable]:
    """What stands between two places as a text that is a pickle in base64 or another encoding."""
    for found in decoded(feed, start, stop):
        if not affordable(limits, len(found.data)):
            yield from unaffordable(limits, where)
            return
        spot = f"{where or 'the pickle'} at byte {found.place:,}, in {found.how}"
        yield from _of_decoded(found.data, feed.name, spot, limits, depth)


def _of_joined(data: bytes, how: str, name: str, where: str, limits: ReadLimits, depth: int) -> Iterator[Executable]:
    """The pickles in a list of numbers, and in the pieces of an encoded text."""
    spot = f"{where or 'the pickle'}, in {how}"
    if how == "a list of numbers":
        yield from filter(comes_to_call, _of_decoded(data, name, spot, limits, depth))
    else:
        yield from filter(comes_to_call, _encoded(Memory(data, name), 0, len(data), spot, limits, depth))


def _of_decoded(data: bytes, name: str, spot: str, limits: ReadLimits, depth: int) -> Iterator[Executable]:
    """The pickles in what an encoded text stands for, compressed ones too, and those that are encoded again."""
    span = Memory(data, name)
    kind = containers.container_kind(data[:512])
    if begins_pickle(data):
        yield from (found for found in _consecutive(span, spot, limits, depth) if found.globals)
        return
    if depth >= MAX_ARCHIVES:
        return
    if kind and kind != "tar":
        yield from filter(comes_to_call, _parts(span, kind, limits, spot, depth + 1))
    elif data[:4] == b"PK\3\4":
        yield from filter(comes_to_call, inspect(span, limits, spot, depth + 1))
    elif containers.is_deflated(data[:512]):
        yield from filter(comes_to_call, _parts(span, "deflate", limits, spot, depth + 1))
    elif any(opcode in data for opcode in NAMING):
        yield from _behind(span, spot, limits, depth)  # letters before it may look like some of its own
    if data[:512].isascii() and reads_as_text(data[:512]):
        yield from _encoded(span, 0, span.size, spot, limits, depth + 1)


def _calling(feed: ByteSource, where: str, limits: ReadLimits, depth: int = 0) -> Iterator[Executable]:
    """What does not look like a pickle is reported as one only if unpickling it would come to a call."""
    yield from filter(comes_to_call, _consecutive(feed, where, limits, depth))


def _nested_pickles(blob: Blob, where: str, limits: ReadLimits, depth: int) -> Iterator[Executable]:
    """Bytes inside a pickle that are a pickle, a torch file or compressed themselves."""
    if blob.feed is None or isinstance(blob.feed, Inflated) or blob.length < 4:
        return
    as_bytes = blob.data if blob.kind == "str" else None  # of a text only these are the bytes it stands for
    place_in_file = Span(blob.feed, blob.offset, blob.length)
    span = place_in_file if as_bytes is None else Memory(as_bytes, blob.feed.name)
    head = blob.data[:512] if blob.data is not None else span.read(0, 512)
    place = f"{where or 'the pickle'} at byte {blob.offset:,}"
    if begins_pickle(head):
        yield from (found for found in _consecutive(span, place, limits, depth) if found.globals or not found.error)
    elif containers.container_kind(head) or head[:4] == b"PK\3\4":
        yield from filter(comes_to_call, inspect(span, limits, place, depth))
    elif head[:1] in (b"c", b"(") and blob.data is not None and b"." in blob.data:
        yield from (found for found in _consecutive(span, place, limits, depth) if importable(found))
    elif containers.is_deflated(head):
        yield from filter(comes_to_call, _parts(span, "deflate", limits, place, depth))
    elif blob.data is not None and any(opcode in blob.data for opcode in NAMING):
        yield from _calling(span, place, limits, depth)
