"""Code beside weights: Python is judged by its syntax tree, libraries and scripts are named. Nothing is run."""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.pickle.abilities import CONNECT, EVALUATE, NATIVE, REACH, RUN, UNPICKLE, WRITE
from modelprobe.checkpoint.pickle.globals import Trust

CodeFinding = tuple[Trust, str]

MAX_PYTHON = 1 << 20
"""Bytes of Python that are parsed: its syntax tree takes a hundred times as much memory."""

MAX_FINDINGS = 20
"""Findings of one file that are reported."""

MAX_SPELLINGS = 16
"""Things that one name may stand for."""

MAX_NAME_PARTS = 64
"""Attributes of one name that are followed."""

SCRIPTS = (".pyc", ".pyo", ".sh", ".bat", ".cmd", ".ps1", ".js", ".vbs")
LIBRARY_SUFFIXES = (".so", ".dll", ".dylib", ".exe", ".pyd")
NATIVE_STARTS = (
    (b"\x7fELF", "ELF"), (b"MZ", "Windows"), (b"\xfe\xed\xfa\xce", "Mach-O"), (b"\xfe\xed\xfa\xcf", "Mach-O"),
    (b"\xce\xfa\xed\xfe", "Mach-O"), (b"\xcf\xfa\xed\xfe", "Mach-O"), (b"\xca\xfe\xba\xbe", "Mach-O or Java"),
)  # fmt: skip

