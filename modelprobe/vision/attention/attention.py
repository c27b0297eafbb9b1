"""Attention maps of images: attention followed, heads and blocks chosen, maps drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modelprobe.errors import BadInput
from modelprobe.files.directory import Folder
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.attention.maps import (
    Attention,
    Query,
    attentions,
    check_heads,
    chosen_attentions,
    of_image,
    query_of,
    rollout,
    weights_of_query,
)
from modelprobe.vision.attention.result import (
    MEAN_HEAD,
    ROLLOUT,
    AttentionBlock,
    AttentionEntry,
    AttentionMaps,
    AttentionResult,
    attention_panels,
    block_of,
    draw_attention,
    entries_of,
    uniform_notes,
)
from modelprobe.vision.cam.layout import lay_out
from modelprobe.vision.gallery import sections_of, write_pages
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.pictures.colour import colour_map
from modelprobe.vision.together import Together
from modelprobe.vision.walk import Command, ImagePlace, Shown, Walked, joined, revived, walk_images


@dataclass(frozen=True)
class AttentionOptions:
    """What the command line said. `heads` None is all of them and their mean; an empty tuple the mean alone."""

    blocks: tuple[str, ...] = ()
    heads: tuple[int, ...] | None = None
    mean: bool = True
    query: Query | None = None
    rollout: bool = False
    listed: bool = False
    cmap: str = "viridis"


def heads_of(text: str | None) -> tuple[tuple[int, ...] | None, bool]:
    """The heads that `--heads` names and whether their mean is wanted. Raises BadInput for anything else."""
    if text is None or text.strip() == "all":
        return None, True
    words = [word.strip() for word in text.split(",") if word.strip()]
    numbers = [word for word in words if word != MEAN_HEAD]
    if not words or not all(word.isdecimal() for word in numbers):
        raise BadInput(f"--heads {text!r} names no heads", "numbers from 0, mean, or all: --heads 0,3,mean")
    return tuple(dict.fromkeys(map(int, numbers))), len(numbers) < len(words)


def attention_of_files(
    request: ImageModelRequest,
    asked: AttentionOptions,
    images: Sequence[str],
    path: Path | None = None,
    force: bool = False,
) -> AttentionResult:
    """The maps of the images that these paths, directories and wildcards name, written to `path` if one is given."""
    colour_map(asked.cmap)  # a mistake in it is told before anything is computed
    files = [] if asked.listed and not images else request.find_files(images)
    folder = None if asked.listed else request.folder("attention", vars(asked), path, force)
    model = load_image_model(request)
    run = AttentionRun(model, asked)
    return run.result(walk_images(model, [*files, *model.own_files], run, folder), folder)


class AttentionRun(Command[tuple[AttentionEntry, ...]]):
    """The attention maps of images, one batch after the other."""

    entry = AttentionEntry

    def __init__(self, model: ImageModel, asked: AttentionOptions) -> None:
        self.model, self._asked = model, asked
        self._blocks: tuple[AttentionBlock, ...] = ()
        self._remarks: dict[Note, None] = {}
        self._together = Together()

    def look(self, batch: Sequence[Shown]) -> list[tuple[Attention, ...]]:
        """The attentions of each image."""
        found = self._attentions(joined(batch))
        if len(batch) > 1:
            last = [attentions[-1].weights() for attentions in found]
            self._together.check(batch, last, lambda one: self._attentions(one.arguments)[0][-1].weights())
        return found

    def _attentions(self, arguments: Any) -> list[tuple[Attention, ...]]:
        return attentions_of(self.model.model, self.model.image(arguments, "attention"), self.model.name)

    def keep(self, shown: Shown, found: tuple[Attention, ...], place: ImagePlace) -> tuple[AttentionEntry, ...]:
        """The maps of one image, drawn and stored where there is a directory."""
        self._blocks = tuple(map(block_of, found))
        if self._asked.listed:
            return ()
        maps, said = attention_maps_of(found, self._asked)
        self._remarks.update(dict.fromkeys(said))
        entries: list[AttentionEntry] = []
        arrays: dict[str, Any] = {}
        for item in maps:
            made = entries_of(shown.photo.path.name, item)
            if place.folder is not None:
                frames = self.model.preprocessing.seen_frames(shown.photo) if item.frames > 1 else (shown.seen,)
                made = draw_attention(frames, item, made, place, self._asked.cmap)
                arrays |= {entry.array: values.numpy() for entry, values in zip(made, item.maps, strict=True)}
            entries += made
        if place.folder is None:
            return tuple(entries)
        stored = place.arrays("maps", arrays)
        return tuple(replace(entry, arrays=stored) for entry in entries)

    def facts(self) -> dict[str, Any]:
        """The blocks that there are, and what is to be said of the maps."""
        return {"blocks": list(self._blocks), "notes": list(self._remarks)}

    def result(self, walked: Walked[tuple[AttentionEntry, ...]], folder: Folder | None) -> AttentionResult:
        """The answer, with its page and its report in the folder."""
        entries = tuple(entry for kept in walked.kept for entry in kept)
        closing = () if self._asked.listed else self.model.closing_notes(folder, walked.images)
        result = AttentionResult(
            **self.model.described(folder, (*walked.notes, *uniform_notes(entries), *closing)),
            blocks=tuple(revived(AttentionBlock, block) for block in walked.facts["blocks"]),
            entries=entries,
            listed=self._asked.listed,
        )
        if folder is not None:
            write_pages(folder, result.report(), sections_of(walked, attention_panels))
        return result


def attentions_of(model: nn.Module, images: Tensor, name: str) -> list[tuple[Attention, ...]]:
    """The attentions on each of `images` [B, C, H, W]. Raises BadInput for a model that has none over places, and

    where those of a batch cannot be told apart.
    """
    attended = lay_out(model, images).attended
    size = images.shape[2:]
    each = [attended] if len(images) == 1 else [
        [of_image(item, number, len(images), math.prod(size)) for item in attended]
        for number in range(len(images))
    ]  # fmt: skip
    found = [attentions(one, size[-2:]) for one in each]
    if not all(found):
        raise BadInput(
            f"{name} has no attention over places: no softmax over them ran",
            "attention is for transformers; `cam` shows what any classifier looks at",
        )
    return found


def attention_maps_of(found: Sequence[Attention], asked: AttentionOptions) -> tuple[list[AttentionMaps], list[Note]]:
    """The maps of the blocks, heads and query that were asked for, and what to say of them."""
    maps, notes = [], []
    if asked.rollout:
        like, product, part = rollout(found)
        query = query_of(like, asked.query)
        values, rest = weights_of_query(like, product, query)
        maps.append(AttentionMaps(ROLLOUT, query, asking(like), (ROLLOUT,), (values[0],), (float(rest[0]),),
                                  like.keys.frames))  # fmt: skip
        if len(part) < len(found):
            text = f"Rollout is over {len(part)} of {len(found)} blocks, {part[0].path} to {part[-1].path}: the others "
            notes.append(Note(f"{text}have windows, or other queries than keys.", Level.ASSUMED))
        if not asked.blocks:
            return maps, notes
    for item in chosen_attentions(found, asked.blocks):
        maps.append(_of_block(item, asked))
        if maps[-1].query.kind == MEAN_HEAD and asked.query is None:
            text = f"{item.path} has no class token: what each place receives, on the average over queries, is shown."
            notes.append(Note(text, Level.INFO))
    return maps, notes


def asking(item: Attention) -> tuple[int, int]:
    """The grid of queries, (rows, columns)."""
    return item.queries.height, item.queries.width


def _of_block(item: Attention, asked: AttentionOptions) -> AttentionMaps:
    check_heads(item, asked.heads or ())
    heads = range(item.heads) if asked.heads is None else asked.heads
    query = query_of(item, asked.query)
    every = asked.mean or asked.heads is None
    weights = item.weights(None if every else list(heads))
    values, rest = weights_of_query(item, weights, query)
    rows = list(heads) if every else list(range(len(values)))
    names = [str(head) for head in heads]
    maps, elsewhere = [values[row] for row in rows], [float(rest[row]) for row in rows]
    if asked.mean:
        names, maps, elsewhere = [MEAN_HEAD, *names], [values.mean(0), *maps], [float(rest.mean()), *elsewhere]
    return AttentionMaps(item.path, query, asking(item), tuple(names), tuple(maps), tuple(elsewhere), item.keys.frames)
