"""The line of source code that an operator was called from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType


def calling_lines(most: int = 3) -> tuple[str, ...]:
    """`file:line function` of the innermost frames outside torch and this package, the innermost first."""
    import torch

    hidden = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[1]}{os.sep}")
    found: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(found) < most:
        name = frame.f_code.co_filename
        if not name.startswith(hidden) and not name.startswith("<"):
            found.append(f"{_inside_packages(name)}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return tuple(found)


def _inside_packages(name: str) -> str:
    """Without what stands before an installed package, or before the current directory."""
    inside = name.partition(f"site-packages{os.sep}")[2]
    return inside or name.removeprefix(f"{Path.cwd()}{os.sep}")
