"""Class labels: torchvision's categories, timm's ImageNet tables, a file, or "class 3"."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelprobe.errors import BadInput, one_line
from modelprobe.model.sources import ZooSource
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo.names import TORCHVISION
from modelprobe.vision.preprocessing.lookup import data_config

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.model.target import Target

LARGEST_FILE = 16 * 2**20


@dataclass(frozen=True)
class Labels:
    """The names of classes, by index; empty where none are known. `source` says whose names they are."""

    names: tuple[str, ...] = ()
    source: str = ""

    def of(self, index: int) -> str:
        """The name of a class; `class 3` where it has none."""
        named = self.names[index] if 0 <= index < len(self.names) else ""
        return named or f"class {index}"

    def for_classes(self, count: int) -> Labels:
        """The same for a model of `count` classes: names that are not as many are nobody's names."""
        return self if len(self.names) in (0, count) else Labels()

    def find(self, text: str) -> int:
        """The class that `text` names: an index, a whole name (case aside), or a part of exactly one name.

        Of names such as `tench, Tinca tinca` each part between commas is a whole name. Raises BadInput for none, with
        the nearest, and for several, with their indices.
        """
        wanted = " ".join(text.split()).casefold()
        if wanted.removeprefix("class ").isdecimal():
            return int(wanted.removeprefix("class "))
        known = [" ".join(name.split()).casefold() for name in self.names]
        for matches in (
            lambda name: name == wanted,
            lambda name: wanted in [part.strip() for part in name.split(",")],
            lambda name: wanted in name,
        ):
            hits = [index for index, name in enumerate(known) if name and wanted and matches(name)]
            if len(hits) == 1:
                return hits[0]
            if hits:
                listed = ", ".join(f"{index} ({self.names[index]})" for index in hits[:4])
                more = f" and {len(hits) - 4} more" if len(hits) > 4 else ""
                raise BadInput(f"{text!r} names {len(hits)} classes: {listed}{more}", "give the index of one")
        raise BadInput(f"no class is called {text!r}", self._nearest(wanted))

    def _nearest(self, wanted: str) -> str:
        if not self.names:
            return "this model's classes have no names: give an index, or the names with --labels FILE"
        parts = {part.strip().casefold(): part.strip() for name in self.names for part in name.split(",")}
        close = [parts[key] for key in get_close_matches(wanted, parts, n=4, cutoff=0.55)]
        return f"nearest: {', '.join(close)}" if close else "give an index; `modelprobe predict` shows names"


def labels_of(target: Target, model: nn.Module, weights: Any = None, file: Path | None = None) -> Labels:
    """The class names from `file` if one is given, else those that the model's library publishes.

    `weights` is torchvision's entry in use, without it the DEFAULT one. Raises BadInput for a file that is no list.
    """
    if file is not None:
        return Labels(read_labels(file), str(file))
    if isinstance(target.source, ZooSource) and target.source.library == TORCHVISION:
        weights = weights if weights is not None else libraries.default_weights(target.source.name)
        categories = weights.meta.get("categories") if weights is not None else None
        return Labels(tuple(categories), f"the categories of {weights}") if categories else Labels()
    named = getattr(getattr(model, "config", None), "id2label", None)
    if isinstance(named, Mapping) and not all(str(name).startswith("LABEL_") for name in named.values()):
        names = tuple(str(named.get(index, named.get(str(index), ""))) for index in range(len(named)))
        return Labels(names, "id2label of its config")
    cfg = data_config(model)
    return _labels_of_config(cfg, isinstance(target.source, ZooSource)) if cfg is not None else Labels()


def _labels_of_config(cfg: Mapping[str, Any], zoo: bool) -> Labels:
    """The names that a data config carries, else the subset of ImageNet that has as many classes."""
    given = cfg.get("label_names")
    if given:
        described = cfg.get("label_descriptions")
        names = described if isinstance(described, (list, tuple)) else given
        names = [described.get(name, name) for name in given] if isinstance(described, Mapping) else names
        return Labels(tuple(str(name) for name in names), "its data config")
    if not zoo:
        return Labels()  # a module of one's own with 1000 classes need not know ImageNet's
    libraries.timm()
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(dict(cfg))
    if subset is None:
        return Labels()
    return Labels(tuple(ImageNetInfo(subset).label_descriptions()), f"timm's names of {subset}")


def read_labels(path: Path) -> tuple[str, ...]:
    """The names in a file: one on each line, or JSON (a list, or an object from index to name, or to `[id, name]`)."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"--labels {path} is larger than {LARGEST_FILE // 2**20} MiB", "one name on each line")
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"--labels {path} cannot be read: {one_line(error)}", "one name on each line, or JSON"
        ) from error
    if path.suffix.lower() == ".json":
        names = _of_json(text, path)
    else:
        names = [line.strip() for line in text.rstrip().splitlines()]
    if not names:
        raise BadInput(f"--labels {path} holds no names", "one name on each line, or JSON")
    return tuple(names)


def _of_json(text: str, path: Path) -> list[str]:
    shape = 'a list of names, or {"0": "cat", …}'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--labels {path} is no JSON: {one_line(error)}", shape) from error
    if isinstance(found, dict):
        if not all(key.isdecimal() and int(key[:7]) < 10**6 for key in found):
            raise BadInput(f"--labels {path}: its keys are not indices", shape)
        by_index = {int(key[:7]): value for key, value in found.items()}
        found = [by_index.get(index, "") for index in range(max(by_index, default=-1) + 1)]
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise BadInput(f"--labels {path} is neither a list nor an object", shape)
    return [_label_text(item) for item in found]


def _label_text(item: Any) -> str:
    """`"cat"`, or the last of `["n02123045", "tabby"]` as the well-known file of ImageNet's classes has it."""
    return str(item[-1] if isinstance(item, list) and item else item)
