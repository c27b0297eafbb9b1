"""Opcodes that build, fill, import or call: one small function each.

How to add one: write the function, decorate it with its code, add a case to `tests/checkpoint/pickle/test_read.py`.
"""

from __future__ import annotations

from modelprobe.checkpoint.pickle.arguments import TEXT_LENGTH
from modelprobe.checkpoint.pickle.fast_tensor import read_record
from modelprobe.checkpoint.pickle.globals import RESOLVED, Trust, trust_of
from modelprobe.checkpoint.pickle.joblib_arrays import is_wrapper
from modelprobe.checkpoint.pickle.nodes import (
    Blob,
    Dict,
    Global,
    PendingCall,
    PersistentId,
    PickleNode,
    SetNode,
    object_class,
)
from modelprobe.checkpoint.pickle.reader import GIVES_STATE, U32, U64, PickleReader, op

# The most frequent ones first: together they are nine tenths of a state dict.


@op(b"q")
def binput(m: PickleReader) -> None:
    index = m.buf[m.pos]
    m.pos += 1
    if index == len(m.memo):
        m.memo.append(m.stack[-1])
    else:
        m.put(index)


@op(b"r")
def long_binput(m: PickleReader) -> None:
    (index,) = U32(m.buf, m.pos)
    m.pos += 4
    if index == len(m.memo):
        m.memo.append(m.stack[-1])
    else:
        m.put(index)


@op(b"\x94")
def memoize(m: PickleReader) -> None:
    if m.gaps or m.sparse:
        m.put(len(m.memo) - m.gaps + len(m.sparse))
    else:
        m.memo.append(m.stack[-1])


@op(b"h")
def binget(m: PickleReader) -> None:
    index = m.buf[m.pos]
    m.pos += 1
    m.get(index)


@op(b"j")
def long_binget(m: PickleReader) -> None:
    (index,) = U32(m.buf, m.pos)
    m.pos += 4
    m.get(index)


@op(b"(")
def mark(m: PickleReader) -> None:
    if m.buf.startswith(b"(", m.pos) and read_record(m):
        return
    m.marks.append(len(m.stack))


@op(b"t")
def tuple_(m: PickleReader) -> None:
    height = m.mark()
    found = tuple(m.stack[height:])
    del m.stack[height:]
    m.nodes += 1
    m.stack.append(found)


@op(b"Q")
def binpersid(m: PickleReader) -> None:
    value = m.stack[-1]
    m.nodes += 1
    if type(value) is tuple and len(value) > 1 and value[0] == "module" and type(value[1]) is Global:
        m.stack[-1] = value[1]  # before torch 1.6: a class beside the source it was written in
        return
    m.persistent.append(value)
    m.stack[-1] = PersistentId(value)


@op(b"R")
def reduce(m: PickleReader) -> None:
    args = m.stack.pop()
    func = m.stack[-1]
    taken = _taken(m, func, args) if type(func) is Global and func.name in ("getattr", "_builtin_type") else None
    m.stack[-1] = m.call(func, args) if taken is None else taken


def _bound_method(func: Global, args: PickleNode) -> bool:
    """Whether this is how a method of an object is pickled, by the object and a name that is not Python's own.

    It is called by nothing: a call of what it gives is reported.
    """
    if list(map(type, args)) != [PendingCall, str] or not args[1].isidentifier() or args[1].startswith("__"):
        return False
    return trust_of(*object_class(args[0]).rpartition(".")[::2]) in (Trust.HARMLESS, Trust.UNKNOWN)


def _taken(m: PickleReader, func: Global, args: PickleNode) -> PickleNode:
    """What `getattr` of a name and a text gives, as protocols before 4 spell a class inside a class; what cloudpickle
    calls by the name that the module `types` has for it. None where it is not known."""
    if type(args) is tuple and func.name == "getattr" and _bound_method(func, args):
        func.texts = func.texts if func.called else RESOLVED
        return PendingCall(func, args)
    if type(args) is not tuple or any(type(arg) not in (str, Global) for arg in args):
        return None
    owner, name = "", ""
    if func.spelled in ("builtins.getattr", "__builtin__.getattr") and list(map(type, args)) == [Global, str]:
        owner, name = args[0].module, f"{args[0].name}.{args[1]}"
    elif func.spelled == "cloudpickle.cloudpickle._builtin_type" and list(map(type, args)) == [str]:
        owner, name = "types", args[0]
    if not owner or len(name) > TEXT_LENGTH:
        return None
    if not func.called:
        func.texts = RESOLVED
    return m.use(owner, name)


@op(b"\x85")
def tuple1(m: PickleReader) -> None:
    m.nodes += 1
    m.stack[-1] = (m.stack[-1],)


@op(b"\x86")
def tuple2(m: PickleReader) -> None:
    _fixed(m, 2)


@op(b"\x87")
def tuple3(m: PickleReader) -> None:
    _fixed(m, 3)


def _fixed(m: PickleReader, count: int) -> None:
    if len(m.stack) < count:
        raise m.broken("it takes what is not there")
    found = tuple(m.stack[-count:])
    del m.stack[-count:]
    m.nodes += 1
    m.stack.append(found)


