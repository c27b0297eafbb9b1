"""Memory of devices by name, as their makers state it."""

from __future__ import annotations

import difflib

from modelprobe.errors import BadInput
from modelprobe.report.amounts import parse_amount

GIB = 2**30

DEVICES: dict[str, int] = {
    "t4": 16, "v100-16": 16, "v100-32": 32, "a10": 24, "l4": 24, "l40s": 48, "a40": 48, "a6000": 48,
    "a100-40": 40, "a100-80": 80, "h100": 80, "h200": 141, "1080ti": 11, "2080ti": 11, "3060": 12, "3080": 10,
    "3090": 24, "4070": 12, "4080": 16, "4090": 24, "5080": 16, "5090": 32,
}  # fmt: skip
"""Name -> GiB on the data sheet; the driver leaves a little less, which `--context` may hold."""


def is_device(text: str) -> bool:
    """Whether `--fits` names a device of the table."""
    return text.strip().lower() in DEVICES


def memory_limit(text: str, option: str = "--fits") -> int:
    """Bytes from `24GiB`, or of a device from `4090`. Raises BadInput for neither, with the nearest name."""
    name = text.strip().lower()
    if name in DEVICES:
        return DEVICES[name] * GIB
    try:
        limit = parse_amount(text, option, of_bytes=True)
    except BadInput as error:
        near = difflib.get_close_matches(name, DEVICES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "a size such as 24GiB, or a device such as 4090 or a100-40"
        raise BadInput(f"{option} {text!r} is neither a size nor a known device", hint) from error
    if name.isdigit() and limit < 2**20:  # no model fits in that: the name of a card that is not in the table
        near = difflib.get_close_matches(name, DEVICES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}, or {name}GiB?" if near else f"sizes have a unit: {name}GiB"
        raise BadInput(f"{option} {text!r} is neither a size with a unit nor a known device", hint)
    return limit
