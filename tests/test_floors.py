"""Who may import whom: a file imports from its own folder and from the floors below it. Every import is walked, also
those inside functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "modelprobe"
ZOOS = {"torch", "torchvision", "timm"}

# From the ground up: (the parts of modelprobe that stand on a floor, the libraries that they may import). Parts on one
# floor do not import each other, but for those that ASIDE allows.
FLOORS: tuple[dict[str, set[str]], ...] = (
    {"_version": set(), "errors": set(), "report": {"rich", "pandas"}},
    {"environment": ZOOS, "files": {"platformdirs", "tomli"}, "console": {"rich"}},
    {"tracing": {"torch"}, "checkpoint": {"torch", "numpy", "safetensors", "fsspec"}},
    {"model": {*ZOOS, "platformdirs", "numpy", "safetensors", "huggingface_hub"}},
    # Other tools are imported inside the functions that ask them, which only a child process calls.
    {
        "cost": {*ZOOS, "thop", "torchinfo", "fvcore", "ptflops", "matplotlib", "numpy"},
        "inside": {"torch", "numpy"},
        "vision": {*ZOOS, "numpy", "PIL", "captum", "matplotlib", "safetensors", "av"},
    },
    {"graph": {"torch", "PIL", "fast_sugiyama"}},
    {"zoo": {"torch"}},
    {"api": {"torch"}},
    {"guide": set()},
    {"cli": {"typer", "rich"}},
    {"__main__": set(), "__init__": ZOOS, "pytest_plugin": {"pytest"}},
)
ASIDE = {("checkpoint", "files"), ("report", "errors"), ("console", "errors"), ("files", "errors")}
LEVEL = {part: level for level, floor in enumerate(FLOORS) for part in floor}
LIBRARIES = {part: libraries for floor in FLOORS for part, libraries in floor.items()}

FILES = sorted(ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of modelprobe that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int, bool]]:
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
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            names = [f"modelprobe.{a.name}" for a in node.names] if node.module == "modelprobe" else [node.module]
        for name in names:
            yield name, node.lineno, id(node) not in late and id(node) not in typing


def allowed(here: str, there: str) -> bool:
    """Whether a part may import another."""
    return there == here or LEVEL[there] < LEVEL[here] or (here, there) in ASIDE


def test_imports() -> None:
    for path in FILES:
        check_imports(path)


def check_imports(path: Path) -> None:
    """Raises AssertionError for an import that the floors do not allow."""
    where, here = path.relative_to(ROOT).as_posix(), part_of(path)
    assert here in LEVEL, f"{here} stands on no floor: say in FLOORS which"
    for name, line, early in imports(ast.parse(path.read_text(encoding="utf-8"))):
        top = name.split(".")[0]
        if top == "modelprobe":
            assert allowed(here, name.split(".")[1]), f"{where}:{line} imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top in LIBRARIES[here], f"{where}:{line} imports {name}"
        if here in ("cli", "console", "report", "files", "__init__", "__main__"):
            assert not (early and top in ZOOS), f"{where}:{line} imports {name} before anything was asked"
        if here == "report" and top == "rich":
            assert path.name in ("terminal.py", "grid.py", "lines.py", "names.py"), "one format draws with rich"


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        if part_of(path) in ("cli", "console", "__main__"):
            continue
        calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        assert not [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"], path


def test_the_command_line_and_the_reader_do_not_import_torch() -> None:
    """Every command's file, every report format, the reader of weight files: what they need of torch comes late."""
    light = ("modelprobe.cli", "modelprobe.report", "modelprobe.files", "modelprobe.checkpoint.open")
    names = [".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in FILES]
    modules = [name for name in names if name.startswith(light)]
    code = f"import sys, {', '.join(modules)}; print(sorted({ZOOS!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
