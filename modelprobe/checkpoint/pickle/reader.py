"""The reader of a pickle, which runs nothing: `read_pickle`, and its state (window, stack, memo, bounds).

Every value it makes is one of `nodes`. Memory and time are bounded by the opcodes really present, never by a length or
an index that the pickle declares; nesting costs no recursion.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import repeat

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.limits import DEFAULT_LIMITS, ReadLimits
from modelprobe.checkpoint.pickle.arguments import texts_of
from modelprobe.checkpoint.pickle.globals import RESOLVED, Trust, trust_of
from modelprobe.checkpoint.pickle.joblib_arrays import WRAPPER, array_bytes
from modelprobe.checkpoint.pickle.nodes import Blob, Dict, Global, PendingCall, PickleNode, SetNode, TensorRecord
from modelprobe.errors import BadInput

READ_BYTES = 1 << 16  # small beside what a remote source fetches at a time
SPARE_BYTES = 16  # more than any opcode with arguments of fixed size
KEEP = 4096  # bytes objects up to this size keep their data
MAX_MEMO_GAP = 4096

NOT_A_NAME = "the pickle calls something that is not a plain name"
TOO_LARGE = "the file may be sound: larger ones are not read, so that no file takes all memory"
SETS_ITEMS = "the pickle sets items on something that takes none"
GIVES_STATE = "the pickle gives a state to something that takes none"
WATCHED_REBUILDERS = {("_codecs", "encode"), ("numpy", "dtype"), ("builtins", "type"), ("__builtin__", "type")}
"""Rebuilders whose texts matter: a codec that hides, the kind of a number, the name of a class that is made."""

HANDING_ON = frozenset(
    (
        "_rebuild_from_type_v2 _rebuild_wrapper_subclass __newobj__ __newobj_ex__ _reconstructor _reconstruct "
        "_mareconstruct _array_reconstructor _new_Index __generator_ctor __randomstate_ctor"
    ).split()
)
"""Rebuilders that call what they are given."""

UNSET = object()
U32 = struct.Struct("<I").unpack_from
U64 = struct.Struct("<Q").unpack_from
Handler = Callable[["PickleReader"], object]


def _unknown_opcode(reader: PickleReader) -> None:
    raise reader.broken(f"unknown instruction 0x{reader.buf[reader.pos - 1]:02x}")


HANDLERS: list[Handler] = [_unknown_opcode] * 256


def op(code: bytes) -> Callable[[Handler], Handler]:
    """Enter a function into the table of opcodes; a second one for the same code raises."""

    def enter(handler: Handler) -> Handler:
        if HANDLERS[code[0]] is not _unknown_opcode:
            raise ValueError(f"two handlers for opcode {code!r}")
        HANDLERS[code[0]] = handler
        return handler

    return enter


class BrokenPickle(BadInput):
    """The pickle ends early or is invalid. `globals` are those it would have imported before that point."""

    def __init__(self, message: str, hint: str = "", found: tuple[Global, ...] = ()) -> None:
        super().__init__(message, hint)
        self.globals = found


class PickleReader:
    """The state of one pickle being read: a window of its bytes, the stack, the marks, the memo."""

    __slots__ = (
        *("blobs", "refs"),
        *("base", "buf", "end", "feed", "gaps", "globals", "limits", "marks", "memo", "nodes", "pos", "read"),
        *("soft", "sparse", "stack", "findings", "persistent", "protocol", "joblib"),
    )

    def __init__(self, feed: ByteSource, start: int, limits: ReadLimits) -> None:
        self.feed = feed
        self.limits = limits
        self.base = start  # where `buf` begins in the feed
        self.buf = b""
        self.pos = self.soft = 0
        self.read = 0
        self.stack: list[PickleNode] = []
        self.marks: list[int] = []
        self.memo: list[PickleNode] = []
        self.sparse: dict[int, PickleNode] = {}  # memo indices far beyond the others: a huge index costs one entry
        self.refs: dict[
            bytes, tuple[PickleNode, ...]
        ] = {}  # of records read in one go; void once an index is used again
        self.gaps = 0
        self.nodes = 0
        self.globals: dict[tuple[str, str], Global] = {}
        self.findings: dict[str, None] = {}
        self.persistent: list[PickleNode] = []
        self.blobs: list[Blob] = []
        self.protocol = 0
        self.end = 0
        self.joblib = 0
        """How deep arrays of joblib may still hold pickles, which are read in their turn; 0 reads no array."""

    def run(self) -> PickleNode:
        """Read up to STOP and return what stands on the stack then."""
        handlers = HANDLERS
        try:
            for _ in repeat(None, self.limits.opcodes):
                pos = self.pos
                if pos >= self.soft:
                    self.refill(0)
                    pos = self.pos
                self.pos = pos + 1
                if handlers[self.buf[pos]](self):
                    self.end = self.base + self.pos
                    return self.stack.pop()
        except (IndexError, struct.error):
            early = self.pos >= len(self.buf)
            raise self.broken("it ends in the middle" if early else "it takes what is not there") from None
        except BrokenPickle as error:
            error.globals = tuple(self.globals.values())
            raise
        raise self.broken(f"it has more than {self.limits.opcodes:,} instructions", TOO_LARGE)

    def refill(self, need: int) -> None:
        """Move the window so that it starts at the next byte and holds `need` bytes, if the feed has them."""
        at = self.base + self.pos
        self.read += self.pos
        if self.read > self.limits.pickle_bytes:
            raise self.broken(f"it is longer than the {self.limits.pickle_bytes:,} bytes that are read", TOO_LARGE)
        held = len(self.memo) + len(self.sparse) * 4 + len(self.stack) + len(self.marks) * 4
        if self.nodes > self.limits.nodes or held > self.limits.stack * 4:
            raise self.broken("it builds more objects than a weight file could need", TOO_LARGE)
        self.buf = self.feed.read(at, max(need, READ_BYTES))
        self.base = at
        self.pos = 0
        at_end = at + len(self.buf) >= self.feed.size
        self.soft = len(self.buf) if at_end else len(self.buf) - SPARE_BYTES
        if self.soft <= 0:
            raise self.broken("it ends in the middle" if at else "it is empty")

    def broken(self, why: str, hint: str = "the file is damaged or incomplete: download it again") -> BrokenPickle:
        """The error for this place in the pickle."""
        if WRAPPER in self.globals and not self.joblib:  # whose arrays stand between the instructions
            message = f"{self.feed.name} is a joblib file: arrays that joblib writes into a pickle are not read"
            hint = "load it with joblib, if you trust it, and save its arrays with numpy.savez"
            return BrokenPickle(message, hint, tuple(self.globals.values()))
        message = f"{self.feed.name}: the pickle cannot be read at byte {self.base + max(0, self.pos - 1):,}: {why}"
        return BrokenPickle(message, hint, tuple(self.globals.values()))

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        if length > len(self.buf) - self.pos:
            self.want(length)
        pos = self.pos
        self.pos = pos + length
        return self.buf[pos : pos + length]

    def want(self, length: int) -> None:
        """Make sure that `length` bytes stand in the window."""
        if length < 0 or length > self.feed.size - self.base - self.pos:
            raise self.broken("it ends in the middle")
        if length > self.limits.text:
            raise self.broken(f"it holds a text of {length:,} bytes")
        self.refill(length + SPARE_BYTES)
        if len(self.buf) < length:
            raise self.broken("it ends in the middle")

    def line(self) -> bytes:
        """The bytes up to the next newline, which is dropped."""
        need = READ_BYTES
        while True:
            stop = self.buf.find(b"\n", self.pos)
            if stop >= 0:
                found = self.buf[self.pos : stop]
                self.pos = stop + 1
                return found
            if self.base + len(self.buf) >= self.feed.size or need > self.limits.text:
                raise self.broken("it ends in the middle of a line")
            need *= 4
            self.refill(need)

    def blob(self, kind: str, length: int) -> Blob:
        """Bytes of which only the place is kept; the declared length is believed only if the file is that long."""
        at = self.base + self.pos
        if length < 0 or length > self.feed.size - at:
            raise self.broken(f"it announces {length:,} bytes that are not there")
        self.nodes += 2
        found = Blob(kind, self.feed, at, length, self.take(length) if length <= KEEP else None)
        self.blobs.append(found)
        if found.data is None:
            self.skip(length)
        return found

    def skip(self, length: int) -> None:
        """Step over bytes that are no instructions."""
        at = self.base + self.pos
        if length < 0 or length > self.feed.size - at:
            raise self.broken(f"it announces {length:,} bytes that are not there")
        if self.pos + length <= len(self.buf):
            self.pos += length
        else:
            self.read += self.pos
            self.base, self.buf, self.pos, self.soft = at + length, b"", 0, 0

    def joblib_array(self, state: PickleNode) -> None:
        """Step over the array that stands here, or read the pickle in its place."""
        try:
            padded, length = array_bytes(state)
        except ValueError as error:
            raise self.broken(str(error)) from None
        if length is not None:
            if padded:
                self.skip(self.take(1)[0])
            self.skip(length)
            return
        inner = PickleReader(self.feed, self.base + self.pos, self.limits)
        inner.joblib = self.joblib - 1
        try:
            inner.run()
        except BrokenPickle as error:
            self._also(error.globals)
            raise self.broken("an array of objects cannot be read") from None
        self._also(tuple(inner.globals.values()))
        self.findings.update(inner.findings)
        self.blobs += inner.blobs
        self.skip(inner.end - self.base - self.pos)

    def _also(self, found: tuple[Global, ...]) -> None:
        """Names that a pickle inside this one imports."""
        for other in found:
            mine = self.use(other.module, other.name)
            mine.count += other.count - 1
            mine.called |= other.called
            mine.texts = texts_of(mine.texts, other.texts)
            mine.reduced |= other.reduced

    def mark(self) -> int:
        """The height of the stack at the last mark, which is taken away."""
        height = self.marks.pop()
        if height > len(self.stack):
            raise self.broken("a mark is missing")
        return height

    def items(self) -> list[PickleNode]:
        """What stands above the last mark; both are taken away."""
        height = self.mark()
        found = self.stack[height:]
        del self.stack[height:]
        return found

    def put(self, index: int) -> None:
        """Remember the top of the stack under `index`."""
        value, memo = self.stack[-1], self.memo
        if index < len(memo):
            if memo[index] is UNSET:
                self.gaps -= 1
            memo[index] = value
            self.refs.clear()
        elif index - len(memo) < MAX_MEMO_GAP:
            self.gaps += index - len(memo)
            memo.extend(repeat(UNSET, index - len(memo)))
            memo.append(value)
        else:
            self.sparse[index] = value

    def get(self, index: int) -> None:
        """Push what is remembered under `index`."""
        value = self.memo[index] if 0 <= index < len(self.memo) else self.sparse.get(index, UNSET)
        if value is UNSET:
            value = self.sparse.get(index, UNSET)
        if value is UNSET:
            raise self.broken("it refers to something it never remembered")
        if type(value) is TensorRecord:  # a part of a tensor's record, which is seldom asked for
            value = self.memo[index] = value.nodes()[index - value.base]
        self.stack.append(value)

    def use(self, module: str, name: str) -> Global:
        """Record a global and return its node, the same one for the same name."""
        found = self.globals.get((module, name))
        if found is None:
            if len(self.globals) >= self.limits.globals:
                raise self.broken(f"it imports more than {self.limits.globals:,} names", TOO_LARGE)
            found = self.globals[module, name] = Global(module, name)
            found.watched = (module, name) in WATCHED_REBUILDERS or trust_of(module, name) is not Trust.HARMLESS
        found.count += 1
        return found

    def call(self, func: PickleNode, args: PickleNode, *, makes: bool = False) -> PendingCall:
        """Record that `func` would be called, and return the inert object in place of its result.

        `makes`: not itself but its `__new__`, which functions do not have.
        """
        self.nodes += 1
        if type(func) is Global:
            if func.texts == RESOLVED:
                func.texts = ()
            func.called = True
            func.reduced |= not makes
            if func.watched:
                func.texts = texts_of(func.texts, args[1:] if func.name == "encode" and type(args) is tuple else args)
            elif func.name in HANDING_ON:
                self.handed_on(func.name, args)
        else:
            self.findings[NOT_A_NAME] = None
        return PendingCall(func, args)

    def handed_on(self, rebuilder: str, args: PickleNode) -> None:
        """What a rebuilder is given to call in its turn is called as well."""
        if rebuilder.endswith("_ctor") and type(args) is tuple and len(args) > 1 and type(args[1]) is PendingCall:
            self.findings[NOT_A_NAME] = None
        for value in args[:2] if type(args) is tuple else ():
            if type(value) is Global:
                value.called = True
                if value.watched:
                    value.texts = texts_of(value.texts, args)

    def set_pairs(self, target: PickleNode, flat: list[PickleNode]) -> None:
        """What SETITEM and SETITEMS do, on anything that could take items."""
        if type(target) is Dict:
            target.pairs.extend(flat)
        elif type(target) is PendingCall:
            if target.pairs is None:
                target.pairs = []
            target.pairs.extend(flat)
        else:
            self.findings[SETS_ITEMS] = None

    def extend(self, target: PickleNode, values: list[PickleNode]) -> None:
        """What APPEND, APPENDS and ADDITEMS do."""
        if type(target) is list:
            target.extend(values)
        elif type(target) is SetNode:
            target.items.extend(values)
        elif type(target) is PendingCall:
            if target.items is None:
                target.items = []
            target.items.extend(values)
        else:
            self.findings["the pickle appends to something that takes nothing"] = None


class Pickled:
    """What one pickle holds: its root node, the globals, remarks, and where it ends."""

    __slots__ = ("blobs", "end", "findings", "globals", "persistent", "protocol", "root")

    def __init__(self, reader: PickleReader, root: PickleNode) -> None:
        self.root = root
        self.globals = tuple(reader.globals.values())
        self.findings = tuple(reader.findings)
        self.blobs = reader.blobs
        self.persistent = reader.persistent
        self.protocol = reader.protocol
        self.end = reader.end


def read_pickle(feed: ByteSource, start: int = 0, limits: ReadLimits = DEFAULT_LIMITS, *, joblib: int = 0) -> Pickled:
    """Read one pickle from `start`. Raises `BrokenPickle`.

    Arrays of joblib end it, whose values would be lost; with `joblib` they are stepped over, pickles in them read that
    deep.
    """
    from modelprobe.checkpoint.pickle import opcodes, value_opcodes  # noqa: F401 - they enter their handlers

    reader = PickleReader(feed, start, limits)
    reader.joblib = joblib
    root = reader.run()
    if reader.stack or reader.marks:
        reader.findings["the pickle leaves values on its stack"] = None
    return Pickled(reader, root)