NOTHING_KNOWN = "code, in which nothing is known to be dangerous: who imports it runs it"
NOT_JUDGED = "code that is not judged"
_IMPORTS = re.compile(rb"^[ \t]*(import|from)[ \t]+[A-Za-z_]", re.MULTILINE)
_BUILTINS = frozenset("eval exec compile __import__ breakpoint execfile __builtins__ open getattr setattr".split())
_HIDDEN = frozenset("__globals__ __subclasses__ __builtins__ __code__ __mro__ __loader__ __import__ f_globals".split())
_CALLED_ONLY = frozenset(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__", "breakpoint"))
"""Of which a variable of the same name is no sign."""

_ASKING = frozenset(("hasattr", "getattr", "isinstance", "setattr"))
"""Functions that may be given a module: what they take of it is judged."""

_RUNNERS = re.compile(r"system|popen|Popen|exec[lv]\w*|spawn\w*|check_output|check_call|getoutput|run_cell|LoadLibrary")
"""Methods that run what they are given, of a value that is put together."""

REACHES: tuple[tuple[str, Trust, re.Pattern[str]], ...] = tuple(
    (ability, trust, re.compile(pattern))
    for ability, trust, pattern in (
        (
            *(RUN, Trust.DANGEROUS),
            r"(os|posix|nt)\.(system|popen|exec[lv]|spawn|posix_spawn|fork|startfile)|subprocess(\.(?!PIPE|STDOUT|DEVNULL|"
            r"CalledProcessError|TimeoutExpired|SubprocessError|CompletedProcess)|$)|(_posixsubprocess|pty|commands|runpy|"
            r"pip|sh|pexpect|plumbum|gevent\.subprocess|win32api|wmi)(\.|$)|asyncio\.create_subprocess",
        ),
        (
            *(EVALUATE, Trust.DANGEROUS),
            r"builtins\.(eval|exec|compile|__import__|execfile)$|(code|codeop|imp|zipimport|pyximport)(\.|$)|"
            r"torch\.hub\.(load|_load_local)$",
        ),
        (
            *(EVALUATE, Trust.SUSPICIOUS),
            r"importlib\.(import_module|reload|util|machinery|__import__)|pkgutil\.|hydra\.utils\.|"
            r"sys\.(modules|settrace|meta_path)|(timeit|cProfile|profile|pdb|bdb)\.(timeit|repeat|Timer|run)",
        ),
        (
            *(NATIVE, Trust.DANGEROUS),
            r"_?ctypes(\.(?!c_|POINTER|Structure|Union|sizeof|byref|pointer$|Array|create_|addressof|cast|wintypes)|$)|"
            r"cffi(\.|$)|torch\.(ops|classes)\.load_library|torch\.utils\.cpp_extension",
        ),
        (
            *(UNPICKLE, Trust.SUSPICIOUS),
            r"(_?pickle|cPickle|dill|cloudpickle|marshal|joblib|jsonpickle)\.(_?loads?|Unpickler)|shelve\.|"
            r"yaml\.(unsafe_|full_)?load(_all)?$|pandas\.read_pickle",
        ),
        (
            *(CONNECT, Trust.SUSPICIOUS),
            r"(socket|socketserver|requests|httpx|aiohttp|ftplib|smtplib|telnetlib|paramiko|urllib3|websocket)(\.|$)|"
            r"urllib\.request|http\.(client|server)|xmlrpc\.|ssl\.",
        ),
        (
            *(WRITE, Trust.SUSPICIOUS),
            r"os\.(remove|unlink|rmdir|removedirs|rename|replace|chmod|chown|symlink|link|truncate|putenv|write)"
            r"|shutil\.(rmtree|move|chown|unpack)|(torch|ops\.aten)\.from_file$",
        ),
        (CONNECT, Trust.UNKNOWN, r"torch\.hub\.(load_state_dict|download)"),
        (WRITE, Trust.UNKNOWN, r"shutil\.copy"),
        (REACH, Trust.DANGEROUS, r"builtins\.(__builtins__|breakpoint)"),
        (
            *(REACH, Trust.DANGEROUS),
            r"(os|posix|nt|subprocess|builtins|importlib|sys|ctypes|pty|shutil)\.(__dict__|__getattribute__)",
        ),
    )
)
"""What a name reaches, by how it is spelled in full. What is unknown is what ordinary training scripts do."""

SENSITIVE = frozenset("os posix nt subprocess builtins importlib sys socket ctypes shutil pty runpy".split())
"""Modules from which nothing is taken by a name that is computed, and which are not handed on as values."""


@dataclass(frozen=True, slots=True)
class _CodeNames:
    """What the names in a piece of code stand for: each import and assignment of a name counts.

    `bound`: names that the code itself gives to something, and not to a module. `own`: functions that it defines at its
    top level in place of Python's own.
    """

    aliases: dict[str, tuple[str, ...]]
    bound: frozenset[str]
    own: frozenset[str]


def code_in(source: ByteSource, head: bytes, name: str, *, packed: bool, script: bool = False) -> Iterator[CodeFinding]:
    """What is said of a file that is code; nothing of one that is none. `script`: of a TorchScript archive."""
    native = next((kind for start, kind in NATIVE_STARTS if head.startswith(start) and b"\0" in head), "")
    if native or name.endswith(LIBRARY_SUFFIXES):
        yield Trust.SUSPICIOUS, f"native code ({native or 'by its name'}), which is not judged: who loads it runs it"
        return
    python = name.endswith((".py", ".pyw")) or (_IMPORTS.search(head) is not None and b"\0" not in head)
    if not python:
        if name.endswith(SCRIPTS) or head.startswith(b"#!"):
            yield Trust.SUSPICIOUS if packed else Trust.UNKNOWN, NOT_JUDGED
        return
    if source.size > MAX_PYTHON:
        if name.endswith((".py", ".pyw")):
            yield Trust.SUSPICIOUS, f"{NOT_JUDGED}: it is longer than {MAX_PYTHON >> 20} MiB"
        return
    tree = _syntax_tree(source.read(0, source.size))
    if tree is None:
        if name.endswith((".py", ".pyw")):
            yield Trust.SUSPICIOUS, f"{NOT_JUDGED}: it is no Python that can be parsed"
        return
    found = list(dict.fromkeys(_names_reached(tree, script)))[:MAX_FINDINGS]
    yield from ((Trust.SUSPICIOUS if packed and trust is Trust.UNKNOWN else trust, text) for trust, text in found)
    if not found and not script:
        yield Trust.SUSPICIOUS if packed else Trust.UNKNOWN, NOTHING_KNOWN


def _syntax_tree(raw: bytes) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(raw)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _names_reached(tree: ast.Module, script: bool) -> Iterator[CodeFinding]:
    """What the code reaches, each once with the line where it does first."""
    nodes = list(ast.walk(tree))
    names = _names_in(tree, nodes)
    many = next((name for name, all_of_it in names.aliases.items() if len(all_of_it) > MAX_SPELLINGS), "")
    if many:
        yield Trust.SUSPICIOUS, f"Python code: {many[:80]} stands for more than {MAX_SPELLINGS} things"
    said: set[str] = set()
    owners: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Attribute):
            owners.add(id(node.value))
            if node.attr in _HIDDEN and node.attr not in said:
                said.add(node.attr)
                yield Trust.SUSPICIOUS, f"Python code: {node.attr} ({REACH}), line {node.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ASKING:
            owners |= {id(node.args[0])} if node.args else set()
        if id(node) in owners and not isinstance(node, (ast.Call, ast.NamedExpr)):
            continue  # of `os.path.join` the whole name is judged
        for trust, what in _of_node(node, names, script):
            if what not in said:
                said.add(what)
                yield trust, f"Python code: {what}, line {getattr(node, 'lineno', 0)}"


