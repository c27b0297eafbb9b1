"""Where did somebody else's code raise, in one line: `net.py:12 in Net.__init__: ValueError: width must be even`."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from pathlib import Path
from types import CodeType

from modelprobe.errors import one_line

_LONGEST = 400
_OURS = Path(__file__).resolve().parents[2]


def told(error: BaseException, directory: Path | None = None) -> str:
    """The error in one line, after the last frame in `directory`, else the last that is neither ours nor torch's."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}: {type(error).__name__}: {error.msg}"
    where = place(error, directory)
    return f"{where}: {named(error)}" if where else named(error)


def named(error: BaseException) -> str:
    """`ValueError: width must be even`, on one line and not endless."""
    if isinstance(error, SystemExit):
        return one_line(error)
    kind, message = type(error).__name__, one_line(error, _LONGEST)
    return f"{kind}: {message}" if message != kind else kind


def place(error: BaseException, directory: Path | None = None) -> str:
    """`net.py:12 in Net.forward`: the last frame in `directory`, else the last one that is neither ours nor torch's."""
    chosen: tuple[Path, int, str] | None = None
    inside = False
    torch = _home_of("torch")
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if torch is not None and file.is_relative_to(torch):
            continue
        user = directory is not None and file.is_relative_to(directory) and not is_installed(file)
        if user or (not inside and not file.is_relative_to(_OURS) and file.is_absolute()):
            chosen = (file, line, _qualified(frame.f_code))
            inside = inside or user
    if chosen is None:
        return ""
    return f"{chosen[0].name}:{chosen[1]} in {chosen[2]}"


def is_installed(path: str | Path) -> bool:
    """Whether a source file belongs to Python itself or to an installed package, rather than to the user."""
    file = Path(path)
    if {"site-packages", "dist-packages"} & set(file.parts):
        return True
    return file.is_relative_to(sysconfig.get_path("stdlib"))


def _home_of(package: str) -> Path | None:
    file = getattr(sys.modules.get(package), "__file__", None)
    return Path(file).parent if file else None


def _qualified(code: CodeType) -> str:
    # `co_qualname` came with Python 3.11.
    return str(getattr(code, "co_qualname", code.co_name)).replace("<locals>.", "")
