"""Names of all torchvision and timm architectures, read from their sources, so that neither is imported."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

TORCHVISION = "torchvision"
TIMM = "timm"

# `@register_model`, `@register_model()` or `@register_model(name="quantized_resnet18")`, then a `def`.
_REGISTERED = re.compile(
    r"""^@register_model\b(?:\(\s*(?:name\s*=\s*)?(?:["'](?P<alias>[^"']+)["'])?[^)]*\))?[^\n]*\n"""
    r"""(?:(?!def\ ).*\n)*?def\ (?P<name>\w+)""",
    re.MULTILINE | re.VERBOSE,
)
_DEPRECATIONS = re.compile(r"^register_model_deprecations\(__name__,\s*\{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_RENAMING = re.compile(r"""["'](?P<old>[\w.]+)["']\s*:\s*(?:["'](?P<new>[\w.]+)["']|None)""")


@dataclass(frozen=True, slots=True)
class Zoo:
    """The names of both zoos, each sorted as its own `list_models()` sorts them."""

    torchvision: tuple[str, ...]
    timm: tuple[str, ...]
    renamed: Mapping[str, str | None]
    """timm's deprecated names: the current `arch.tag` of each, or None where it was removed."""

    def origins(self, name: str) -> tuple[str, ...]:
        """The libraries that know `name` (without a pretrained tag), torchvision first."""
        known = ((TORCHVISION, self.torchvision), (TIMM, self.timm))
        return tuple(library for library, names in known if name in names)


@dataclass(frozen=True, slots=True)
class ZooName:
    """One name and the libraries that know it."""

    name: str
    origins: tuple[str, ...]


@functools.cache
def zoo_names() -> Zoo:
    """Every name of both zoos as installed here. A library that is not installed contributes none."""
    torchvision = {name for text in _sources(TORCHVISION) for name in _registered(text)}
    timm: set[str] = set()
    renamed: dict[str, str | None] = {}
    for text in _sources(TIMM):
        timm.update(_registered(text))
        for block in _found_at("\nregister_model_deprecations(", _DEPRECATIONS, text):
            renamed.update((match["old"], match["new"]) for match in _RENAMING.finditer(block[1]))
    return Zoo(
        tuple(sorted(torchvision)),
        tuple(sorted(timm - renamed.keys(), key=natural)),
        MappingProxyType(renamed),
    )


def installed(library: str) -> bool:
    """Whether `library` can be found, without importing it."""
    return _package_directory(library) is not None


def find(pattern: str = "", origin: str = "") -> tuple[ZooName, ...]:
    """The names that match `pattern`: a wildcard when it has one of `*?[`, else a part of the name."""
    zoo = zoo_names()
    wild = any(character in pattern for character in "*?[")
    wanted = pattern.lower() if wild else f"*{pattern.lower()}*"
    names = sorted({*zoo.torchvision, *zoo.timm}, key=natural)
    found = (ZooName(name, zoo.origins(name)) for name in names if fnmatch.fnmatchcase(name.lower(), wanted))
    return tuple(entry for entry in found if not origin or origin in entry.origins)


def find_targets(pattern: str = "") -> list[tuple[str, str]]:
    """Name and library of what `pattern` matches as in `find`; `timm:resnet*` asks one library alone."""
    library, colon, rest = pattern.partition(":")
    if colon and library in (TORCHVISION, TIMM):
        return [(entry.name, library) for entry in find(rest, library)]
    return [(entry.name, origin) for entry in find(pattern) for origin in entry.origins]


def nearest(name: str, count: int = 5, origin: str = "") -> tuple[str, ...]:
    """The names that a person who typed `name` may have meant, best first.

    Case and separators are ignored first (`ResNet-50`, `vit-b-16`, `efficientnet b0`), then spelling is compared.
    """
    zoo = zoo_names()
    wanted = squeezed(name)
    candidates: dict[str, list[str]] = {}
    for known in (*zoo.torchvision, *zoo.timm):
        if not origin or origin in zoo.origins(known):
            spellings = candidates.setdefault(squeezed(known), [])
            if known not in spellings:
                spellings.append(known)
    close = difflib.get_close_matches(wanted, candidates, n=count, cutoff=0.6)
    longer = sorted((key for key in candidates if wanted and key.startswith(wanted)), key=lambda key: (len(key), key))
    keys = dict.fromkeys([*([wanted] if wanted in candidates else []), *close[:2], *longer, *close])
    return tuple(known for key in keys for known in candidates[key])[:count]


def squeezed(name: str) -> str:
    """`name` in lower case, letters and digits alone: how names are compared."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def natural(name: str) -> list[int | str]:
    """The key that sorts `b2` before `b10`, as timm does."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]


def _registered(text: str) -> Iterator[str]:
    for match in _found_at("\n@register_model", _REGISTERED, text):
        yield match["alias"] or match["name"]


def _found_at(start: str, pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """The matches of a pattern behind each line break of `start`: eight times as fast as to try it at every line."""
    text = f"\n{text}"
    at = text.find(start)
    while at >= 0:
        match = pattern.match(text, at + 1)
        if match is not None:
            yield match
        at = text.find(start, at + 1)


def _sources(library: str) -> Iterator[str]:
    folder = _package_directory(library)
    if folder is not None:
        for path in sorted((folder / "models").rglob("*.py")):
            text = path.read_text(encoding="utf-8", errors="replace")
            if "register_model" in text:
                yield text


def _package_directory(library: str) -> Path | None:
    try:
        # Of a top-level name this reads the file system alone and runs no code of the package.
        spec = importlib.util.find_spec(library)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None
