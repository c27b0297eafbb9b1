"""Attention of any transformer, fused or not: the softmax over keys, as maps on the image.

The weights are those of the operator that the model ran, `softmax(q @ k^T x scale + mask)`, computed from its operands
where it was fused, for the blocks and heads that are asked for. Where every query and key lies on the image was carried
along from the pixels (`vision/positions.py`), so shifted windows, pooled keys and class tokens need no special case.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from modelprobe.errors import BadInput
from modelprobe.vision.positions.follow import Attended, attention_weights

CLASS_TOKEN, MEAN = "cls", "mean"


@dataclass(frozen=True)
class Cells:
    """Where tokens [windows, tokens] lie: `cell` is row x width + column on a grid height x width, -1 for none."""

    cell: Tensor
    height: int
    width: int
    frames: int = 1
    """Of a video: `height` is that of all frames, one below the other."""


@dataclass(frozen=True)
class Attention:
    """One attention of a forward pass, on the image. `path` is unique: a second one in a module is `path#2`."""

    path: str
    index: int
    heads: int
    queries: Cells
    keys: Cells
    over: tuple[int, ...]
    """The leading dimensions of the weights that number windows; the others number heads."""
    source: Attended

    @property
    def windows(self) -> int:
        """How many windows the tokens are divided into; 1 where all attend to all."""
        return len(self.keys.cell)

    @property
    def has_class_token(self) -> bool:
        """Whether the first query stands for no place (padding stands at the end, and in windows)."""
        return self.windows == 1 and int(self.queries.cell[0, 0]) < 0

    def weights(self, heads: Sequence[int] | None = None) -> Tensor:
        """[heads, windows, queries, keys], of the `heads` asked for, or of all."""
        leading = len(self.source.shape) - 2
        plain = leading - 1 not in self.over and all(
            dim in self.over or self.source.shape[dim] == 1 for dim in range(leading - 1)
        )
        found = attention_weights(self.source, heads if plain else None).float().cpu()
        order = [dim for dim in range(leading) if dim not in self.over] + list(self.over)
        flat = found.permute(*order, leading, leading + 1).reshape(-1, self.windows, *found.shape[-2:])
        return flat if plain or heads is None else flat[list(heads)]


def of_image(item: Attended, number: int, count: int, pixels: int) -> Attended:
    """The attention on image `number` of a batch of `count`, each of so many `pixels`.

    Raises BadInput where the images do not lie one after the other in the first dimension.
    """
    shape = item.shape
    first, last = number * pixels, (number + 1) * pixels

    def part(tensor: Tensor | None) -> Tensor | None:
        if tensor is None or tensor.dim() < len(shape) or tensor.shape[0] == 1:
            return tensor
        return tensor.chunk(count)[number]

    def placed(numbers: Tensor, full: tuple[int, ...]) -> Tensor:
        here = numbers.expand(full).chunk(count)[number]
        if shape[0] % count or not bool(((here == 0) | ((here > first) & (here <= last))).all()):
            raise BadInput(f"the images of a batch cannot be told apart at {item.path}", "--batch 1")
        return torch.where(here > 0, here - first, 0.0)

    queries, keys = placed(item.queries, shape[:-1]), placed(item.keys, (*shape[:-2], shape[-1]))
    weights, q, k, mask = map(part, (item.weights, item.q, item.k, item.mask))
    return Attended(item.path, queries, keys, weights, q, k, mask, item.causal, item.scale)


def attentions(found: Sequence[Attended], size: Sequence[int]) -> tuple[Attention, ...]:
    """The attentions whose keys lie on the image, in their order. `size` is the image's in pixels, rows and columns."""
    placed: list[Attention] = []
    names: dict[str, int] = {}
    for item in found:
        path = item.path or "(model)"
        number = names[path] = names.get(path, 0) + 1
        made = _attention(item, size, len(placed), path if number == 1 else f"{path}#{number}")
        if made is not None:
            placed.append(made)
    return tuple(placed)