@op(b")")
def empty_tuple(m: PickleReader) -> None:
    m.stack.append(())


@op(b"]")
def empty_list(m: PickleReader) -> None:
    m.nodes += 1
    m.stack.append([])


@op(b"}")
def empty_dict(m: PickleReader) -> None:
    m.nodes += 2  # two objects each
    m.stack.append(Dict())


@op(b"N")
def none(m: PickleReader) -> None:
    m.stack.append(None)


@op(b"\x88")
def newtrue(m: PickleReader) -> None:
    m.stack.append(True)


@op(b"\x89")
def newfalse(m: PickleReader) -> None:
    m.stack.append(False)


@op(b"c")
def global_(m: PickleReader) -> None:
    module, name = m.line(), m.line()
    m.stack.append(m.use(_loose(module), _loose(name)))


@op(b"\x93")
def stack_global(m: PickleReader) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    if type(name) is not str or type(module) is not str:
        m.findings["the pickle computes the name of what it imports"] = None
    m.stack.append(m.use(_global_name(module), _global_name(name)))


def _global_name(node: PickleNode) -> str:
    if type(node) is Blob and node.data is not None:
        return _loose(node.data)
    return node if type(node) is str else "?"


def _loose(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


# Containers being filled.


@op(b"u")
def setitems(m: PickleReader) -> None:
    flat = m.items()
    if len(flat) % 2:
        raise m.broken("a key without a value")
    m.set_pairs(m.stack[-1], flat)


@op(b"s")
def setitem(m: PickleReader) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_pairs(m.stack[-1], [key, value])


@op(b"a")
def append(m: PickleReader) -> None:
    value = m.stack.pop()
    m.extend(m.stack[-1], [value])


@op(b"e")
@op(b"\x90")
def appends(m: PickleReader) -> None:
    values = m.items()
    m.extend(m.stack[-1], values)


@op(b"l")
def list_(m: PickleReader) -> None:
    values = m.items()
    m.nodes += 1
    m.stack.append(values)


@op(b"d")
def dict_(m: PickleReader) -> None:
    found = Dict()
    found.pairs = m.items()
    if len(found.pairs) % 2:
        raise m.broken("a key without a value")
    m.nodes += 1
    m.stack.append(found)


@op(b"\x8f")
def empty_set(m: PickleReader) -> None:
    m.nodes += 1
    m.stack.append(SetNode([], frozen=False))


@op(b"\x91")
def frozenset_(m: PickleReader) -> None:
    values = m.items()
    m.nodes += 1
    m.stack.append(SetNode(values, frozen=True))


# Objects.


@op(b"b")
def build(m: PickleReader) -> None:
    state = m.stack.pop()
    target = m.stack[-1]
    if type(target) is PendingCall:
        target.state = state
        if m.joblib and is_wrapper(target):
            m.joblib_array(state)
    else:
        m.findings[GIVES_STATE] = None


@op(b"\x81")
def newobj(m: PickleReader) -> None:
    args = m.stack.pop()
    m.stack[-1] = m.call(m.stack[-1], args, makes=True)


@op(b"\x92")
def newobj_ex(m: PickleReader) -> None:
    kwargs, args = m.stack.pop(), m.stack.pop()
    found = m.call(m.stack[-1], args, makes=True)
    found.kwargs = kwargs
    m.stack[-1] = found


@op(b"i")
def inst(m: PickleReader) -> None:
    module, name = m.line(), m.line()
    args = tuple(m.items())
    m.stack.append(m.call(m.use(_loose(module), _loose(name)), args))


@op(b"o")
def obj(m: PickleReader) -> None:
    values = m.items()
    m.stack.append(m.call(values[0], tuple(values[1:])))


@op(b"\x82")
def ext1(m: PickleReader) -> None:
    _extension(m, m.take(1))


@op(b"\x83")
def ext2(m: PickleReader) -> None:
    _extension(m, m.take(2))


@op(b"\x84")
def ext4(m: PickleReader) -> None:
    _extension(m, m.take(4))


def _extension(m: PickleReader, raw: bytes) -> None:
    m.findings["the pickle uses the extension registry"] = None
    m.stack.append(m.use("copyreg extension", str(int.from_bytes(raw, "little"))))


@op(b"P")
def persid(m: PickleReader) -> None:
    m.nodes += 1
    m.stack.append(PersistentId(_loose(m.line())))


# The stack and the memo.


@op(b".")
def stop(m: PickleReader) -> bool:
    return True


@op(b"0")
def pop(m: PickleReader) -> None:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.stack.pop()


@op(b"1")
def pop_mark(m: PickleReader) -> None:
    m.items()


@op(b"2")
def dup(m: PickleReader) -> None:
    m.stack.append(m.stack[-1])


@op(b"\x80")
def proto(m: PickleReader) -> None:
    m.protocol = m.take(1)[0]
    if m.protocol > 5:
        raise m.broken(f"pickle protocol {m.protocol} does not exist")


@op(b"\x95")
def start_frame(m: PickleReader) -> None:
    (length,) = U64(m.buf, m.pos)
    m.pos += 8
    if length > m.feed.size - m.base - m.pos:
        m.findings["a frame of the pickle announces more bytes than there are"] = None
