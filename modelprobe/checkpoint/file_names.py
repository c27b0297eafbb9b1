"""Does what was typed name a weight file rather than a model? Told by its spelling and a look at the disk."""

from __future__ import annotations

from pathlib import Path

WEIGHT_SUFFIXES = frozenset(
    ".pth .pt .th .pkl .bin .ckpt .safetensors .onnx .gguf .npz .npy .h5 .pt2 .ptl .tar .msgpack .tflite .model "
    ".distcp .pdparams".split()
)

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
    if spec.lower().endswith(".index.json") or Path(spec).suffix.lower() in WEIGHT_SUFFIXES:
        return ":" not in spec or _path_exists(spec)
    return ("/" in spec or "\\" in spec or "." in spec) and _path_exists(spec)


def _path_exists(spec: str) -> bool:
    try:
        return Path(spec).expanduser().exists()
    except OSError:  # a name that is too long, say
        return False
