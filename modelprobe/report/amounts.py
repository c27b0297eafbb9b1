"""Amounts as people write them: `30M`, `4.2G`, `500MB`, `1%`."""

from __future__ import annotations

import math
import re

from modelprobe.errors import BadInput

_AMOUNT = re.compile(r"(?P<number>\d+(?:[_,]\d{3})*(?:\.\d+)?(?:e\d+)?|\.\d+)\s*(?P<unit>[a-zA-Z]*)", re.IGNORECASE)
_STEPS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12, "p": 10**15}
_BYTES = {f"{letter}b": step for letter, step in _STEPS.items() if letter not in ("", "b")} | {
    f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)
}


def parse_amount(text: str, option: str, *, scale: int = 1, of_bytes: bool = False) -> int:
    """A whole number of things, or of bytes: `MB` is a million, `MiB` 1024 x 1024. A bare number is times `scale`.

    Raises BadInput for what is no amount, naming the option.
    """
    match = _AMOUNT.fullmatch(text.strip())
    unit = match["unit"].lower() if match else ""
    steps = {"": scale, "b": 1, **_BYTES} if of_bytes else {**_STEPS, "": scale}
    if match is None or unit not in steps:
        example = "500MB" if of_bytes else "25M" if scale == 1 else "4.2"
        raise BadInput(f"{option} {text!r} is no amount", f"for example {option} {example}")
    found = float(re.sub("[_,]", "", match["number"])) * steps[unit]
    if not math.isfinite(found):
        raise BadInput(f"{option} {text!r} is too large", "give a smaller amount")
    return round(found)


def parse_share(text: str, option: str) -> float:
    """A share from `1%` or `0.01`. Raises BadInput for anything else."""
    number = text.strip().removesuffix("%")
    try:
        found = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise BadInput(f"{option} {text!r} is no share from 0 to 100%", f"for example {option} 1%")
    return found
