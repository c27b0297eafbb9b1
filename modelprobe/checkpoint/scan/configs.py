"""Configurations (YAML, JSON) that name what a loader imports or calls, judged as the names in a pickle are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from modelprobe.checkpoint.pickle.globals import (
    EVALUATE,
    NATIVE,
    RUN,
    SENSITIVE_MODULES,
    UNPICKLE,
    Trust,
    TrustVerdict,
    judged,
)

ConfigFinding = tuple[Trust, str]

_DOTTED = rb"([A-Za-z_]\w*(?:[.:]\w+)+)"
_YAML_EXTRAS = rb"""(?:[|>][-+\d]*\s+|!!?\w*\s+|&\w+\s+)*["']?"""
TARGET = re.compile(rb"""["']?\b(_target_|class_path|_component_)["']?\s*[:=]\s*""" + _YAML_EXTRAS + _DOTTED)
"""Keys of Hydra, Lightning, torchtune and others whose value is imported and called."""

ANY_KEY = re.compile(
    rb"""["']?\b(target|type|func|function|callable|object|obj|name|cls|class)["']?\s*:\s*["']?""" + _DOTTED
)
"""Keys that also name other things: of these only what is known to run something counts."""

PAIRS = tuple(
    re.compile(rb'"%b"\s*:\s*"([A-Za-z_][\w.]*)"[^{}]{0,300}"%b"\s*:\s*"([\w.]*)"' % (first, second))
    for first, second in (
        *((b"module", b"class_name"), (b"class_name", b"module")),
        *((b"__module__", b"__class__"), (b"__class__", b"__module__")),
    )
)
"""A module and a name in it, of Keras 3 and skops, in either order."""

KERAS_CODE = re.compile(
    rb'"class_name"\s*:\s*"(Lambda|TFOpLambda|SlicingOpLambda|__lambda__|TFSMLayer|TorchModuleWrapper|get_file)"'
)
"""Layers and functions of Keras that are code, load it, or name a function that loading calls."""

_FUNCTION = re.compile(rb'[^{}]{0,200}?"config"\s*:\s*"(\w+)"')
"""The name of a function, which Keras puts there."""

AUTO_MAP = re.compile(rb'"(auto_map|custom_pipelines)"\s*:\s*\{')
_YAML_TAG = re.compile(rb"!(?:<[^>\n]{1,200}>|[^\s,\[\]{}\"'<]{1,200})")
_TAG_PREFIX = re.compile(rb"^%TAG[ \t]+\S+[ \t]+(\S+)", re.MULTILINE)
_PYTHON_TAG = re.compile(r"python/(object/apply|object/new|object|name|module)[:/]?([\w.]*)")
_ESCAPED = re.compile(rb"\\+(?:x|u00)([2-7][0-9a-fA-F])")
_NO_TAG = b"tag:yaml.org,2002:"


def configured(window: bytes) -> Iterator[ConfigFinding]:
    """What a text names that could do harm."""
    text = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), window) if b"\\" in window else window
    text = re.sub(rb'\\+"', b'"', text) if b'\\"' in text else text
    yield from _keras(text)
    yield from _yaml_tags(text)
    for match in TARGET.finditer(text):
        yield from _judged_name(match[2].decode("latin-1"), match[1].decode())
    for match in ANY_KEY.finditer(text):
        if re.split(rb"[.:]", match[2])[0].decode("latin-1") in SENSITIVE_MODULES:
            yield from _judged_name(match[2].decode("latin-1"), match[1].decode())
    if (custom := AUTO_MAP.search(text)) is not None:
        yield (
            Trust.SUSPICIOUS,
            f"{custom[1].decode()}: loading with trust_remote_code runs Python code of the repository",
        )


def _keras(text: bytes) -> Iterator[ConfigFinding]:
    found = KERAS_CODE.search(text)
    if found is not None:
        yield Trust.SUSPICIOUS, f"{found[1].decode()} of Keras: code, or the name of a function, that loading runs"
    for at, pattern in enumerate(PAIRS):
        for match in pattern.finditer(text):
            module, name = (match[2], match[1]) if at % 2 else (match[1], match[2])
            if name == b"function" and (called := _FUNCTION.match(text, match.end())) is not None:
                name = called[1]
            yield from _judged_name(f"{module.decode('latin-1')}.{name.decode('latin-1')}", "module and class")


def _judged_name(spelled: str, key: str) -> Iterator[ConfigFinding]:
    module, _, name = spelled.replace(":", ".").rpartition(".")
    verdict = _config_verdict(module, name)
    if verdict.trust in (Trust.SUSPICIOUS, Trust.DANGEROUS):
        yield verdict.trust, f"a configuration names {spelled} ({key}): {verdict.reason}"


def _config_verdict(module: str, name: str) -> TrustVerdict:
    """As of a call in a pickle; a configuration may well name a function of torch or numpy, and their data sets."""
    verdict = judged(module, name, called=True)
    if module.partition(".")[0] not in ("torch", "numpy"):
        return verdict
    harmless = verdict.reason not in (RUN, EVALUATE, NATIVE, UNPICKLE) or module.startswith("torch.utils.data")
    return TrustVerdict(Trust.HARMLESS) if harmless else verdict


def _yaml_tags(text: bytes) -> Iterator[ConfigFinding]:
    """Tags with which YAML makes Python's objects; a directive may give their prefix another name."""
    for match in _TAG_PREFIX.finditer(text):
        prefix = unquote(match[1].decode("latin-1"))
        if prefix.startswith(_NO_TAG.decode()):
            python = prefix != _NO_TAG.decode()
            yield Trust.DANGEROUS if python else Trust.SUSPICIOUS, f"YAML gives the prefix {prefix} another name"
    if b"!" not in text or not (b"python" in text or b"%" in text):
        return
    for match in _YAML_TAG.finditer(text):
        found = _PYTHON_TAG.search(unquote(match[0].decode("latin-1")))
        if found is not None:
            module, _, name = found[2].rpartition(".")
            verdict = judged(module, name, called=True)
            if found[1] == "module" or verdict.trust is not Trust.HARMLESS:
                reason = verdict.reason or "imports and calls what it names"
                yield Trust.DANGEROUS, f"a YAML tag, python/{found[1]}:{found[2]}: {reason}"
