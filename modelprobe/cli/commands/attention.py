"""`modelprobe attention`: attention maps of transformers."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli.options import (
    IMAGES,
    ColourMapOpt,
    DirectoryOptions,
    ImageModelOptions,
    ImageOptions,
    ListLayersOpt,
    image_model,
)

EXAMPLES = (
    "modelprobe attention samples/models.py:DigitViT --weights samples/digit_vit.pth --image samples/digit_b.png",
    "modelprobe attention timm:test_vit --weights random --image samples/shapes.png --list",
    "modelprobe attention timm:test_vit --weights random --image samples/shapes.png --query 2,6 --rollout -o maps",
)

BlocksOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--blocks",
        metavar="NAME|INDEX[,…]",
        help="Which blocks: 0,-1, 'blocks.*.attn', all. Repeatable; --list shows them. Default: the last.",
        show_default=False,
        rich_help_panel=IMAGES,
    ),
]
HeadsOpt = Annotated[
    str | None,
    typer.Option(
        "--heads",
        metavar="N[,N]|mean|all",
        help="Which heads: 0,3, mean, 0,3,mean. Default: all of them and their mean.",
        show_default=False,
        rich_help_panel=IMAGES,
    ),
]
QueryOpt = Annotated[
    str | None,
    typer.Option(
        "--query",
        "-q",
        metavar="cls|mean|ROW,COL",
        help="Whose attention: the class token, a patch by row and column (7,7), or the mean of all. Default: the "
        "class token where there is one, else the mean.",
        show_default=False,
        rich_help_panel=IMAGES,
    ),
]
RolloutOpt = Annotated[
    bool,
    typer.Option(
        "--rollout",
        help="Attention rollout through all blocks; with --blocks, beside them.",
        rich_help_panel=IMAGES,
    ),
]


def command(
    model: ImageModelOptions,
    images: ImageOptions,
    *,
    blocks: BlocksOpt = None,
    heads: HeadsOpt = None,
    query: QueryOpt = None,
    rollout: RolloutOpt = False,
    list_only: ListLayersOpt = False,
    cmap: ColourMapOpt = "viridis",
    output: DirectoryOptions,
) -> None:
    """Attention maps of transformers, fused or not: per head, averaged or rolled out; of the class token or a patch."""
    from modelprobe.files.directory import check_directory
    from modelprobe.vision.attention.attention import AttentionOptions, attention_of_files, heads_of
    from modelprobe.vision.attention.maps import parse_query

    check_directory(output.output, output.force)
    names = tuple(name.strip() for text in blocks or () for name in text.split(",") if name.strip())
    position = None if query is None else parse_query(query)
    asked = AttentionOptions(names, *heads_of(heads), position, rollout, list_only, cmap)
    place = None if list_only else output.output
    output.emit(attention_of_files(image_model(model, images), asked, images.image or (), place, output.force).report())
