"""Embeddings of many images: one array for each layer, and a page of each image's nearest neighbors."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modelprobe.report.blocks import Level, Note
from modelprobe.report.formats.html import esc
from modelprobe.vision.features.stats import plain_values
from modelprobe.vision.gallery import gallery_page, image_tag

if TYPE_CHECKING:
    from torch import Tensor

    from modelprobe.files.directory import Folder
    from modelprobe.vision.features.outputs import Layout

NEAREST = 5
MOST_ON_PAGE = 500
EMBEDDED = "embedding.npz"
"""One image's vectors, in its directory."""

NEIGHBORS_STYLE = (
    "<style>.near{display:grid;grid-template-columns:repeat(auto-fill,minmax(7rem,1fr));gap:.8rem;margin:.6rem 0 0}"
    ".near figure{width:100%}.near img{width:100%}.near figcaption{font-size:.75rem;overflow-wrap:anywhere}"
    ".near>div:first-child{outline:2px solid var(--accent);outline-offset:3px}</style>"
)


def pooled_over_places(tensor: Tensor, layout: Layout) -> NDArray[np.float32]:
    """One number for each channel: the mean over the places, without class tokens, or over all where places have no
    grid; of what has no channels, or is a vector, all numbers."""
    values = plain_values(tensor).float()
    if layout.places is not None and layout.places.beside and layout.channels:
        return np.asarray(layout.places.gather(values).flatten(1).mean(1).numpy(), np.float32)
    others = tuple(dim for dim in range(values.dim()) if dim not in layout.channels)
    if layout.channels and layout.positions and others:
        values = values.mean(others)
    flat: NDArray[np.float32] = values.reshape(-1).numpy()
    return flat


def nearest_of(vectors: NDArray[Any], count: int = NEAREST) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each row the `count` others of the largest cosine similarity, and that similarity; a row of zeros is like
    none."""
    held = vectors.astype(np.float64)
    held = held / np.maximum(np.linalg.norm(held, axis=1, keepdims=True), np.finfo(float).tiny)
    count = min(count, len(held) - 1)
    order, alike = np.zeros((len(held), count), np.int64), np.zeros((len(held), count))
    for first in range(0, len(held), 256):  # so that 100,000 images need no matrix of all pairs
        rows = held[first : first + 256] @ held.T
        rows[range(len(rows)), range(first, first + len(rows))] = -np.inf
        part = np.argsort(-rows, axis=1, kind="stable")[:, :count]
        order[first : first + len(rows)], alike[first : first + len(rows)] = part, np.take_along_axis(rows, part, 1)
    return order, alike


def write_embeddings(images: Mapping[str, tuple[str, Mapping[str, NDArray[Any]]]], folder: Folder) -> list[Note]:
    """`embeddings.npz` (`names`, and an array [images, numbers] for each layer), `embeddings.npy` of a single layer,

    and `neighbors.html`, of images by name: their directory, and a vector for each layer. Returns what to say of them.
    """
    names, pieces = list(images), [piece for piece, _ in images.values()]
    layers = next(iter(images.values()))[1]
    arrays = {layer: np.stack([vectors[layer] for _, vectors in images.values()]) for layer in layers}
    out = io.BytesIO()
    key = "names"
    while key in arrays:  # a layer may be called so
        key += "_"
    np.savez(out, allow_pickle=False, **{key: np.array(names), **arrays})
    folder.write("embeddings.npz", out.getvalue())
    shapes = ", ".join(f"{layer} {len(array)}x{array.shape[1]}" for layer, array in list(arrays.items())[:4])
    if len(arrays) == 1:
        out = io.BytesIO()
        np.save(out, next(iter(arrays.values())), allow_pickle=False)
        folder.write("embeddings.npy", out.getvalue())
    text = f"Embeddings, the mean over the places of an image: embeddings.npz ({shapes}), rows as in its names."
    notes = [Note(text, Level.INFO)]
    if len(names) > 1:
        layer = list(arrays)[-1]
        folder.write("neighbors.html", _neighbors_page(layer, arrays[layer], names, pieces))
        notes.append(Note(f"Nearest neighbors by the cosine of {layer}: neighbors.html.", Level.INFO))
    return notes


def _neighbors_page(layer: str, vectors: NDArray[Any], names: Sequence[str], pieces: Sequence[str]) -> str:
    order, alike = nearest_of(vectors)
    more = len(names) - MOST_ON_PAGE
    head = f"<p>The first of each row, then the images whose {esc(layer)} is most like it (cosine).</p>"
    if more > 0:
        head += f"<p>The first {MOST_ON_PAGE:,} of {len(names):,} images; embeddings.npz has all.</p>"

    def cell(index: int, said: str) -> str:
        picture = image_tag(f"{pieces[index]}/seen.png", names[index])
        return f"<div><figure>{picture}<figcaption>{said} {esc(names[index])}</figcaption></figure></div>"

    rows = []
    for index in range(min(len(names), MOST_ON_PAGE)):
        near = [cell(int(other), f"{share:.3f}") for other, share in zip(order[index], alike[index], strict=True)]
        rows.append(f'<section><div class="near">{cell(index, "")}{"".join(near)}</div></section>')
    return gallery_page("Nearest neighbors", NEIGHBORS_STYLE + head + "\n".join(rows))
