"""Code beside weights is judged from its text: Python alone, in archives, in TorchScript; libraries and scripts."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from modelprobe.checkpoint.answers.scan import ScanResult, scan
from modelprobe.checkpoint.pickle.globals import Trust

RUNS = "import os\nos.system('true')\n"

PYTHON: dict[str, tuple[str, Trust, str]] = {
    "a command": (RUNS, Trust.DANGEROUS, "os.system (runs commands), line 2"),
    "under another name": ("from os import system as s\ns('true')", Trust.DANGEROUS, "os.system"),
    "an alias": ("import os as o\nf = o.popen\nf('true')", Trust.DANGEROUS, "os.popen"),
    "an import by name": ("__import__('os').system('true')", Trust.DANGEROUS, "__import__"),
    "a module by name": ("import importlib\nm = importlib.import_module('x')", Trust.SUSPICIOUS, "import_module"),
    "an attribute by name": ("import os\ngetattr(os, 'sys' + 'tem')('true')", Trust.DANGEROUS, "attribute of os"),
    "by its module's table": ("import sys\nsys.modules['os'].system('true')", Trust.SUSPICIOUS, "sys.modules"),
    "builtins": ("__builtins__.eval('1')", Trust.DANGEROUS, "builtins.eval"),
    "exec": ("exec('1')", Trust.DANGEROUS, "builtins.exec (evaluates code)"),
    "subprocess": ("import subprocess as p\np.run(['true'])", Trust.DANGEROUS, "subprocess.run"),
    "handed on": ("import os\nlist(map(os.system, ['true']))", Trust.DANGEROUS, "os.system"),
    "a class": ("class A:\n    def f(self):\n        import pty; pty.spawn('x')", Trust.DANGEROUS, "pty.spawn"),
    "native": ("import ctypes\nctypes.CDLL('x.so')", Trust.DANGEROUS, "ctypes.CDLL (loads native code)"),
    "a socket": ("import socket\nsocket.socket()", Trust.SUSPICIOUS, "socket.socket (connects"),
    "a download": ("import urllib.request as r\nr.urlopen('http://x')", Trust.SUSPICIOUS, "urllib.request.urlopen"),
    "writing": ("open('x', 'w').write('y')", Trust.UNKNOWN, "open (opens or writes files)"),
    "writing, a mode that is computed": ("open('x', m)", Trust.UNKNOWN, "open (opens"),
    "unpickling": ("import pickle\npickle.loads(b'N.')", Trust.SUSPICIOUS, "pickle.loads"),
    "loading": ("import torch\ntorch.load('x')", Trust.UNKNOWN, "torch.load without weights_only"),
    "objects": ("print(().__class__.__base__.__subclasses__())", Trust.SUSPICIOUS, "__subclasses__"),
    "no Python": ("print 'x'", Trust.SUSPICIOUS, "no Python that can be parsed"),
    "a model": (
        "import os\nimport torch\nfrom torch import nn\np = os.path.join('a', 'b')\nclass A(nn.Module):\n"
        "    def f(self, x):\n        self.eval()\n"
        "        return getattr(self, 'g')(torch.load(x, weights_only=True))\n"
        "open(p).read(); open(p, 'rb')\n",
        Trust.UNKNOWN,
        "nothing is known to be dangerous",
    ),
}  # fmt: skip


HIDDEN = {
    "imported twice": "import json as o\nimport os as o\no.system('true')",
    "an assignment in an expression": "import os\n(o := os).system('true')",
    "a list": "import os\n[os][0].system('true')",
    "a default": "import os\ndef f(m=os):\n    m.system('true')",
    "two names at once": "import os\no, p = os, 1\no.system('true')",
    "a loop": "import os\nfor m in [os]:\n    m.system('true')",
    "vars": "import os\nvars(os)['system']('true')",
    "the module's table": "import os\nos.__dict__['sys' + 'tem']('true')",
    "a getter": "import os, operator\noperator.attrgetter('sys' + 'tem')(os)('true')",
    "globals": "import os\nglobals()['o' + 's'].system('true')",
    "the module of a builtin": "print.__self__.eval('1')",
    "through shutil": "import shutil\nshutil.os.system('true')",
    "through a path": "import os.path as p\np.os.system('true')",
    "through random": "from random import _os\n_os.system('true')",
    "through torch": "import torch.utils.collect_env as c\nc.subprocess.run('true')",
    "a variable of that name elsewhere": "def f(eval):\n    pass\neval('1')",
    "a function that is never defined": "if 0:\n    def eval(x):\n        pass\neval('1')",
    "a function that is deleted": "def eval(x):\n    pass\ndel eval\neval('1')",
    "a timer": "import timeit\ntimeit.timeit('1')",
    "a shell": "from IPython import get_ipython\nget_ipython().system('true')",
    "an argument": "import os\n(lambda m: m.system('true'))(os)",
    "an attribute": "import os\nclass A:\n    pass\nA.o = os\nA.o.system('true')",
    "a pattern": "import os\nmatch os:\n    case m:\n        m.system('true')",
    "one of many things": "".join(f"import m{n} as o\n" for n in range(9000)) + "import os as o\no.system('true')",
    "a name that is written out": "import os\ngetattr(os, 'system')('true')",
    "a code object": "import types\ntypes.FunctionType(a, {})()",
}

ORDINARY = {
    "nanoGPT": "import torch\ncompile = True\nif compile:\n    model = torch.compile(model)\n",
    "parameters": "def f(compile=False, code=None, eval=False):\n    return code.T if compile and not eval else 0\n",
    "a function of one's own": "def eval(model):\n    return model\neval(1)\n",
    "variables": "for imp in range(3):\n    code = imp @ imp\n    print(code.T, imp.real)\n",
    "published weights": "from torch.hub import load_state_dict_from_url\nload_state_dict_from_url('x')\n",
    "types of C": "import ctypes\nx = ctypes.c_int(1)\n",
    "a type that is asked for": "import types\nassert isinstance(f, types.FunctionType)\n",
    "what a system has": (
        "import os, platform\nprint(hasattr(os, 'fork'), getattr(os, 'sep', '/'), platform.uname().system)\n"
    ),
    "modules beside it": "from .code import Net\nfrom . import sh\nx = sh.T\n",
    "a training script": (
        "import os, sys, shutil, torch\nos.environ['A'] = '0'\nsys.path.insert(0, '.')\nos.makedirs('out')\n"
        "state = torch.load('x.pt')\nshutil.copyfile('a', 'b')\nwith open('log.txt', 'a') as f:\n    f.write('x')\n"
        "globals()[name]()\ntorch.save(state, 'y.pt')\nsys.exit(0)\n"
    ),
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_modules_that_are_handed_around(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(HIDDEN[kind])
    assert scan(tmp_path / "x.py").worst in (Trust.SUSPICIOUS, Trust.DANGEROUS)


@pytest.mark.parametrize("kind", ORDINARY)
def test_ordinary_code_is_no_alarm(kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(ORDINARY[kind])
    assert scan(tmp_path / "x.py").worst is Trust.UNKNOWN


def told(found: ScanResult) -> str:
    return " ".join(note.text for note in found.report().notes)


@pytest.mark.parametrize("kind", PYTHON)
def test_python_is_judged(kind: str, tmp_path: Path) -> None:
    text, trust, what = PYTHON[kind]
    (tmp_path / "x.py").write_text(text)
    found = scan(tmp_path / "x.py")
    assert (found.worst, found.code) == (trust, (str(tmp_path / "x.py"),))
    assert what in told(found)
    assert "nothing in it could be executed" not in told(found)


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tarred(name: str, raw: bytes, how: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=how) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(raw)
        archive.addfile(info, io.BytesIO(raw))
    return buffer.getvalue()


LIBRARY = b"\x7fELF\x02\x01\x01" + bytes(200)
QUIET = b"import torch\n"

FILES: dict[str, tuple[str, bytes, Trust]] = {
    "in a wheel": ("x.whl", zipped(**{"x/__init__.py": RUNS.encode()}), Trust.DANGEROUS),
    "in a tar": ("x.tar", tarred("x/y.py", RUNS.encode()), Trust.DANGEROUS),
    "in a packed tar": ("x.tar.gz", tarred("x/y.py", RUNS.encode(), "w:gz"), Trust.DANGEROUS),
    "of another name": ("x.pth", b"import os; os.system('true')\n", Trust.DANGEROUS),
    "quiet code in an archive": ("x.mar", zipped(**{"handler.py": QUIET}), Trust.SUSPICIOUS),
    "an ELF library": ("x.so", LIBRARY, Trust.SUSPICIOUS),
    "a library of another name": ("weights.bin", LIBRARY, Trust.SUSPICIOUS),
    "a Windows library": ("x.bin", b"MZ" + bytes(200), Trust.SUSPICIOUS),
    "a Mach-O library": ("x.bin", b"\xcf\xfa\xed\xfe" + bytes(200), Trust.SUSPICIOUS),
    "a library in .pt2": ("x.pt2", zipped(**{"m/data/aotinductor/model/model.so": LIBRARY}), Trust.SUSPICIOUS),
    "a library in .pt2, of another name": ("x.pt2", zipped(**{"m/data/x.bin": LIBRARY}), Trust.SUSPICIOUS),
    "a script": ("x.sh", b"#!/bin/sh\ntrue\n", Trust.UNKNOWN),
    "a script in an archive": ("x.zip", zipped(**{"x.sh": b"#!/bin/sh\ntrue\n"}), Trust.SUSPICIOUS),
    "compiled": ("x.pyc", b"\xcb\r\r\n" + bytes(40), Trust.UNKNOWN),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_code_in_every_place(kind: str, tmp_path: Path) -> None:
    name, raw, trust = FILES[kind]
    (tmp_path / name).write_bytes(raw)
    found = scan(tmp_path / name)
    assert found.worst is trust
    assert found.code
    assert "nothing in it could be executed" not in told(found)


@pytest.mark.parametrize("name", ["../../evil.txt", "/evil.txt", "a\\..\\..\\evil.txt"])
def test_members_that_lead_out_of_a_zip(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped(**{name: b"text"}))
    found = scan(tmp_path / "x.zip")
    assert found.worst is Trust.SUSPICIOUS
    assert "leads out of the archive" in told(found)


def test_findings_in_code_are_counted(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import os, socket\nos.system('true'); os.popen('true'); socket.socket()")
    facts = scan(tmp_path / "x.py").report().blocks[0]
    assert {one.label: one.value for one in facts.items if one.label in ("Dangerous", "Suspicious")} == {
        "Dangerous": 2, "Suspicious": 1,
    }  # fmt: skip


def test_a_directory_names_its_code(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "m.pth")
    for number in range(9):
        (tmp_path / f"n{number}.py").write_bytes(QUIET)
    found = scan(tmp_path)
    assert (found.worst, len(found.code)) == (Trust.UNKNOWN, 9)
    assert "n0.py, n1.py, n2.py and 6 more" in told(found)


def test_torchscript(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    torch.jit.script(net).save(str(tmp_path / "m.pt"))
    assert scan(tmp_path / "m.pt").worst is Trust.HARMLESS
    for number, (code, trust) in enumerate(
        {
            RUNS: Trust.DANGEROUS,
            "import json\n": Trust.DANGEROUS,
            "def forward(self, x):\n  return torch.from_file('/etc/passwd', False, 10)\n": Trust.SUSPICIOUS,
            "def forward(self, x):\n  return ops.aten.from_file('/etc/passwd', False, 10)\n": Trust.SUSPICIOUS,
        }.items()
    ):
        path = tmp_path / f"{number}.pt"
        with zipfile.ZipFile(tmp_path / "m.pt") as old, zipfile.ZipFile(path, "w") as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
            new.writestr("m/code/__torch__/more.py", code)
        assert scan(path).worst is trust, code


@pytest.mark.zoo
def test_deep_and_long_python_costs_little(tmp_path: Path) -> None:
    for text in ("(" * 100_000, "a" + ".b" * 300_000, "-" * 100_000 + "1", "f" + "()" * 100_000, "a = " * 100_000):
        (tmp_path / "x.py").write_text(text)
        assert scan(tmp_path / "x.py").worst in (Trust.SUSPICIOUS, Trust.UNKNOWN)