def _attention(item: Attended, size: Sequence[int], index: int, path: str) -> Attention | None:
    shape = item.shape
    leading = len(shape) - 2
    if leading < 1:
        return None
    queries = torch.broadcast_to(item.queries, shape[:-1])
    keys = torch.broadcast_to(item.keys, (*shape[:-2], shape[-1]))
    over = tuple(dim for dim in range(leading) if _varies(keys, dim) or _varies(queries, dim))
    chosen = tuple(slice(None) if dim in over else 0 for dim in range(leading))
    query_cells = _cells_of_grid(queries[chosen].reshape(-1, shape[-2]), size)
    key_cells = _cells_of_grid(keys[chosen].reshape(-1, shape[-1]), size)
    if key_cells is None:
        return None
    if query_cells is None:  # class tokens alone ask
        query_cells = Cells(torch.full((len(key_cells.cell), shape[-2]), -1), 0, 0)
    heads = 1
    for dim in range(leading):
        heads *= 1 if dim in over else shape[dim]
    return Attention(path, index, heads, query_cells, key_cells, over, item)


def _varies(numbers: Tensor, dim: int) -> bool:
    return numbers.shape[dim] > 1 and bool((numbers.narrow(dim, 0, 1) != numbers).any())


def _cells_of_grid(numbers: Tensor, size: Sequence[int]) -> Cells | None:
    """Pixel numbers [windows, tokens] as cells of the grid that they form; None for fewer than two cells."""
    pixels = numbers.long() - 1
    placed = pixels >= 0
    width = size[-1]
    rows, row = torch.unique(pixels[placed] // width, return_inverse=True)
    columns, column = torch.unique(pixels[placed] % width, return_inverse=True)
    frames = len(torch.unique(rows // size[0])) if len(size) > 1 else 1
    if len(rows) * len(columns) < 2:
        return None
    cell = torch.full_like(pixels, -1)
    cell[placed] = row * len(columns) + column
    return Cells(cell, len(rows), len(columns), frames if len(rows) % max(1, frames) == 0 else 1)


# Which ones?


def chosen_attentions(found: Sequence[Attention], texts: Sequence[str]) -> tuple[Attention, ...]:
    """Those that `--blocks` names by index (negative from the end), path, wildcard or `all`; the last when it is empty.

    Raises BadInput for one that matches nothing.
    """
    if not texts:
        return tuple(found[-1:])
    chosen: dict[int, Attention] = {}
    for text in texts:
        for item in _matching(found, text):
            chosen[item.index] = item
    return tuple(chosen[index] for index in sorted(chosen))


def _matching(found: Sequence[Attention], text: str) -> list[Attention]:
    if text == "all":
        return list(found)
    if text.removeprefix("-").isdecimal():
        index = int(text)
        if not -len(found) <= index < len(found):
            raise BadInput(f"there is no block {index}: the model has {len(found)}", f"0 to {len(found) - 1}, or all")
        return [found[index]]
    # the block's own path means the attention in it
    hits = [item for item in found if fnmatch.fnmatchcase(item.path, text) or item.path.startswith(f"{text}.")]
    hits = hits or [item for item in found if fnmatch.fnmatchcase(item.path, f"{text}.*")]
    if not hits:
        close = get_close_matches(text, [item.path for item in found], n=3, cutoff=0.4)
        raise BadInput(
            f"no attention ran in {text!r}", f"did you mean {' or '.join(close or [found[-1].path])}? --list shows all"
        )
    return hits


def check_heads(item: Attention, heads: Sequence[int]) -> None:
    """Raise BadInput for a head that `item` does not have."""
    for head in heads:
        if not 0 <= head < item.heads:
            raise BadInput(
                f"{item.path} has {item.heads} heads, 0 to {item.heads - 1}: there is no {head}", "--heads all"
            )


# Maps


@dataclass(frozen=True)
class Query:
    """Who asks: the class token, the mean over all queries, or the place (row, column) on the grid of queries."""

    kind: str
    row: int = 0
    column: int = 0

    @property
    def said(self) -> str:
        """In words."""
        return {CLASS_TOKEN: "the class token", MEAN: "the mean of all queries"}.get(
            self.kind, f"the patch in row {self.row}, column {self.column}"
        )


def parse_query(text: str) -> Query:
    """`cls`, `mean` or `ROW,COLUMN`. Raises BadInput for anything else."""
    word = text.strip().lower()
    if word in (CLASS_TOKEN, MEAN):
        return Query(word)
    row, comma, column = word.partition(",")
    if not comma or not row.strip().isdecimal() or not column.strip().isdecimal():
        raise BadInput(f"--query {text!r} is no query", "cls, mean, or row and column of a patch from 0, such as 7,7")
    return Query("patch", int(row), int(column))


def query_of(item: Attention, asked: Query | None) -> Query:
    """The query for this attention; when none was asked for the class token, or the mean where there is none.

    Raises BadInput for a class token or a patch that it does not have.
    """
    if asked is None:
        return Query(CLASS_TOKEN if item.has_class_token else MEAN)
    grid = item.queries
    if asked.kind == CLASS_TOKEN and not item.has_class_token:
        raise BadInput(f"{item.path} has no class token in front", "--query mean, or a patch such as --query 7,7")
    if asked.kind == "patch" and not (asked.row < grid.height and asked.column < grid.width):
        size = (
            f"{grid.height} rows and {grid.width} columns of patches" if grid.height else "no patch among its queries"
        )
        raise BadInput(
            f"{item.path} has {size}: there is no {asked.row},{asked.column}", "rows and columns count from 0"
        )
    return asked


def weights_of_query(item: Attention, weights: Tensor, query: Query) -> tuple[Tensor, Tensor]:
    """What `query` attends to: a map [heads, h, w], and what goes to tokens of no place [heads].

    `weights` [heads, windows, queries, keys]. Of the mean, what every key receives on the average over queries.
    """
    cells, keys = item.queries.cell, item.keys
    if query.kind == MEAN:
        asking = torch.ones_like(cells, dtype=torch.bool) if bool((cells < 0).all()) else cells >= 0
    elif query.kind == CLASS_TOKEN:
        asking = torch.zeros_like(cells, dtype=torch.bool)
        asking[0, 0] = True
    else:
        asking = cells == query.row * item.queries.width + query.column
    share = asking.to(weights.dtype) / asking.sum()
    rows = torch.einsum("hwqk,wq->hwk", weights, share).flatten(1)
    cell = keys.cell.flatten()
    placed = cell >= 0
    flat = torch.zeros(len(rows), keys.height * keys.width).index_add(1, cell[placed], rows[:, placed])
    return flat.reshape(-1, keys.height, keys.width), rows[:, ~placed].sum(1)


def rollout(found: Sequence[Attention]) -> tuple[Attention, Tensor, tuple[Attention, ...]]:
    """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928): the product of (A + I) / 2 over blocks.

    Heads are averaged. The attention that the product is read like, the product [1, 1, tokens, tokens], and the blocks
    that took part: those of one window whose queries are the same tokens as their keys. Raises BadInput for fewer
    than two.
    """
    square = [item for item in found if item.windows == 1 and _same_grid(item.queries, item.keys)]
    size = square[0].source.shape[-1] if square else 0
    part = tuple(item for item in square if item.source.shape[-1] == size)
    if len(part) < 2:
        raise BadInput(
            "rollout multiplies blocks in which all tokens attend to the same tokens, and there are not two of them",
            "windows and pooled keys have no rollout: --blocks all shows each block",
        )
    product = torch.eye(size)
    for item in part:
        product = (item.weights().mean(0)[0] + torch.eye(size)) / 2 @ product
    return part[-1], product[None, None], part


def _same_grid(a: Cells, b: Cells) -> bool:
    return a.cell.shape == b.cell.shape and bool((a.cell == b.cell).all())
