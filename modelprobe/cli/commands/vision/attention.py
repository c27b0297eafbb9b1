"""`modelprobe attention`: attention maps of transformers."""

from __future__ import annotations

from typing import Annotated

from modelprobe.cli.image_options import (
    ColourMapOpt,
    DirectoryOptions,
    ImageBatchOpt,
    ImageModelOptions,
    ImageOptions,
    ListLayersOpt,
    image_model,
)
from modelprobe.cli.options import IMAGES, option

EXAMPLES = (
    "modelprobe attention samples/models.py:DigitViT --weights samples/digit_vit.pth --image samples/digit_b.png",
    "modelprobe attention timm:test_vit --weights random --image samples/shapes.png --list",
    "modelprobe attention timm:test_vit --weights random --image samples/shapes.png --query 2,6 --rollout -o maps",
)

BlocksOpt = Annotated[
    list[str] | None,
    option(
        "--blocks",
        metavar="NAME|INDEX[,…]",
        panel=IMAGES,
        help="Which blocks: 0,-1, 'blocks.*.attn', all. Repeatable; --list shows them. Default: the last.",
    ),
]
HeadsOpt = Annotated[
    str | None,
    option(
        "--heads",
        metavar="N[,N]|mean|all",
        panel=IMAGES,
        help="Which heads: 0,3, mean, 0,3,mean. Default: all of them and their mean.",
    ),
]
QueryOpt = Annotated[
    str | None,
    option(
        "--query",
        metavar="cls|mean|ROW,COL",
        panel=IMAGES,
        help="Whose attention: the class token, a patch by row and column (7,7), or the mean of all. Default: the "
        "class token where there is one, else the mean.",
    ),
]
RolloutOpt = Annotated[
    bool, option("--rollout", panel=IMAGES, help="Attention rollout through all blocks; with --blocks, beside them.")
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
    batch: ImageBatchOpt = 4,
    output: DirectoryOptions,
) -> None:
    """Attention maps of transformers, fused or not: per head, averaged or rolled out; of the class token or a patch."""
    from modelprobe.vision.attention.attention import AttentionOptions, attention_of_files, heads_of
    from modelprobe.vision.attention.maps import parse_query

    names = tuple(name.strip() for text in blocks or () for name in text.split(",") if name.strip())
    position = None if query is None else parse_query(query)
    asked = AttentionOptions(names, *heads_of(heads), position, rollout, list_only, cmap)
    request = image_model(model, images, batch=batch)
    output.emit(attention_of_files(request, asked, images.image or (), output.output, output.force).report())
