"""Configurations (YAML, JSON) that name what a loader imports or calls, judged as the names in a pickle are."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from urllib.parse import unquote

from modelprobe.checkpoint.pickle.abilities import CONNECT, EVALUATE, MODULES, NATIVE, RUN, UNPICKLE, WRITE, owner_of
from modelprobe.checkpoint.pickle.arguments import SENSITIVE_MODULES
from modelprobe.checkpoint.pickle.globals import Trust, TrustVerdict, judged

ConfigFinding = tuple[Trust, str]

_DOTTED = rb"([A-Za-z_]\w*(?:[.:]\w+)+)"
_YAML_EXTRAS = rb"""(?:[|>][-+\d]*\s+|!!?\w*\s+|&\w+\s+)*["']?"""
TARGET = re.compile(rb"""\b(_target_|class_path|_component_)["']?\s*[:=]\s*""" + _YAML_EXTRAS + _DOTTED)
"""Keys of Hydra, Lightning, torchtune and others whose value is imported and called."""

ANY_KEY = re.compile(
    rb"""\b(target|type|func|function|callable|object|obj|name|cls|class)["']?\s*:\s*["']?""" + _DOTTED
)
"""Keys that also name other things: of these only what is known to run something counts."""

_MODULE_KEY, _NAME_KEY = rb"\w*module\w*", rb"class_name|__class__|class|function|func|name|qualname|attr"
PAIRS = (
    re.compile(
        rb'"(?P<key>%b)"\s*:\s*"(?P<module>[A-Za-z_][\w.]*)"[^{}]{0,300}?"(?:%b)"\s*:\s*"(?P<name>[\w.]*)"'
        % (_MODULE_KEY, _NAME_KEY)
    ),
    re.compile(
        rb'"(?:%b)"\s*:\s*"(?P<name>[\w.]*)"[^{}]{0,300}?"(?P<key>%b)"\s*:\s*"(?P<module>[A-Za-z_][\w.]*)"'
        % (_NAME_KEY, _MODULE_KEY)
    ),
)
"""A module and a name in it, of Keras 3 and skops, in either order."""

OWN_KEYS = (b"module", b"__module__", b"module_path")
"""Theirs; under other keys only what is known to run something counts."""

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
_HARMLESS_CALLS = re.compile(
    r"os\.(path\.\w+|getenv|cpu_count|environ\.get|getcwd)|multiprocessing\.cpu_count|json\.loads?|yaml\.safe_load|"
    r"torch\.compile|asyncio\.\w+Error|hydra\._internal\.core_plugins\.\w+\.Basic\w+"
)
"""Of modules whose other functions are dangerous."""

_ESCAPED = re.compile(rb"\\+(?:x|u00)([2-7][0-9a-fA-F])")
_SENSITIVE_NAMES = tuple(f"{name}{dot}".encode() for name in SENSITIVE_MODULES for dot in ".:")
_NO_TAG = b"tag:yaml.org,2002:"


def configured(window: bytes) -> Iterator[ConfigFinding]:
    """What a text names that could do harm."""
    text = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), window) if b"\\" in window else window
    text = re.sub(rb'\\+"', b'"', text) if b'\\"' in text else text
    if b"class" in text or b"module" in text:
        yield from _keras(text)
    yield from _yaml_tags(text)
    targets = any(key in text for key in (b"_target_", b"class_path", b"_component_"))
    for match in TARGET.finditer(text) if targets else ():
        yield from _judged_name(match[2].decode("latin-1"), match[1].decode())
    for match in ANY_KEY.finditer(text) if any(name in text for name in _SENSITIVE_NAMES) else ():
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
    for match in (one for pattern in PAIRS for one in pattern.finditer(text)):
        module, name = match["module"].decode("latin-1"), match["name"].decode("latin-1")
        if name == "function" and (called := _FUNCTION.match(text, match.end())) is not None:
            name = called[1].decode("latin-1")
        if match["key"] in OWN_KEYS or module.partition(".")[0] in SENSITIVE_MODULES:
            yield from _judged_name(f"{module}.{name}", "module and class")


def _judged_name(spelled: str, key: str) -> Iterator[ConfigFinding]:
    module, _, name = spelled.replace(":", ".").rpartition(".")
    verdict = _config_verdict(module, name)
    if verdict.trust in (Trust.SUSPICIOUS, Trust.DANGEROUS):
        yield verdict.trust, f"a configuration names {spelled} ({key}): {verdict.reason}"


def _config_verdict(module: str, name: str) -> TrustVerdict:
    """As of a call in a pickle; but a configuration may well name what reads data, and functions that only compute."""
    verdict = judged(module, name, called=True)
    owner = owner_of(module)
    if _HARMLESS_CALLS.fullmatch(f"{module}.{name}") or (verdict.trust is Trust.SUSPICIOUS and _reads(name, verdict)):
        return TrustVerdict(Trust.HARMLESS)
    if owner in ("torch", "numpy"):
        harmless = verdict.reason not in (RUN, EVALUATE, NATIVE, UNPICKLE) or module.startswith("torch.utils.data")
        return TrustVerdict(Trust.HARMLESS) if harmless else verdict
    if verdict.trust is Trust.DANGEROUS and owner not in (*sys.stdlib_module_names, *MODULES):
        return TrustVerdict(Trust.SUSPICIOUS, verdict.reason)  # by its name alone
    return verdict


def _reads(name: str, verdict: TrustVerdict) -> bool:
    reads = verdict.reason in (UNPICKLE, CONNECT, WRITE) and "pickle" not in name
    return reads or verdict.reason.endswith("is called")


def _yaml_tags(text: bytes) -> Iterator[ConfigFinding]:
    """Tags with which YAML makes Python's objects; a directive may give their prefix another name."""
    for match in _TAG_PREFIX.finditer(text) if b"%TAG" in text else ():
        prefix = unquote(match[1].decode("latin-1"))
        if prefix.startswith(_NO_TAG.decode()):
            python = prefix != _NO_TAG.decode()
            yield Trust.DANGEROUS if python else Trust.SUSPICIOUS, f"YAML gives the prefix {prefix} another name"
    if b"!" not in text or not (b"python" in text or b"%" in text):
        return
    for match in _YAML_TAG.finditer(text):
        tagged = b"python" in match[0] or b"%" in match[0]
        found = _PYTHON_TAG.search(unquote(match[0].decode("latin-1"))) if tagged else None
        if found is not None:
            module, _, name = found[2].rpartition(".")
            verdict = judged(module, name, called=True)
            if found[1] == "module" or verdict.trust is not Trust.HARMLESS:
                reason = verdict.reason or "imports and calls what it names"
                yield Trust.DANGEROUS, f"a YAML tag, python/{found[1]}:{found[2]}: {reason}"
