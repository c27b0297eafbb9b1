"""What a weight file calls its network: the architecture that it names, and its own file name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelprobe.checkpoint.records import Checkpoint, Item


def architecture_words(found: Checkpoint) -> tuple[str, ...]:
    """Words that may be the name of an architecture, what the file says of itself first."""
    return tuple(dict.fromkeys((*_named_in_file(found.tree), *_in_file_name(found.path))))


def _named_in_file(tree: Item) -> Iterator[str]:
    """What the file calls its architecture: `arch`, also among `args`."""
    for item in tree.children:
        if item.key in ("arch", "model_name", "architecture", "model") and isinstance(item.value, str):
            yield item.value
        elif item.key in ("args", "config", "hyper_parameters", "hparams"):
            yield from _named_in_file(item)


def _in_file_name(path: str) -> Iterator[str]:
    """`resnet50` of `resnet50-0676ba61.pth`."""
    stem = Path(path).name.partition(".")[0]
    yield from (stem, stem.rpartition("-")[0], stem.rpartition("_")[0])
