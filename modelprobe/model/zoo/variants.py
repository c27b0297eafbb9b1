"""The namings under which a weight file is compared with the index: without wrappers, of a published code base."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelprobe.checkpoint.keys.name_tree import leading
from modelprobe.checkpoint.keys.schemes import NAMING_SCHEMES
from modelprobe.checkpoint.wrappers import CERTAIN_WRAPPERS, HINTED
from modelprobe.model.zoo.fingerprint import NamedShapes, TensorShape

PARTIAL = ("module", "model", "net", "network", "backbone", "encoder", *HINTED)
"""Segments that may stand before some of the names alone."""

MAX_STRIPPED = 3


@dataclass(frozen=True, slots=True)
class NamingVariant:
    """The names of a file without what wrappers put there, or in the library's naming; `how` says what was done."""

    names: NamedShapes
    how: tuple[str, ...] = ()
    prefix: str = ""
    scheme: str = ""


def naming_variants(names: NamedShapes) -> Iterator[NamingVariant]:
    """The names as they are, then without wrappers, then in the library's naming of a published code base."""
    plain = _without_wrappers(names)
    variants = [plain, *_stripped(plain)]
    for variant in variants:
        yield variant
    for variant in variants:
        for scheme in NAMING_SCHEMES:
            renamed = scheme.renamed(list(variant.names))
            if renamed:
                moved = {renamed.get(name, name): shape for name, shape in variant.names.items()}
                how = (*variant.how, f"names of {scheme.name}")
                yield NamingVariant(_joined_projections(moved), how, variant.prefix, scheme.name)


def _without_wrappers(names: NamedShapes) -> NamingVariant:
    """Without the segments that only wrappers put into names."""
    found = {
        ".".join(part for part in name.split(".") if part not in CERTAIN_WRAPPERS): shape
        for name, shape in names.items()
    }
    if len(found) < len(names) or found.keys() == names.keys():
        return NamingVariant(dict(names))
    gone = [f"{why} (`{part}.`)" for part, why in CERTAIN_WRAPPERS.items() if any(f"{part}." in name for name in names)]
    return NamingVariant(found, tuple(gone))


def _stripped(variant: NamingVariant) -> Iterator[NamingVariant]:
    """Without one leading segment more each time; of several, without each that a wrapper may have put there."""
    for _ in range(MAX_STRIPPED):
        segment = leading(variant.names)
        if not segment:
            break
        kept = {name[len(segment) + 1 :]: shape for name, shape in variant.names.items()}
        how = "DataParallel prefix `module.`" if segment == "module" else f"prefix `{segment}.`"
        variant = NamingVariant(kept, (*variant.how, how), f"{variant.prefix}{segment}.")
        yield variant
    counts = Counter(name.split(".", 1)[0] for name in variant.names if "." in name)
    for segment in dict.fromkeys(PARTIAL):
        if 2 * counts[segment] > len(variant.names):
            start = f"{segment}."
            kept = {name.removeprefix(start): shape for name, shape in variant.names.items()}
            if len(kept) == len(variant.names):
                yield NamingVariant(kept, (*variant.how, f"prefix `{start}` of some names"), variant.prefix + start)


def _joined_projections(names: Mapping[str, TensorShape]) -> dict[str, TensorShape]:
    """Query, key and value as the one projection that timm has."""
    found: dict[str, TensorShape] = {}
    for name, shape in names.items():
        match = re.fullmatch(r"(.*\.attn)\.(query|key|value)\.(weight|bias)", name)
        if match is None:
            found[name] = shape
        elif match[2] == "query":
            found[f"{match[1]}.qkv.{match[3]}"] = (3 * shape[0], *shape[1:])
    return found
