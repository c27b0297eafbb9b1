"""Pickles that name something dangerous, in every way that pickles have of naming and calling it.

The names are those that advisories about pickle scanners speak of: each was once missing from somebody's list.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator

NAMES = """
os system|posix system|nt system|os popen|os execv|os spawnl|os posix_spawn|subprocess Popen|subprocess run|
subprocess check_output|subprocess getoutput|builtins eval|builtins exec|builtins compile|builtins open|
builtins __import__|builtins getattr|builtins breakpoint|__builtin__ eval|__builtin__ execfile|
__builtin__ apply|runpy run_path|runpy _run_code|timeit timeit|timeit main|pip main|pip._internal main|
bdb Bdb.run|pdb run|cProfile runctx|cProfile run|profile run|profile Profile.run|trace Trace.run|
trace Trace.runctx|code interact|code InteractiveInterpreter.runcode|codeop compile_command|
doctest debug_script|pydoc pipepager|pydoc locate|pydoc tempfilepager|webbrowser open|ensurepip _run_pip|
venv create|idlelib.pyshell ModifiedInterpreter.runcode|idlelib.run Executive.runcode|
idlelib.debugobj ObjectTreeItem.SetText|idlelib.calltip get_entity|
lib2to3.pgen2.pgen ParserGenerator.make_label|lib2to3.pgen2.grammar Grammar.loads|importlib import_module|
imp load_source|zipimport zipimporter|pkgutil resolve_name|ctypes CDLL|ctypes.util _findLib_gcc|_ctypes dlopen|
marshal loads|pickle loads|_pickle loads|dill loads|cloudpickle loads|joblib load|shelve open|
operator methodcaller|operator attrgetter|_operator itemgetter|functools reduce|functools partial|
types FunctionType|types CodeType|inspect getattr_static|linecache getline|atexit register|signal signal|
threading Thread|_thread start_new_thread|multiprocessing.util spawnv_passfds|_posixsubprocess fork_exec|
asyncio.unix_events _UnixSubprocessTransport._start|socket create_connection|ssl get_server_certificate|
urllib.request urlopen|urllib urlretrieve|http.client HTTPSConnection|requests get|ftplib FTP|smtplib SMTP|
telnetlib Telnet|poplib POP3|xmlrpc.client ServerProxy|shutil rmtree|shutil move|tempfile mktemp|io open|
_io FileIO|pathlib Path.write_text|logging.config listen|logging FileHandler|distutils.file_util write_file|
sysconfig get_config_vars|_osx_support _read_output|_aix_support _read_cmd_output|_pyrepl.pager pipe_pager|
cgitb lookup|test.support.script_helper assert_python_ok|unittest main|sqlite3 connect|mailcap findmatch|
site main|torch load|torch.hub load|torch.jit load|torch.jit.unsupported_tensor_ops execWrapper|
torch._dynamo.guards GuardBuilder.get|torch._inductor.codecache compile_file|
torch.utils.bottleneck.__main__ run_cprofile|torch.utils.collect_env run|
torch.utils._config_module ConfigModule.load_config|torch.utils.cpp_extension load|
torch.utils.data.datapipes.utils.decoder basichandlers|
torch.fx.experimental.symbolic_shapes ShapeEnv.evaluate_guards_expression|
torch.distributed.rpc.internal _load_return_value|torch.package PackageImporter|
torch.onnx.utils _run_symbolic_method|torch.serialization load|numpy load|numpy.f2py.crackfortran getlincoef|
numpy.f2py.crackfortran myeval|numpy.f2py.crackfortran _eval_length|numpy.testing._private.utils runstring|
numpy.lib.npyio load|numpy.ctypeslib load_library
""".replace("\n", "").split("|")

ARGUMENT = "touch SENTINEL"


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def ways(module: str, name: str) -> Iterator[tuple[str, bytes]]:
    """A pickle for each way: GLOBAL, INST, OBJ, STACK_GLOBAL, NEWOBJ, BUILD, the memo, two in a row."""
    line = f"{module}\n{name}\n".encode()
    argument = text(ARGUMENT)
    yield "reduce", b"\x80\x02c" + line + argument + b"\x85R."
    yield "inst", b"(" + argument + b"i" + line + b"."
    yield "obj", b"(c" + line + argument + b"o."
    yield "stack global", b"\x80\x04" + text(module) + text(name) + b"\x93" + argument + b"\x85R."
    yield "new object", b"\x80\x02c" + line + argument + b"\x85\x81."
    yield (
        "from the memo",
        b"\x80\x04" + text(module) + b"q\0" + b"0" + text(name) + b"q\1" + b"0h\0h\1\x93" + argument + b"\x85R.",
    )
    yield "in a key", b"\x80\x02}c" + line + argument + b"\x85RK\1s."
    yield "as a state", b"\x80\x02ccollections\nOrderedDict\n)R}" + text("x") + b"c" + line + argument + b"\x85Rsb."
    yield "popped", b"\x80\x02c" + line + argument + b"\x85R0}."
    yield "after the end", b"\x80\x02}.\x80\x02c" + line + argument + b"\x85R."
    yield "after a number", b"I1\n0c" + line + argument + b"\x85R."
    yield "after a text", b"S'x'\n0N0c" + line + argument + b"\x85R0"
    yield "without a call", b"\x80\x02c" + line + b"."


def wrapped(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The files that a pickle can stand in."""
    yield "x.pkl", raw
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, data in (("a/data.pkl", raw), ("a/version", b"3\n")):
            archive.writestr(member, data)
    yield "x.pth", buffer.getvalue()
    legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    yield "x.pth.tar", legacy + raw + b"\x80\x02]."
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    array = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + raw
    yield "x.npy", array
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", array)
    yield "x.npz", buffer.getvalue()
    yield "nested.pkl", pickle.dumps({"model": [raw]}, 4)
