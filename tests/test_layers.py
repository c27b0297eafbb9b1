"""Who may import whom: every import of every module is walked, also those inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "modelprobe"
BASE = {"errors", "report", "signals", "units"}
ZOOS = {"torch", "torchvision", "timm"}

# layer -> (layers of modelprobe, libraries) that it may import, besides the standard library and itself
ALLOWED: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "signals": (set(), set()),
    "units": (set(), set()),
    "report": ({"units"}, set()),
    "tracing": (BASE, {"torch"}),
    "checkpoints": (BASE, {"torch", "safetensors", "fsspec"}),
    "pictures": (BASE, {"torch", "PIL", "numpy", "matplotlib"}),
    # The tools are imported inside the functions that ask them, which only a child process calls.
    "peers": (BASE, {"torch", "thop", "torchinfo", "fvcore", "ptflops"}),
    "model": ({*BASE, "checkpoints"}, {*ZOOS, "PIL", "numpy", "safetensors", "huggingface_hub"}),
    "analyzers": (
        {*BASE, "tracing", "checkpoints", "pictures", "model", "peers", "__init__"},
        ZOOS | {"numpy", "PIL", "captum"},
    ),
    "renderers": ({"report", "units"}, set()),
    "output": ({*BASE, "renderers"}, {"rich"}),
    "options": ({*BASE, "renderers", "output"}, {"typer"}),
    "commands": (
        {*BASE, "tracing", "checkpoints", "pictures", "model", "peers", "analyzers", "renderers", "output", "options"},
        {"typer", "rich", "numpy", *ZOOS},
    ),
    "cli": ({*BASE, "commands", "options", "output", "__init__"}, {"typer"}),
    "api": ({*BASE, "tracing", "checkpoints", "model", "analyzers"}, {"torch"}),
    "__main__": ({"cli"}, set()),
}
EXCEPTIONS = {
    ("report/formats/terminal.py", "rich"),  # the only renderer that uses it
    ("report/result.py", "renderers"),  # a notebook asks a result for HTML: late, inside the method
}
NEVER_IN_ANALYZERS = {"typer", "rich", "sys"}

FILES = sorted(ROOT.rglob("*.py"))


def layer(path: Path) -> str:
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports(tree: ast.AST):
    """(dotted name, line, whether it runs when the module is imported) of every import."""
    late = {
        id(n) for f in ast.walk(tree) if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)) for n in ast.walk(f)
    }
    typing = {
        id(n)
        for i in ast.walk(tree)
        if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.unparse(i.test)
        for n in ast.walk(i)
    }
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            # `from modelprobe.cli import output` names a module; `from modelprobe import __version__` the package
            whole = node.module == "modelprobe"
            names = [f"modelprobe.{a.name}" if whole else node.module for a in node.names] if whole else [node.module]
        for name in names:
            yield name, node.lineno, id(node) not in late and id(node) not in typing


def target_of(name: str) -> str:
    """The layer of modelprobe that a dotted name stands in."""
    part = name.split(".")[1] if "." in name else "__init__"
    return "__init__" if part.startswith("__") else part


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports(path):
    where, here = path.relative_to(ROOT).as_posix(), layer(path)
    if here == "__init__":
        return  # resolves names late; what it must not do is measured below
    assert here in ALLOWED, f"{here} has no line in ALLOWED: say there what it may import"
    layers, libraries = ALLOWED[here]
    for name, line, _ in imports(ast.parse(path.read_text(encoding="utf-8"))):
        top = name.split(".")[0]
        if top == "modelprobe":
            to = target_of(name)
            assert to == here or to in layers or (where, to) in EXCEPTIONS, f"{where}:{line} imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top in libraries or (where, top) in EXCEPTIONS, f"{where}:{line} imports {name}"
        if here == "analyzers":
            assert top not in NEVER_IN_ANALYZERS, f"{where}:{line} imports {name}"


@pytest.mark.parametrize(
    "path", [p for p in FILES if layer(p) in ("commands", "cli", "output", "options", "renderers")]
)
def test_torch_is_imported_late(path):
    for name, line, early in imports(ast.parse(path.read_text(encoding="utf-8"))):
        heavy = name.split(".")[0] in ZOOS or target_of(name) in ("tracing", "analyzers", "model")
        assert not (early and heavy), f"{path.name}:{line} imports {name} before anything was asked"


@pytest.mark.parametrize("path", [p for p in FILES if layer(p) == "analyzers"], ids=lambda path: path.name)
def test_analyzers_do_not_print(path):
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    assert not [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]


@pytest.mark.parametrize(
    "module", ["modelprobe", "modelprobe.cli.app", "modelprobe.cli.output", "modelprobe.report.formats.html"]
)
def test_importing_does_not_import_torch(module):
    code = f"import sys, {module}; print(sorted({{'torch', 'torchvision', 'timm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
