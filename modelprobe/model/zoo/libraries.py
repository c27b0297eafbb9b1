"""Import torchvision and timm when they are needed, and say in one line why that cannot be done."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from modelprobe.errors import BadInput
from modelprobe.model.zoo.names import TIMM, TORCHVISION
from modelprobe.tracing.compiler_stand_in import compiler_stand_in

_TOGETHER = "install both from the same place: pip install --force-reinstall torch torchvision"


def torchvision_models() -> ModuleType:
    """`torchvision.models`. Raises BadInput when torchvision is missing or was built for another torch."""
    return _imported(TORCHVISION, "torchvision.models")


def timm() -> ModuleType:
    """`timm`. Raises BadInput when it is missing, or when the torchvision it needs does not match torch."""
    return _imported(TIMM, "timm")


def optional(name: str) -> Any:
    """A library that modelprobe does not need itself. Raises BadInput when it is missing or does not load."""
    try:
        with compiler_stand_in():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = (error.name or name).partition(".")[0]
        raise BadInput(f"{missing} is not installed", f"pip install {missing}") from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise BadInput(f"{name} cannot be imported: {' '.join(str(error).split())}", "install it anew") from error


def default_weights(name: str) -> Any:
    """The DEFAULT weights entry of a torchvision builder (a record; nothing is loaded), or None where it has none."""
    try:
        return torchvision_models().get_model_weights(name).DEFAULT
    except (ValueError, AttributeError):
        return None


def _imported(library: str, module: str) -> ModuleType:
    try:
        with compiler_stand_in():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or library).partition(".")[0]
        if missing in (library, "torch", "torchvision"):
            raise BadInput(f"{missing} is not installed", f"pip install {missing}") from error
        raise BadInput(f"{library} cannot be imported: {error}", f"pip install {missing}") from error
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        # A torchvision built against another torch: its operators do not register ("operator torchvision::nms does not
        # exist"), or its shared library does not load.
        reason = " ".join(str(error).split())
        raise BadInput(f"the installed torchvision does not match the installed torch ({reason})", _TOGETHER) from error
