"""Import torchvision without the second that one of its lines costs.

`torchvision/ops/roi_align.py` imports a helper from `torch._dynamo`, whose import takes longer than all the rest of
torchvision. While torchvision is imported, a stand-in for that module hands out a helper that imports the real one
when it is first called; whatever else is asked of the stand-in is answered by the real package, imported then.
Afterwards the stand-in is gone: whoever imports `torch._dynamo` gets the real one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE, _MODULE = "torch._dynamo", "torch._dynamo.utils"
_LINE = "from torch._dynamo.utils import is_compile_supported"


def import_torchvision_models() -> ModuleType:
    """`torchvision.models`, imported the quick way where that is known to be safe; raises what a plain import does."""
    if not applies():
        return importlib.import_module("torchvision.models")
    with _stand_in():
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
    stand_ins = {name: ModuleType(name) for name in (_PACKAGE, _MODULE)}

    def away() -> None:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]

    def real(name: str, attribute: str) -> Any:
        if attribute.startswith("__"):  # the import system looks for these; they are nobody's business
            raise AttributeError(attribute)
        away()
        return getattr(importlib.import_module(name), attribute)

    for name, module in stand_ins.items():
        module.__dict__["__getattr__"] = partial(real, name)
    stand_ins[_PACKAGE].__path__ = []
    stand_ins[_MODULE].__dict__["is_compile_supported"] = _is_compile_supported
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        away()
