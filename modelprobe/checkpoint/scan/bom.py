"""The files of a scan as a CycloneDX 1.6 bill of materials for machine learning (ML-BOM).

Source: https://cyclonedx.org/docs/1.6/json/. Each file is a component of type `machine-learning-model` with its
SHA-256, format, tensors, parameters and types of numbers, the verdict of the scan, and its network where it is known.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from modelprobe._version import __version__
from modelprobe.checkpoint.answers.scan import ScanResult, worst_of
from modelprobe.checkpoint.answers.summary import WeightsSummary, summarize_weights
from modelprobe.checkpoint.bytes.source import FileSource
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.values.checksums import sha256
from modelprobe.errors import ProbeError

NetworkOf = Callable[[str], Mapping[str, str]]
"""A file -> `target`, `verdict`, and whatever else is said of its network; empty where it is not known."""


def bom(result: ScanResult, network_of: NetworkOf | None = None) -> str:
    """The document. Files that are no weights are of type `data`; `network_of` names the network of a weight file."""
    tool = {"type": "application", "name": "modelprobe", "version": __version__}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": [tool]}},
        "components": [_component(file, result, network_of) for file in result.scanned],
    }
    return json.dumps(document, indent=1) + "\n"


def _component(file: str, result: ScanResult, network_of: NetworkOf | None) -> dict[str, Any]:
    with closing(FileSource(file)) as source:
        digest = sha256(source)
    found_here = [one for one in result.findings if one.file == file]
    told: list[tuple[str, str]] = [("path", Path(file).as_posix()), ("verdict", worst_of(found_here).value)]
    told += [("accepted", f"{one.text}: {one.accepted}") for one in found_here if one.accepted]
    component: dict[str, Any] = {
        "type": "data",
        "bom-ref": f"sha256:{digest}:{file}",
        "name": Path(file).name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    network: Mapping[str, str] = {}
    try:
        told += _told_of(summarize_weights(open_checkpoint(file)))
        component["type"] = "machine-learning-model"
        network = network_of(file) if network_of is not None else {}
    except ProbeError:
        pass  # a file that holds no weights: what is said of its bytes remains
    told += [(f"network:{key}", value) for key, value in network.items()]
    if network:
        component["modelCard"] = {"modelParameters": {"modelArchitecture": network["target"]}}
    component["properties"] = [{"name": f"modelprobe:{key}", "value": value} for key, value in told]
    return component


def _told_of(found: WeightsSummary) -> Iterator[tuple[str, str]]:
    """What a weight file holds: the elements of its weights by role, and their types of numbers."""
    yield "format", found.format
    yield "tensors", str(found.tensors)
    yield "parameters", str(found.parameters + found.undecided)
    if found.undecided:
        yield "parameters of unknown role", str(found.undecided)
    if found.buffers:
        yield "buffers", str(found.buffers)
    if found.dtypes:
        yield "dtypes", ", ".join(sorted(share.dtype for share in found.dtypes))
