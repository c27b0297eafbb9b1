"""What the functions of modules can do: by the module, by their name, and whose a module is."""

from __future__ import annotations

import re
import sys

BUILTINS = frozenset(
    (
        "eval exec execfile compile open file __import__ getattr setattr delattr apply globals locals vars input "
        "raw_input breakpoint help map filter reduce exit quit reload memoryview super __build_class__ print dir"
    ).split()
)
RUN, EVALUATE, UNPICKLE, NATIVE = "runs commands", "evaluates code", "unpickles without bounds", "loads native code"
WRITE, CONNECT, REACH = "opens or writes files", "connects to other machines", "hands out other objects"

ABILITIES = {
    RUN: (
        "os posix nt subprocess _posixsubprocess pty commands runpy pdb bdb timeit cProfile profile trace unittest "
        "test multiprocessing asyncio webbrowser pip setuptools distutils ensurepip venv psutil paramiko fabric "
        "IPython idlelib cgitb cgi antigravity atexit signal threading _thread platform _osx_support _aix_support "
        "_pyrepl sched concurrent gevent sh plumbum win32api win32com win32process win32file wmi pythoncom execnet "
        "invoke _xxsubinterpreters _interpreters pexpect ptyprocess docker git pytest _pytest nose fire billiard"
    ),
    EVALUATE: (
        "code codeop importlib imp zipimport pkgutil site doctest pydoc lib2to3 ast dis symtable types "
        "_frozen_importlib _frozen_importlib_external sympy rlcompleter hydra Cython pyximport gin asteval past"
    ),
    UNPICKLE: "pickle _pickle dill cloudpickle joblib marshal shelve yaml jsonpickle",
    NATIVE: "ctypes _ctypes cffi mmap",
    CONNECT: (
        "socket ssl urllib urllib2 http httplib httpx requests aiohttp ftplib smtplib telnetlib poplib imaplib "
        "nntplib xmlrpc socketserver"
    ),
    WRITE: (
        "shutil tempfile glob fileinput io _io ntpath posixpath zipfile tarfile sqlite3 logging linecache fcntl tty "
        "readline mailcap mimetypes getpass resource winreg _winreg _winapi msvcrt sysconfig _bootlocale tracemalloc "
        "pstats"
    ),
    REACH: "sys operator _operator inspect gc weakref builtins tkinter turtle",
}
"""What the functions of a module are for: of these modules every name that is not harmless is dangerous."""

MODULES = {name: ability for ability, names in ABILITIES.items() for name in names.split()}
MODULES["copyreg extension"] = REACH

WORDS = (
    (
        RUN,
        r"system|popen|spawn|exec[vl]|shell|command|subprocess|fork|Popen|ffmpeg|executable|check_requirements|(^|_)run(_|$)|run(code|path|module|string)$",
    ),
    (EVALUATE, r"^query$|eval|exec$|exec_|compile|sympify|parse_expr|_create_fn|_make_function|dynamic_module|import"),
    (
        EVALUATE,
        r"instantiate|(^|_)locate$|deserialize|get_object|get_method|build_from|^resolver?$|named_?any|symbol_by",
    ),
    (NATIVE, r"library|dlopen|CDLL|ctypes"),
    (UNPICKLE, r"unpickle|read_pickle|(un|full_|unsafe_)load|^_?load|_load($|_)|loads$|from_bytes|decode"),
    (
        CONNECT,
        r"urlopen|urlretrieve|download|request|socket|connect|fetch|http|upload|^push_|^repo_|^read_|from_pretrained",
    ),
    (
        WRITE,
        r"^open|_open$|save|write|dump|tofile|fromfile|_file$|memmap|FileType|remove|unlink|mkdir|rename|delete|^to_",
    ),
)
"""What a function's name says that it does."""

CLASS_WORDS = (
    (RUN, r"Popen|^ShellExecute"),
    (EVALUATE, r"TFSMLayer|^Lambda$|LambdaLayer"),
    (CONNECT, r"^FTP|MongoClient|^Redis$|FileSystem$"),
    (WRITE, r"EventFileWriter|SummaryWriter|HDFStore|ExcelWriter|^File$"),
)
"""What the name of a class of some package says that making one does."""

REBUILDS = re.compile(r"^_|unpickle|rebuild|reconstruct|restore|^new|^from_\w|^type_for_")
"""Functions by which packages make their own objects again."""

PREFIXES = tuple(
    (
        "torch.hub torch.jit torch._dynamo torch._inductor torch.utils torch.package torch.onnx "
        "torch.distributed.rpc torch.distributed.run torch.distributed.elastic torch.testing torch.fx numpy.testing "
        "numpy.f2py numpy.distutils numpy.lib numpy.ctypeslib numpy.memmap lightning.pytorch.cli pytorch_lightning.cli "
        "pytorch_lightning.utilities.cli monai.bundle matplotlib._get_executable_info pandas.test"
    ).split()
)
DANGEROUS_NAMES = frozenset(
    (
        "functools.reduce torch.serialization.load torch.serialization.save torch.load torch.save torch.compile "
        "numpy.load numpy.save numpy.fromfile numpy.memmap"
    ).split()
)

PACKAGES = frozenset(
    (
        "_pyrepl __phello__ asyncio collections compression concurrent ctypes curses dbm distutils email encodings "
        "ensurepip html http idlelib importlib json lib2to3 logging msilib multiprocessing os pathlib profiling "
        "pydoc_data pyexpat re sqlite3 string sys sysconfig tkinter tomllib turtledemo typing unittest urllib venv "
        "wsgiref xml xmlrpc zoneinfo"
    ).split()
)
"""Of the standard library, what has modules below it."""

_OWN_TESTS = re.compile(r"test(\.(support|libregrtest|regrtest|autotest|pythoninfo|test_\w+|__main__)(\..*)?)?")
"""What stands in the standard library's package of tests, which has no names of its own."""


def owner_of(module: str) -> str:
    """The package that a module is of; empty where only somebody's own can have it: `code.models`, `test.nets`."""
    top = module.partition(".")[0]
    if top == "test" and not _OWN_TESTS.fullmatch(module):
        return ""
    single = top in (*sys.stdlib_module_names, "commands", "imp") and top not in (*PACKAGES, "test")
    return "" if single and "." in module else top


def ability_of(name: str) -> str:
    """What the name of a function says that it does; empty for a class and where it says nothing."""
    last = name.rpartition(".")[2]
    return next((ability for ability, shape in WORDS if re.search(shape, last)), "")
