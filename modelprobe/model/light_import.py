"""Import torchvision without the second that one of its lines costs.

`torchvision/ops/roi_align.py` imports a helper from `torch._dynamo`, whose import takes longer than all the rest of
torchvision. While torchvision is imported, a stand-in for that module hands out a helper that imports the real one
when it is first called. Afterwards the stand-in is gone: whoever imports `torch._dynamo` gets the real package.
Whatever goes wrong, torchvision is imported plainly.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE, _MODULE = "torch._dynamo", "torch._dynamo.utils"
_LINE = "from torch._dynamo.utils import is_compile_supported"


def import_torchvision_models() -> ModuleType:
    """`torchvision.models`, imported the quick way where that is known to be safe; raises what a plain import does."""
    if applies():
        before = set(sys.modules)
        try:
            with _stand_in():
                return importlib.import_module("torchvision.models")
        except (ImportError, AttributeError, TypeError):
            # Another version wants more of the package than the stand-in has: forget the half-made import.
            for name in [name for name in sys.modules if name.startswith("torchvision") and name not in before]:
                del sys.modules[name]
    return importlib.import_module("torchvision.models")


def applies() -> bool:
    """Whether torchvision is still to be imported and has exactly the line that this module knows."""
    if any(name in sys.modules for name in ("torchvision", _PACKAGE, _MODULE)):
        return False
    spec = importlib.util.find_spec("torchvision")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        source = Path(place) / "ops" / "roi_align.py"
        try:
            return _LINE in source.read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
    return False


def _is_compile_supported(device_type: Any) -> bool:
    """The helper: asks the real one, which imports `torch._dynamo` now."""
    return bool(importlib.import_module(_MODULE).is_compile_supported(device_type))


@contextmanager
def _stand_in() -> Iterator[None]:
    package, module = ModuleType(_PACKAGE), ModuleType(_MODULE)
    package.__path__ = []
    module.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    package.utils = module  # type: ignore[attr-defined]
    sys.modules.update({_PACKAGE: package, _MODULE: module})
    try:
        yield
    finally:
        for name, stand_in in ((_PACKAGE, package), (_MODULE, module)):
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
