"""`modelprobe attention`: what does each patch of a picture attend to?"""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe import console
from modelprobe.cli import directory_options as delivery
from modelprobe.cli import options, output
from modelprobe.vision import looker as sight

BlocksOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--blocks",
        metavar="NAME|INDEX[,…]",
        help="Which blocks: 0,-1, 'blocks.*.attn', all. May be given again; --list shows them. Left out: the last.",
        show_default=False,
        rich_help_panel=sight.PICTURES,
    ),
]
HeadsOpt = Annotated[
    str | None,
    typer.Option(
        "--heads",
        metavar="N[,N]|mean|all",
        help="Which heads: 0,3, mean, 0,3,mean. Left out: all of them and their mean.",
        show_default=False,
        rich_help_panel=sight.PICTURES,
    ),
]
QueryOpt = Annotated[
    str | None,
    typer.Option(
        "--query",
        "-q",
        metavar="cls|mean|ROW,COL",
        help="Who attends: the class token, a patch by row and column (7,7), or the mean of all. Left out: the class "
        "token where there is one, else the mean.",
        show_default=False,
        rich_help_panel=sight.PICTURES,
    ),
]
RolloutOpt = Annotated[
    bool,
    typer.Option(
        "--rollout",
        metavar=options.FLAG,
        help="Attention rollout through all blocks; with --blocks, beside them.",
        rich_help_panel=sight.PICTURES,
    ),
]
ListOpt = Annotated[
    bool,
    typer.Option(
        "--list",
        metavar=options.FLAG,
        help="Show the blocks, with their heads, windows and grids, and no maps.",
        rich_help_panel=sight.PICTURES,
    ),
]


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    arch: options.ArchOpt = None,
    unsafe_load: options.UnsafeLoadOpt = False,
    weights: sight.WeightsOpt = sight.PRETRAINED,
    image: sight.ImageOpt = None,
    blocks: BlocksOpt = None,
    heads: HeadsOpt = None,
    query: QueryOpt = None,
    rollout: RolloutOpt = False,
    listed: ListOpt = False,
    resize: sight.ResizeOpt = None,
    crop: sight.CropOpt = None,
    mean: sight.MeanOpt = None,
    std: sight.StdOpt = None,
    cmap: sight.ColourMapOpt = "viridis",
    format: options.FormatOpt = None,
    out: delivery.FolderOpt = None,
    force: delivery.FolderForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """Attention maps of transformers, fused or not: per head, their mean, rollout; of the class token or any patch."""
    delivery.check_folder(out, force)
    from modelprobe.vision.attention.attention import AttentionOptions, heads_of, run_attention
    from modelprobe.vision.attention.maps import parse_query
    from modelprobe.vision.images import find_images
    from modelprobe.vision.pictures.colour import colour_map

    colour_map(cmap)
    names = tuple(name.strip() for text in blocks or () for name in text.split(",") if name.strip())
    asking = None if query is None else parse_query(query)
    asked = AttentionOptions(names, *heads_of(heads), asking, rollout, listed, cmap)
    files = find_images(image or ())
    view = sight.load_image_model(
        sight.ImageModelRequest(target, settings or (), arch, unsafe_load, weights, resize, crop, mean, std)
    ).view()
    place = None if listed else out
    result = delivery.deliver(place, force, lambda place: run_attention(view, asked, files, place, console.working))
    output.emit(result.report(), format, strict=strict)
