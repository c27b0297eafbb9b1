"""The texts that a pickle calls something with (a few of them, and each that tells more), and what they show."""

from __future__ import annotations

import functools
import re
from collections import deque

from modelprobe.checkpoint.pickle.abilities import ability_of
from modelprobe.checkpoint.pickle.nodes import Blob, Dict, PickleNode

MOST_TEXTS, TEXT_LENGTH, MOST_VALUES = 24, 400, 64
MAX_SEARCHED = 1 << 16
"""Letters of one text that are searched for what it shows."""


ARGUMENTS = (
    ("an address", r"\b[a-z]{2,6}://"),
    ("a command", r"\b(sh|bash|zsh|cmd|powershell|curl|wget|nc|python3?|perl|rm|chmod|touch)\b +\S|/bin/|\$\(|&& |; "),
    ("code", r"__\w+__|\bimport \w|\blambda\b|\b(exec|eval|open|print|getattr|system|popen|Popen|check_output)\("),
    ("a mode for writing", r"^(w|[wax][bt]|[wax]\+[bt]?|r\+[bt]?|[rwax][bt]\+)$"),
    ("a path", r"^(/|~|\.\./)|\.\./"),
    ("a file to load", r"\.(onnx|so|dll|dylib|pyd?|sh|exe|pkl|pickle|joblib|pth?|ckpt)$"),
)
"""What a text that a function is given shows."""

SENSITIVE_MODULES = frozenset("os posix nt subprocess builtins importlib runpy pty ctypes shutil socket pickle".split())
"""Modules of which no text given to a function or written in a configuration needs to name anything."""

SHELLS = re.compile(r"(\S*/)?(sh|bash|zsh|dash|cmd(\.exe)?|powershell(\.exe)?|python[\d.]*)")

LOUD = tuple(
    f"is given {what}"
    for what in ("a command", "code", "the name of a function that does harm", "an address", "a file to load")
)
"""Texts that no class of any package needs either."""

HIDING_CODECS = frozenset(
    "rot13 rot_13 hex hex_codec base64 base64_codec zlib zlib_codec bz2 bz2_codec uu uu_codec".split()
)


def shown_by(text: str) -> frozenset[str]:
    """What a text that something is given shows, alone or beside others."""
    shown = {what for what, shape in ARGUMENTS if re.search(shape, text)}
    shown |= {"a codec"} if text.lower() in HIDING_CODECS else set()
    shown |= {"a shell"} if SHELLS.fullmatch(text) or text in ("-c", "/c", "-m") else set()
    named = re.fullmatch(r"(\w+)([.:]\w+)*", text)
    shown |= {f"a module, {named[1]}"} if named and named[1] in SENSITIVE_MODULES else set()
    return frozenset(shown | ({f"a word: {ability_of(text)}"} if text.isidentifier() and ability_of(text) else set()))


def texts_of(known: tuple[str, ...], args: PickleNode) -> tuple[str, ...]:
    """`known` and the texts among the arguments of a call, those in lists and dicts behind the others."""
    found, left, seen = list(known), deque([args]), 0
    while left and seen < MOST_VALUES:
        value = left.popleft()
        seen += 1
        if type(value) is str:
            _keep_text(found, value)
        elif type(value) is Blob and value.data is not None:
            _keep_text(found, value.data[:MAX_SEARCHED].decode("utf-8", "replace"))
        elif type(value) in (tuple, list):
            left += list(value)[: MOST_VALUES - seen]
        elif type(value) is Dict:
            left += value.pairs[: MOST_VALUES - seen]
    return tuple(found)


def _keep_text(found: list[str], text: str) -> None:
    """Add a text, of a long one the part that shows something; when there are many, only where it shows more."""
    if len(text) > TEXT_LENGTH:
        places = (re.search(shape, text[:MAX_SEARCHED]) for _, shape in ARGUMENTS)
        start = next((place.start() for place in places if place), 0)
        text = text[start : start + TEXT_LENGTH]
    if text not in found and (len(found) < MOST_TEXTS or not shown_by(text) <= _shown(tuple(found))):
        found.append(text)


@functools.lru_cache(maxsize=256)
def _shown(texts: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*map(shown_by, texts))
