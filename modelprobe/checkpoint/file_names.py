"""What files of weights are called: the suffixes that are read and written, and whether a text names such a file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from modelprobe.errors import BadInput

Format = Literal["safetensors", "pt"]
SAVE_FORMATS: tuple[Format, ...] = ("safetensors", "pt")
SAVE_SUFFIXES: dict[str, Format] = {
    ".safetensors": "safetensors",
    ".pt": "pt",
    ".pth": "pt",
    ".bin": "pt",
    ".ckpt": "pt",
    ".th": "pt",
}
"""The format that a file of weights is written in, by its suffix."""

READ_SUFFIXES = (*SAVE_SUFFIXES, ".pkl", ".onnx", ".gguf", ".npz", ".pt2")
"""What is looked for in a directory."""

WEIGHT_SUFFIXES = frozenset(
    (*READ_SUFFIXES, ".npy", ".h5", ".ptl", ".tar", ".msgpack", ".tflite", ".model", ".distcp", ".pdparams")
)
"""What makes a text the name of a weight file: formats that are refused with a hint, too."""

SCHEMES = ("https://", "http://", "s3://", "gs://", "gcs://", "hf://")
"""Addresses of files that are elsewhere."""


def names_weights(spec: str) -> bool:
    """Whether `spec` is the address, or the path, of a weight file or checkpoint directory.

    A bare word is a model even where a file of that name lies about: `./resnet50` names the file. So is `net.py`,
    and `file.py:Net`. A path with a weight file's suffix is one whether it exists or not.
    """
    if spec.startswith(SCHEMES):
        return True
    if ".py:" in spec or spec.endswith(".py") or "\0" in spec:
        return False
    if spec.endswith(".json") and not spec.lower().endswith(".index.json"):
        return False  # a configuration
    if spec.lower().endswith(".index.json") or Path(spec).suffix.lower() in WEIGHT_SUFFIXES:
        return ":" not in spec or _path_exists(spec)
    return ("/" in spec or "\\" in spec or "." in spec) and _path_exists(spec)


def _path_exists(spec: str) -> bool:
    try:
        return Path(spec).expanduser().exists()
    except OSError:  # a name that is too long, say
        return False


def format_of(path: Path, asked: str | None) -> Format:
    """The format asked for, else the one the suffix means. Raises BadInput when neither tells."""
    for known in SAVE_FORMATS:
        if asked == known:
            return known
    if asked is not None:
        raise BadInput(f"unknown format {asked!r}", f"choose one of {', '.join(SAVE_FORMATS)}")
    found = SAVE_SUFFIXES.get(path.suffix.lower())
    if found is None:
        known_suffixes = ", ".join(SAVE_SUFFIXES)
        raise BadInput(f"the name {path.name} tells no format", f"end it in {known_suffixes}, or add --to safetensors")
    return found
