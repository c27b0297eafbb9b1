"""Jinja templates (of chats and prompts): what reaches for Python's own objects, by plain names or computed ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress

from modelprobe.checkpoint.pickle.globals import Trust

MAX_TAG = 20_000
"""Letters of one tag that are read."""

MAX_NESTED_JSON = 3

_TAG_START = re.compile(r"\{[{%][-+]?")
_LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_TOKEN = re.compile(
    r"""\s+|(?P<text>"(?:[^"\\\0-\x08]|\\.)*"|'(?:[^'\\\0-\x08]|\\.)*')|(?P<name>[^\W\d]\w*)|(?P<number>\d[\w.]*)"""
    r"""|(?P<end>-?\}\}|[-+]?%\})|(?P<sign>[!-/:-@\[-`{-~])""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{1,3})|N\{([^}]*)\})")
_GRAVE = re.compile(r"\bpopen\b|subprocess|builtins|importlib|__import__|['\"]os['\"]|\.\s*os\b")
"""What a template that is odd reaches for in order to do harm."""

_COMPUTING = frozenset("replace format join lower upper reverse string trim first last list".split())
_ATTRIBUTE_FILTERS = frozenset("map selectattr rejectattr groupby sum sort min max unique".split())
_GLOBALS = frozenset("cycler joiner lipsum self caller varargs kwargs".split())
"""Objects of jinja through which Python's are reached; templates of chats use none of them."""

_NEVER_NAMED = frozenset("cycler joiner lipsum self".split())
"""Those of which a template of a chat takes nothing at all."""

_OPEN, _ATTR_TEXTS = ("sign", "("), ('"attr"', "'attr'")
"""How `map` is told to take an attribute."""

_OWN_NAMES = re.compile(
    r"__(class|bases?|mro|subclasses|globals|init|builtins?|import|get(attr|attribute|item)|dict|code|closure|self|func|"
    r"reduce|reduce_ex|new|call|module|loader|spec|file|name|qualname|doc|wrapped|defaults|init_subclass|context)__"
)

_CALLED = frozenset("namespace range dict raise_exception strftime_now".split())
"""Functions that templates call and take no attribute of."""

Token = tuple[str, str]


def template_findings(text: str) -> Iterator[tuple[Trust, str]]:
    """What is said of the templates in a text, in JSON also of those in its strings: the first finding of each."""
    for template in _templates(text, MAX_NESTED_JSON):
        for why, tag in _odd_tags(template):
            trust = Trust.DANGEROUS if _GRAVE.search(_unescaped(template)) else Trust.SUSPICIOUS
            yield trust, f"a template that {why}: {' '.join(value for _, value in tag)[:80]}"
            break


def _templates(text: str, depth: int) -> Iterator[str]:
    """The text itself, or where it is JSON the strings in it."""
    if not depth or not re.match(r'\s*[{\[]\s*["{\[]', text) or text.lstrip().startswith(("{{", "{%")):
        yield text
        return
    first = text.find('"')
    for start in (0, first + 1):  # a window of a file may begin inside a string
        for match in _LITERAL.finditer(text, start):
            if "{{" in match[1] or "{%" in match[1]:
                with suppress(ValueError):
                    yield from _templates(json.loads(match[0], strict=False), depth - 1)


def _odd_tags(template: str) -> Iterator[tuple[str, list[Token]]]:
    """The tags that are odd, each with why."""
    computed: set[str] = set()
    at = 0
    while (opening := _TAG_START.search(template, at)) is not None:
        tag, at = _tag(template, opening.end())
        if tag:
            why = _odd_because(tag, computed)
            if why:
                yield why, tag
            if tag[0][1] == "set" and len(tag) > 3 and tag[2][1] == "=" and _computes(tag[3:]):
                computed.add(tag[1][1])


def _tag(template: str, start: int) -> tuple[list[Token], int]:
    """The tokens of a tag, and where to go on; none where it is no tag. One that is too long ends early."""
    found: list[Token] = []
    at, deep = start, 0
    while match := _TOKEN.match(template, at):
        kind, value = match.lastgroup or "", match[0]
        if kind == "end" and not (deep and "}}" in value):
            return found, match.end()
        if at - start > MAX_TAG:
            return found, at
        if kind == "end":  # of dictionaries in the tag
            value, kind = value[0], "sign"
        at += len(value)
        deep += (value == "{") - (value == "}") if kind == "sign" else 0
        if kind:
            found.append((kind, value))
    return [], max(start, at)


