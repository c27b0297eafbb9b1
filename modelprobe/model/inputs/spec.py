"""Parsing `--input 8x3x224x224` and `--input ids=1x128:int64`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches

from modelprobe.checkpoint.dtypes import ALIASES, BITS, FLOATING_DTYPES
from modelprobe.errors import BadInput

EXAMPLES = "for example --input 224, 3x224x224, 8x3x224x224 or ids=1x128:int64"
_MOST_ELEMENTS = 2**40
_TEXT = re.compile(r"(?:(?P<name>[^=:]*)=)?(?P<shape>[^=:]*)(?::(?P<dtype>[^=:]*))?")

DTYPES = [
    name for name, bits in BITS.items() if bits >= 8 and name[0] != "q" and not name.endswith(("fnuz", "fnu", "x2"))
]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One tensor that is asked for. `dtype` is empty where none was said: the model's own is meant.

    `literal` holds a flag or a number that is given as it is, and no tensor.
    """

    name: str | None
    shape: tuple[int, ...]
    dtype: str = ""
    literal: tuple[bool | int | float | None] | None = None

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) if self.shape else "scalar"
        return f"{shape} {self.dtype}".rstrip()


def parse_input(text: str) -> InputSpec:
    """`ids=1x128:int64` -> its name, shape and dtype; the name and the dtype may be left out.

    `use_cache=false`, `scale=0.5` and `mask=none` are no tensors; whether `keep=1` is one, the model's forward says.

    `x`, `X` and `×` separate the sizes. Raises BadInput, with an example, for anything else.
    """
    match = _TEXT.fullmatch(text.strip())
    if match is None:
        raise BadInput(f"--input {_shortened(text)} is not name=SHAPE:dtype", EXAMPLES)
    name = match["name"]
    if name is not None and not name.strip().isidentifier():
        raise BadInput(f"--input {_shortened(text)}: {name!r} cannot be the name of an argument", EXAMPLES)
    if name is not None and match["dtype"] is None:
        literal = _literal(match["shape"].strip())
        if literal is not None:
            return InputSpec(name.strip(), (), literal=literal)
    shape = _shape(match["shape"].strip(), text)
    if match["dtype"] is not None and not match["dtype"].strip():
        raise BadInput(f"--input {_shortened(text)} names no dtype after the colon", EXAMPLES)
    dtype = "" if match["dtype"] is None else parse_dtype(match["dtype"].strip())
    return InputSpec(name.strip() if name is not None else None, shape, dtype)


_CONSTANTS = {"true": True, "false": False, "none": None}
_NUMBER = re.compile(r"-\d+|[-+]?(?:\d+\.\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?\d+e[-+]?\d+", re.IGNORECASE)


def _literal(text: str) -> tuple[bool | int | float | None] | None:
    """A flag, None, or a number that can be no size, in a tuple; None for any other text."""
    if text.lower() in _CONSTANTS:
        return (_CONSTANTS[text.lower()],)
    if not _NUMBER.fullmatch(text):
        return None
    return (int(text),) if re.fullmatch(r"-\d+", text) else (float(text),)


def parse_dtype(text: str) -> str:
    """The name that torch has for a dtype: `half` -> `float16`, `torch.long` -> `int64`. Raises BadInput."""
    asked = text.lower().removeprefix("torch.")
    name = ALIASES.get(asked, asked)
    if name not in DTYPES:
        close = get_close_matches(asked, [*DTYPES, *ALIASES], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(DTYPES[:13])}"
        raise BadInput(f"there is no dtype {text!r}", hint)
    return name


def parse_floating(text: str) -> str:
    """The name of a dtype that weights may have, for `--dtype`. Raises BadInput for any other."""
    choose = f"choose one of {', '.join(FLOATING_DTYPES)}"
    try:
        name = parse_dtype(text)
    except BadInput as unknown:
        spellings = [*FLOATING_DTYPES, *(alias for alias, name in ALIASES.items() if name in FLOATING_DTYPES)]
        close = get_close_matches(text.lower(), spellings, n=2)
        raise BadInput(unknown.message, f"did you mean {', '.join(close)}?" if close else choose) from unknown
    if name not in FLOATING_DTYPES:
        raise BadInput(f"--dtype {text} is not one that weights can have here", choose)
    return name


def _shape(text: str, whole: str) -> tuple[int, ...]:
    if "," in text or ";" in text:
        raise BadInput(f"--input {_shortened(whole)}: sizes are separated by x, not by commas", EXAMPLES)
    if not text:
        raise BadInput(f"--input {_shortened(whole)} has no shape", EXAMPLES)
    sizes = []
    for part in re.split(r"[xX×]", text):
        if not (part.strip().isascii() and part.strip().isdigit()):
            raise BadInput(f"--input {_shortened(whole)}: {_problem(part.strip())}", EXAMPLES)
        # More digits than any size has would make int() itself refuse.
        sizes.append(int(part.strip()[-40:]) if part.strip().lstrip("0")[40:] == "" else _MOST_ELEMENTS + 1)
    return bounded(tuple(sizes), f"--input {_shortened(whole)}")


def _problem(part: str) -> str:
    if not part:
        return "a size is missing beside an x"
    return "sizes cannot be negative" if part.startswith("-") else f"{_shortened(part)} is not a size"


def bounded(shape: tuple[int, ...], label: str) -> tuple[int, ...]:
    """The shape itself. Raises BadInput for one that is astronomic, or that is a lone zero."""
    if max(math.prod(shape), *shape) > _MOST_ELEMENTS:
        raise BadInput(f"{label} asks for more than 2**40 elements", EXAMPLES)
    if shape == (0,):
        raise BadInput(f"{label}: a size of 0 leaves nothing to look at", EXAMPLES)
    return shape


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "…")
