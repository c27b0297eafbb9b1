"""The devices and the memory of this machine."""

from __future__ import annotations

import os

import torch

from modelprobe.errors import BadInput, one_line


def checked_device(device: str) -> str:
    """The device itself. Raises BadInput for one that does not exist, or not here."""
    try:
        known = torch.device(device)
    except RuntimeError as error:
        raise BadInput(f"there is no device {device!r}", f"here are {', '.join(_usable_devices())}") from error
    try:
        if known.type != "meta":
            torch.empty(0, device=known)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = one_line(error).partition(". ")[0].rstrip(".")
        if isinstance(error, NotImplementedError):
            reason = "this torch was built without it"
        raise BadInput(
            f"--device {device} cannot be used: {reason}", f"here are {', '.join(_usable_devices())}"
        ) from error
    return device


def _usable_devices() -> list[str]:
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *cuda, *mps, "meta (where nothing is computed)"]


def free_memory() -> float:
    """Bytes that this machine has left; infinite where it does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return float("inf")
