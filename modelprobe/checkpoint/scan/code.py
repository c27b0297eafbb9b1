"""Code beside weights: Python is judged by its syntax tree, libraries and scripts are named. Nothing is run."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator

from modelprobe.checkpoint.bytes.source import ByteSource
from modelprobe.checkpoint.pickle.abilities import CONNECT, EVALUATE, NATIVE, REACH, RUN, UNPICKLE, WRITE
from modelprobe.checkpoint.pickle.globals import Trust

CodeFinding = tuple[Trust, str]

MAX_PYTHON = 1 << 20
"""Bytes of Python that are parsed: its syntax tree takes a hundred times as much memory."""

MAX_FINDINGS = 20
"""Findings of one file that are reported."""

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

REACHES: tuple[tuple[str, Trust, re.Pattern[str]], ...] = tuple(
    (ability, trust, re.compile(pattern))
    for ability, trust, pattern in (
        (
            *(RUN, Trust.DANGEROUS),
            r"(os|posix|nt)\.(system|popen|exec[lv]|spawn|posix_spawn|fork|startfile)|(subprocess|_posixsubprocess|pty|"
            r"commands|runpy|pip|sh|pexpect|plumbum|gevent\.subprocess|win32api|wmi)(\.|$)|asyncio\.create_subprocess",
        ),
        (
            *(EVALUATE, Trust.DANGEROUS),
            r"builtins\.(eval|exec|compile|__import__|execfile)$|(code|codeop|imp|zipimport|pyximport)(\.|$)|"
            r"types\.(FunctionType|CodeType)|torch\.hub\.load",
        ),
        (
            *(EVALUATE, Trust.SUSPICIOUS),
            r"importlib\.(import_module|reload|util|machinery|__import__)|pkgutil\.|hydra\.utils\.|"
            r"sys\.(modules|settrace|meta_path)",
        ),
        (
            *(NATIVE, Trust.DANGEROUS),
            r"(ctypes|_ctypes|cffi)(\.|$)|torch\.(ops|classes)\.load_library|torch\.utils\.cpp_extension",
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
            r"os\.(remove|unlink|rmdir|removedirs|rename|replace|chmod|chown|symlink|link|truncate|putenv|write|environ)"
            r"|shutil\.(rmtree|move|copy|chown|unpack)|(torch|ops\.aten)\.from_file$",
        ),
        (REACH, Trust.DANGEROUS, r"builtins\.(__builtins__|breakpoint)"),
    )
)
"""What a name reaches, by how it is spelled in full."""

SENSITIVE = frozenset("os posix nt subprocess builtins importlib sys socket ctypes shutil pty runpy".split())
"""Modules from which nothing is taken by a name that is computed."""


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
    yield from found
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
    aliases = _aliases(tree)
    said: set[str] = set()
    owners: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            owners.add(id(node.value))
            if node.attr in _HIDDEN and node.attr not in said:
                said.add(node.attr)
                yield Trust.SUSPICIOUS, f"Python code: {node.attr} ({REACH}), line {node.lineno}"
        if id(node) in owners and not isinstance(node, ast.Call):
            continue  # of `os.path.join` the whole name is judged
        for trust, what in _of_node(node, aliases, script):
            if what not in said:
                said.add(what)
                yield trust, f"Python code: {what}, line {getattr(node, 'lineno', 0)}"


def _aliases(tree: ast.Module) -> dict[str, str]:
    """Names in the code -> what they were imported or assigned as. What is assigned twice keeps the first."""
    found: dict[str, str] = {}
    assigned: list[tuple[str, ast.expr]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                short = one.name if one.asname else one.name.partition(".")[0]
                found.setdefault(one.asname or short, short)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                found.setdefault(one.asname or one.name, f"{node.module}.{one.name}")
        elif isinstance(node, ast.Assign) and isinstance(node.value, (ast.Name, ast.Attribute)):
            assigned += [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
    for name, value in assigned:
        spelled = _spelled(value, found)
        if spelled.partition(".")[0] != name:
            found.setdefault(name, spelled)
    return found


def _spelled(node: ast.AST, aliases: dict[str, str]) -> str:
    """`os.path.join` of an expression that is a name with attributes; empty for others."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < MAX_NAME_PARTS:
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Call) and _is_import(node.func, aliases):
        given = node.args[0] if node.args else None
        root = given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else ""
    elif isinstance(node, ast.Name):
        root = aliases.get(node.id, f"builtins.{node.id}" if node.id in _BUILTINS else node.id)
    else:
        root = ""
    root = root.replace("builtins.__builtins__", "builtins") if parts else root
    return ".".join((root, *parts[::-1])) if root else ""


def _is_import(func: ast.expr, aliases: dict[str, str]) -> bool:
    name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
    return aliases.get(name, name).endswith(("__import__", "import_module"))


def _of_node(node: ast.AST, aliases: dict[str, str], script: bool) -> Iterator[CodeFinding]:
    if isinstance(node, (ast.Name, ast.Attribute)):
        yield from _of_full_name(_spelled(node, aliases))
    elif isinstance(node, ast.Import):
        for one in node.names:
            yield from _of_import(one.name, script)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from _of_import(node.module, script)
        for one in node.names:
            if one.name == "*" and node.module.partition(".")[0] in SENSITIVE:
                yield Trust.SUSPICIOUS, f"imports all of {node.module}"
            yield from _of_full_name(f"{node.module}.{one.name}")
    elif isinstance(node, ast.Call):
        yield from _of_call(node, aliases, script)


def _of_import(module: str, script: bool) -> Iterator[CodeFinding]:
    if script and module.partition(".")[0] not in ("__torch__", "torch"):
        yield Trust.DANGEROUS, f"imports {module}, as no TorchScript does"


def _of_full_name(spelled: str) -> Iterator[CodeFinding]:
    for ability, trust, pattern in REACHES:
        if pattern.match(spelled):
            yield trust, f"{spelled} ({ability})"
            return


def _of_call(call: ast.Call, aliases: dict[str, str], script: bool) -> Iterator[CodeFinding]:
    """What depends on the arguments: a mode for writing, a name that is computed, bounds that are turned off."""
    func = _spelled(call.func, aliases)
    given = {word.arg: word.value for word in call.keywords}
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if func in ("builtins.open", "io.open", "codecs.open", "os.open") or (method == "open" and not func):
        mode = given.get("mode", call.args[1] if len(call.args) > 1 else None)
        reads = mode is None or (isinstance(mode, ast.Constant) and not set(str(mode.value)) & set("wax+"))
        if not reads:
            yield Trust.SUSPICIOUS, f"{func.removeprefix('builtins.') or method} ({WRITE})"
    elif method in ("write_text", "write_bytes"):
        yield Trust.SUSPICIOUS, f"{method} ({WRITE})"
    elif func in ("builtins.getattr", "builtins.setattr") and not script and call.args:
        owner = _spelled(call.args[0], aliases)
        if owner.partition(".")[0] in SENSITIVE:
            yield Trust.DANGEROUS, f"an attribute of {owner}, taken by name ({REACH})"
    elif func == "torch.load" and not _is_true(given.get("weights_only")):
        yield Trust.SUSPICIOUS, f"torch.load without weights_only=True ({UNPICKLE})"
    elif func in ("numpy.load", "numpy.lib.npyio.load") and "allow_pickle" in given:
        yield Trust.SUSPICIOUS, f"numpy.load with allow_pickle ({UNPICKLE})"


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True
