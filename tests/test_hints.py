"""Are all hints written alike: one line that begins with a small letter and ends without a full stop?"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "modelprobe"
ERRORS = {"BadInput", "CheckFailed", "Incomplete", "ModelRaised", "ProbeError", "WouldRunCode"}


def texts(node: ast.expr) -> Iterator[tuple[str, str]]:
    """The beginning and the end of a hint, as far as they are written out."""
    if isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, node.value
    elif isinstance(node, ast.JoinedStr) and node.values:
        first, last = node.values[0], node.values[-1]
        yield (
            first.value if isinstance(first, ast.Constant) else "",
            last.value if isinstance(last, ast.Constant) else "",
        )


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_hints(path: Path) -> None:
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ERRORS and len(call.args) > 1:
            for begin, end in texts(call.args[1]):
                assert not re.match(r"[A-Z][a-z]", begin), f"{path.name}:{call.lineno}: {begin}"
                assert not re.search(r"\w\.$", end), f"{path.name}:{call.lineno}: {end}"
