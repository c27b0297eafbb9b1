"""Reading a TOML file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from modelprobe.errors import BadInput


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables of a file. Raises BadInput where it cannot be read or is no TOML."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "check the file") from error
