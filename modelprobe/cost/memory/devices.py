"""Memory of devices by name."""

from __future__ import annotations

import difflib

from modelprobe.errors import BadInput
from modelprobe.report.amounts import parse_amount

GIB = 2**30

DEVICES: dict[str, float] = {
    "t4": 14.6, "v100-16": 15.7, "v100-32": 31.7, "a10": 22.0, "l4": 22.0, "l40s": 44.4, "a40": 44.4, "a6000": 47.4,
    "a100-40": 39.4, "a100-80": 79.1, "h100": 79.1, "h200": 139.8, "1080ti": 10.9, "2080ti": 10.7, "3060": 11.7,
    "3080": 9.7, "3090": 23.6, "4070": 11.7, "4080": 15.6, "4090": 23.6, "5080": 15.4, "5090": 31.3,
}  # fmt: skip
"""Name -> GiB that a program sees (`torch.cuda.mem_get_info()[1]`): those of the data sheet less the driver's."""


def _device_name(text: str) -> str:
    return text.strip().lower().removeprefix("rtx").strip(" -")


def is_device(text: str) -> bool:
    """Whether `--fits` names a device of the table, such as 4090 or rtx4090."""
    return _device_name(text) in DEVICES


def memory_limit(text: str, option: str = "--fits") -> int:
    """Bytes from `24GiB`, or of a device from `4090`. Raises BadInput for neither, with the nearest name."""
    name = _device_name(text)
    if name in DEVICES:
        return int(DEVICES[name] * GIB)
    near = [one for one in DEVICES if name and one.startswith(name)]
    near = near or difflib.get_close_matches(name, DEVICES, n=1, cutoff=0.7)
    meant = " or ".join(near)
    try:
        limit = parse_amount(text, option, of_bytes=True)
    except BadInput as error:
        hint = f"did you mean {meant}?" if near else "a size such as 24GiB, or a device such as 4090"
        raise BadInput(f"{option} {text!r} is neither a size nor a known device", hint) from error
    if not limit:
        raise BadInput(f"{option} {text!r} is no memory at all", "a size such as 24GiB, or a device such as 4090")
    if name.isdigit() and limit < 2**20:  # no model fits in that: the name of a card that is not in the table
        hint = f"did you mean {meant}, or {name}GiB?" if near else f"sizes have a unit: {name}GiB"
        raise BadInput(f"{option} {text!r} is neither a size with a unit nor a known device", hint)
    return limit