def _names_in(tree: ast.Module, nodes: Sequence[ast.AST]) -> _CodeNames:
    """Names in the code -> all that they are imported or assigned as."""
    found: dict[str, tuple[str, ...]] = {}
    bound: set[str] = set()
    deleted: set[str] = set()
    assigned: list[tuple[str, ast.expr]] = []

    def add(name: str, *spelled: str) -> None:
        known = found.get(name, ())
        if len(known) <= MAX_SPELLINGS:
            found[name] = tuple(dict.fromkeys((*known, *spelled)))

    for node in nodes:
        if isinstance(node, ast.Import):
            for one in node.names:
                add(one.asname or one.name.partition(".")[0], one.name if one.asname else one.name.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            for one in node.names:
                if node.level:
                    bound.add(one.asname or one.name)
                else:
                    add(one.asname or one.name, f"{node.module}.{one.name}")
        elif isinstance(node, ast.Assign) and isinstance(node.value, (ast.Name, ast.Attribute)):
            assigned += [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del):
            deleted.add(node.id)
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    names = _CodeNames(found, frozenset(bound), frozenset(defined - deleted))
    for name, value in assigned:
        add(name, *(spelled for spelled in _spellings(value, names) if spelled.partition(".")[0] != name))
    return names


def _spellings(node: ast.AST, names: _CodeNames) -> tuple[str, ...]:
    """`os.path.join` of an expression that is a name with attributes; more where the name stands for more."""
    parts: list[str] = []
    while len(parts) < MAX_NAME_PARTS:
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
        elif not isinstance(node, ast.NamedExpr):
            break
        node = node.value
    roots: tuple[str, ...] = ()
    if isinstance(node, ast.Call) and _is_import(node.func, names):
        given = node.args[0] if node.args else None
        roots = (given.value,) if isinstance(given, ast.Constant) and isinstance(given.value, str) else ()
    elif isinstance(node, ast.Name):
        if node.id in _BUILTINS:
            roots = (() if node.id in names.own else (f"builtins.{node.id}",)) + names.aliases.get(node.id, ())
        else:
            roots = names.aliases.get(node.id, () if node.id in names.bound else (node.id,))
    return tuple(_from_sensitive([*root.split("."), *parts[::-1]]) for root in roots)


def _from_sensitive(parts: list[str]) -> str:
    """A name in full, without what a module that does harm was reached by: `os.system` for `random._os.system`."""
    if "__self__" in parts:
        parts = ["builtins", *parts[parts.index("__self__") + 1 :]]
    elif parts[:2] == ["builtins", "__builtins__"] and len(parts) > 2:
        parts = ["builtins", *parts[2:]]
    places = (at for at, part in enumerate(parts) if part.lstrip("_") in SENSITIVE and part not in parts[:at][-1:])
    last = max(places, default=0)  # `socket.socket` is a class
    return ".".join([parts[last].lstrip("_") if last else parts[0], *parts[last + 1 :]])


def _is_import(func: ast.expr, names: _CodeNames) -> bool:
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    return any(one.endswith(("__import__", "import_module")) for one in (name, *names.aliases.get(name, ())))


def _of_node(node: ast.AST, names: _CodeNames, script: bool) -> Iterator[CodeFinding]:
    if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
        if isinstance(node, ast.Name) and node.id in _BUILTINS & names.bound and node.id not in names.aliases:
            return  # a variable of that name; calls are judged
        for spelled in _spellings(node, names):
            yield from _of_full_name(spelled)
            if spelled in SENSITIVE and not script:
                yield Trust.SUSPICIOUS, f"{spelled}, a module, is handed on as a value ({REACH})"
    elif isinstance(node, ast.Import):
        for one in node.names:
            yield from _of_import(one.name, script)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from _of_import(node.module, script)
        for one in node.names:
            if one.name == "*" and node.module.partition(".")[0] in SENSITIVE:
                yield Trust.SUSPICIOUS, f"imports all of {node.module}"
            yield from _of_full_name(_from_sensitive([*node.module.split("."), one.name]))
    elif isinstance(node, ast.Call):
        yield from _of_call(node, names, script)


def _of_import(module: str, script: bool) -> Iterator[CodeFinding]:
    if script and module.partition(".")[0] not in ("__torch__", "torch"):
        yield Trust.DANGEROUS, f"imports {module}, as no TorchScript does"


@functools.lru_cache(maxsize=4096)
def _of_full_name(spelled: str) -> tuple[CodeFinding, ...]:
    found = next((row for row in REACHES if row[2].match(spelled)), None)
    return ((found[1], f"{spelled} ({found[0]})"),) if found else ()


def _of_call(call: ast.Call, names: _CodeNames, script: bool) -> Iterator[CodeFinding]:
    """What depends on the arguments: a mode for writing, a name that is computed, bounds that are turned off."""
    spellings = _spellings(call.func, names) or ("",)
    given = {word.arg: word.value for word in call.keywords}
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if spellings == ("",) and _RUNNERS.fullmatch(method) and not _of_variable(call.func):
        yield Trust.SUSPICIOUS, f"{method} of a value that is put together ({RUN})"
    for func in spellings:
        if func in ("builtins.open", "io.open", "codecs.open", "os.open") or (method == "open" and not func):
            mode = given.get("mode", call.args[1] if len(call.args) > 1 else None)
            reads = mode is None or (isinstance(mode, ast.Constant) and not set(str(mode.value)) & set("wax+"))
            if not reads:
                yield Trust.UNKNOWN, f"{func.removeprefix('builtins.') or method} ({WRITE})"
        elif method in ("write_text", "write_bytes"):
            yield Trust.UNKNOWN, f"{method} ({WRITE})"
        elif func in ("builtins.getattr", "builtins.setattr") and not script and call.args:
            yield from _of_attribute_by_name(call, names)
        elif func in ("types.FunctionType", "types.CodeType"):
            yield Trust.DANGEROUS, f"{func} ({EVALUATE})"
        elif func in _CALLED_ONLY:
            yield from _of_full_name(func)
        elif func == "torch.load" and not _is_true(given.get("weights_only")):
            yield Trust.UNKNOWN, f"torch.load without weights_only=True ({UNPICKLE})"
        elif func in ("numpy.load", "numpy.lib.npyio.load") and "allow_pickle" in given:
            yield Trust.SUSPICIOUS, f"numpy.load with allow_pickle ({UNPICKLE})"


def _of_attribute_by_name(call: ast.Call, names: _CodeNames) -> Iterator[CodeFinding]:
    """`getattr(os, …)`: a name that is written out is judged, any other is not known."""
    name = call.args[1] if len(call.args) > 1 else None
    text = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
    for owner in _spellings(call.args[0], names):
        if owner.partition(".")[0] not in SENSITIVE:
            continue
        if text and _spellings(call.func, names) == ("builtins.getattr",):
            yield from _of_full_name(f"{owner}.{text}")
        else:
            yield Trust.DANGEROUS, f"an attribute of {owner}, taken by name ({REACH})"


def _of_variable(func: ast.expr) -> bool:
    """Whether a method is one of a plain variable or attribute, whose class is not known."""
    node: ast.expr = func
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True