def _unescaped(text: str) -> str:
    """A string of the template as jinja reads it, as far as letters are escaped."""

    def letter(match: re.Match[str]) -> str:
        digits = match[1] or match[2] or match[3]
        number = int(digits, 16) if digits else int(match[4], 8) if match[4] else 0
        return "_" if match[5] else chr(number) if number < 0x110000 else ""

    return _ESCAPE.sub(letter, text)


def _odd_because(tag: list[Token], computed: set[str]) -> str:
    """Why a tag is odd; empty where it is not."""
    if tag[0] in (("name", "include"), ("name", "import"), ("name", "extends"), ("name", "from")):
        return "loads another one"
    for at, (kind, value) in enumerate(tag):
        before, behind = tag[at - 1][1] if at else "", tag[at + 1][1] if at + 1 < len(tag) else ""
        why = ""
        if kind == "name":
            why = _why_name(tag, at, before, behind)
        elif kind == "text":
            why = _why_text(_unescaped(value[1:-1]), value[1:-1])
        elif value == "[" and at and (tag[at - 1][0] in ("name", "text") or before in ")]}"):
            why = _why_index(tag, at, computed)
        if why:
            return why
    return ""


def _why_name(tag: list[Token], at: int, before: str, behind: str) -> str:
    name = tag[at][1]
    if before == "." and (name.startswith("_") or name in ("mro", "format_map", "popen")):
        return "reaches Python's objects"
    if before == "|" and (name == "attr" or tag[at + 1 : at + 3] in ([_OPEN, ("text", t)] for t in _ATTR_TEXTS)):
        return "takes an attribute by name"
    if name.startswith("__") or name.endswith("__"):
        return "reaches Python's objects"
    if before == "|" and name in _ATTRIBUTE_FILTERS and behind == "(" and _odd_argument(tag, at + 2):
        return "takes an attribute by a name that it computes"
    if before != "." and behind != "=":
        if name in _NEVER_NAMED or (name in _GLOBALS and behind in (".", "[", "|", "(")):
            return "" if name == "caller" and behind == "(" else "reaches Python's objects"
        if name in _CALLED and behind in (".", "[", "|"):
            return "reaches Python's objects"
    return ""


def _odd_argument(tag: list[Token], at: int) -> bool:
    """Whether the attribute that a filter is given is anything but a plain text."""
    if at + 1 < len(tag) and tag[at] == ("name", "attribute") and tag[at + 1][1] == "=":
        at += 2
    elif at < len(tag) and tag[at][0] != "text":
        return False
    return at + 1 >= len(tag) or tag[at][0] not in ("text", "number") or tag[at + 1][1] not in (",", ")")


def _why_text(text: str, written: str) -> str:
    if (
        _OWN_NAMES.search(text)
        or re.search(r"^__[a-z]+__$|\{0?\}\{0?\}[a-z]+\{", text)
        or re.search(r"^__[a-zA-Z]|[a-zA-Z]__$|^_[A-Z]\w+__", text)
    ):
        return "spells a name of Python's own objects"
    return "escapes letters that need none" if text != written and re.search(r"[a-zA-Z]*_", text) else ""


def _why_index(tag: list[Token], at: int, computed: set[str]) -> str:
    """What stands between brackets behind a value: a name that is put together."""
    inner: list[Token] = []
    deep = 0
    for kind, value in tag[at + 1 :]:
        deep += (value in "([{") - (value in ")]}") if kind == "sign" else 0
        if deep < 0:
            break
        inner.append((kind, value))
    plain = len(inner) == 1
    if plain and inner[0][1] in computed and inner[0][0] == "name":
        return "takes an item by a name that it computes"
    named = tag[at - 1][0] == "text" and any(kind in ("text", "name") for kind, _ in inner)
    if _computes(inner) or (named and ("sign", ":") not in inner):
        return "takes an item by a name that it computes"
    return ""


def _computes(tokens: list[Token]) -> bool:
    """Whether an expression puts a text together."""
    for at, (kind, value) in enumerate(tokens):
        around = tokens[max(0, at - 1) : at + 2]
        beside_text = any(one[0] == "text" for one in around)
        if value == "~" or (kind == "sign" and value in "+%*" and beside_text):
            return True
        if kind == "name" and value in _COMPUTING and at and tokens[at - 1][1] in ("|", ".") and _has_text(tokens):
            return True
        if value == "[" and at and tokens[at - 1][0] == "text":
            return True
    return False


def _has_text(tokens: list[Token]) -> bool:
    return any(kind == "text" for kind, _ in tokens)
