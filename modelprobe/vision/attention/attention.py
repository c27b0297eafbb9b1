"""Attention maps of images: attention followed, heads and blocks chosen, maps drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelprobe.console import working
from modelprobe.errors import BadInput
from modelprobe.report.blocks import Level, Note
from modelprobe.vision.attention.maps import (
    Attention,
    Query,
    attentions,
    check_heads,
    chosen_attentions,
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
    block_of,
    draw_attention,
    entries_of,
)
from modelprobe.vision.cam.layout import lay_out
from modelprobe.vision.image_model import ImageModel, ImageModelRequest, load_image_model
from modelprobe.vision.images import Photo
from modelprobe.vision.photos import Progress, each_photo, noise, write_result
from modelprobe.vision.pictures.colour import colour_map


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
    request: ImageModelRequest, asked: AttentionOptions, images: Sequence[str], folder: Path | None, force: bool
) -> AttentionResult:
    """The maps of the images that these paths, directories and wildcards name, written to `folder` if one is given."""
    colour_map(asked.cmap)  # a mistake in it is told before anything is computed
    if asked.listed and not images and request.video is None:
        model = load_image_model(request)
        return _attention_result(model, asked, tuple(map(block_of, attention_of_image(model, noise(model)))), (), ())
    files = request.find_files(images)
    model = load_image_model(request)
    files += model.frame_files
    return write_result(folder, force, lambda place: run_attention(model, asked, files, place, working))


def run_attention(
    model: ImageModel, asked: AttentionOptions, files: Sequence[Path], folder: Path | None, progress: Progress
) -> AttentionResult:
    """The maps of every image, drawn into `folder` where one is given."""
    entries: list[AttentionEntry] = []
    blocks: tuple[AttentionBlock, ...] = ()
    notes: list[Note] = []
    remarks: dict[Note, None] = {}
    for stem, photo in each_photo(model, files, progress, notes):
        found = attention_of_image(model, photo)
        blocks = tuple(map(block_of, found))
        if not asked.listed:
            maps, said = attention_maps_of(found, asked)
            remarks.update(dict.fromkeys(said))
            entries += _shown_query(model, asked, stem, photo, maps, folder)
    if folder is None and not asked.listed:
        remarks[Note("Nothing was drawn: -o DIR writes images and arrays.", Level.INFO)] = None
    return _attention_result(model, asked, blocks, entries, (*notes, *remarks, *model.join_frames(folder)))


def _attention_result(
    model: ImageModel,
    asked: AttentionOptions,
    blocks: tuple[AttentionBlock, ...],
    entries: Sequence[AttentionEntry],
    notes: Sequence[Note],
) -> AttentionResult:
    return AttentionResult(
        model=model.name,
        weights=model.weights.plain(),
        head=model.weights.fact(),
        preprocessing=model.preprocessing.describe(),
        blocks=blocks,
        entries=tuple(entries),
        listed=asked.listed,
        notes=(*model.notes, *notes),
        env=model.env,
    )


def _shown_query(
    model: ImageModel,
    asked: AttentionOptions,
    stem: str,
    photo: Photo,
    maps: Sequence[AttentionMaps],
    folder: Path | None,
) -> list[AttentionEntry]:
    """The entries of one image, drawn and stored in `folder` where one is given."""
    entries: list[AttentionEntry] = []
    arrays: dict[str, Any] = {}
    for item in maps:
        made = entries_of(photo.path.name, item)
        if folder is not None:
            made = draw_attention(stem, model.preprocessing.seen(photo), item, made, folder, asked.cmap, model.stamp)
            arrays |= {entry.array: values.numpy() for entry, values in zip(made, item.maps, strict=True)}
        entries += made
    if folder is not None:
        np.savez_compressed(folder / f"{stem}.npz", **arrays)
    return entries


def attention_of_image(model: ImageModel, photo: Photo) -> tuple[Attention, ...]:
    """The attentions of a forward pass on an image. Raises BadInput when the model has none on the image."""
    image = model.image(photo, "attention")
    found = attentions(lay_out(model.model, image).attended, image.shape[-1])
    if not found:
        raise BadInput(
            f"{model.name} has no attention over places: no softmax over them ran",
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
        maps.append(AttentionMaps(ROLLOUT, query, asking(like), (ROLLOUT,), (values[0],), (float(rest[0]),)))
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
    return AttentionMaps(item.path, query, asking(item), tuple(names), tuple(maps), tuple(elsewhere))
