"""The files of a scan as a CycloneDX 1.6 bill of materials for machine learning (ML-BOM).

Source: https://cyclonedx.org/docs/1.6/json/. Each file is a component of type `machine-learning-model` with its
SHA-256, format, tensors, parameters and types of numbers, and the verdict of the scan.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from modelprobe._version import __version__
from modelprobe.checkpoint.answers.scan import FROM_HARMLESS, ScanResult
from modelprobe.checkpoint.bytes.source import FileSource
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.pickle.globals import Trust
from modelprobe.checkpoint.values.checksums import sha256
from modelprobe.errors import ProbeError


def bom(result: ScanResult) -> str:
    """The document. Files that are no weights are of type `data`."""
    tool = {"type": "application", "name": "modelprobe", "version": __version__}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"tools": {"components": [tool]}},
        "components": [_component(file, result) for file in result.scanned],
    }
    return json.dumps(document, indent=1) + "\n"


def _component(file: str, result: ScanResult) -> dict[str, Any]:
    with closing(FileSource(file)) as source:
        digest = sha256(source)
    verdicts = [one.trust for one in result.imports if one.file == file]
    verdicts += [one.trust for one in result.problems if one.file == file]
    told = {"verdict": max(verdicts, key=FROM_HARMLESS.index, default=Trust.HARMLESS).value}
    kind = "machine-learning-model"
    try:
        found = open_checkpoint(file)
        elements = {(entry.storage, entry.offset, entry.shape): entry.numel for entry in found.tensors}
        dtypes = sorted({entry.dtype for entry in found.tensors})
        told |= {"format": found.format, "tensors": str(len(found.tensors)), "parameters": str(sum(elements.values()))}
        told |= {"dtypes": ", ".join(dtypes)} if dtypes else {}
    except ProbeError:
        kind = "data"
    component: dict[str, Any] = {"type": kind, "bom-ref": f"sha256:{digest}:{file}", "name": Path(file).name}
    component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    component["properties"] = [
        {"name": "modelprobe:path", "value": Path(file).as_posix()},
        *({"name": f"modelprobe:{key}", "value": value} for key, value in told.items()),
    ]
    return component
