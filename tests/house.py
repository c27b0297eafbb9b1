"""How the package is laid out, in figures: `python -m tests.house` prints them, `tests/test_house.py` holds them.

Counted are top-level functions, classes and constants of `modelprobe/`. A name that stands in two files means two
things, or one thing twice. What every file of `cli/commands/` has is not counted.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "modelprobe"
ON_PURPOSE = {"command", "EXAMPLES", "T"}
"""The interface of the files in `cli/commands/`; `T` is a type variable, as everywhere."""


PRESCRIBED = {"__pycache__", "__init__.py", "__main__.py", "py.typed"}
"""Names that Python itself asks for: no entries of ours."""


@dataclass(frozen=True)
class House:
    """Top-level names and the files they stand in, lines by file, functions by length, entries by folder."""

    names: dict[str, list[str]]
    lines: dict[str, int]
    functions: dict[str, int]
    entries: dict[str, int]

    @property
    def twice(self) -> dict[str, list[str]]:
        """Names that stand in two or more files."""
        return {name: files for name, files in sorted(self.names.items()) if len(files) > 1}


def survey(root: Path = ROOT) -> House:
    """Read every file of the package."""
    names: dict[str, list[str]] = defaultdict(list)
    lines, functions = {}, {}
    for path in sorted(root.rglob("*.py")):
        where, text = path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        lines[where] = text.count("\n")
        for name in sorted(set(top_level(tree)) - ON_PURPOSE):
            names[name].append(where)
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions[f"{where}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
    folders = [root, *(path for path in root.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    entries = {
        folder.relative_to(root).as_posix(): len([e for e in folder.iterdir() if e.name not in PRESCRIBED])
        for folder in folders
    }
    return House(dict(names), lines, functions, entries)


def top_level(tree: ast.Module) -> Iterator[str]:
    """The names that a module defines itself; not what it imports, not dunder names."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and not target.id.startswith("__"):
                    yield target.id


def main() -> None:
    """Print the figures, and every name that stands in several files."""
    house = survey()
    for name, files in house.twice.items():
        print(f"  {name}: {', '.join(files)}")
    share = len(house.twice) / len(house.names)
    print(f"{len(house.twice)} of {len(house.names)} top-level names stand in two or more files ({share:.1%})")
    print(f"{len(house.lines)} files, {sum(house.lines.values()):,} lines")
    print(f"{sum(n < 60 for n in house.lines.values())} files of under 60 lines")
    print("files over 400 lines:", {f: n for f, n in house.lines.items() if n > 400} or "none")
    print("functions over 50 lines:", {f: n for f, n in house.functions.items() if n > 50} or "none")
    print("folders of over 20 entries:", {f: n for f, n in house.entries.items() if n > 20} or "none")


if __name__ == "__main__":
    main()
