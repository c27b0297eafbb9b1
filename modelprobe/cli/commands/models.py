"""`modelprobe models`: the names of both zoos."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli import options, output

PatternArg = Annotated[
    str,
    typer.Argument(metavar="[PATTERN]", help="A part of the name, or wildcards: 'vit_*_384'.", show_default=False),
]


def command(
    pattern: PatternArg = "",
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
) -> None:
    """The names of torchvision's and timm's models, without importing or building them."""
    output.check(format, out, force=force)
    from modelprobe.environment import brief
    from modelprobe.model.zoo_listing import list_models

    output.emit(list_models(pattern, brief()).report(), format, out, force=force)
