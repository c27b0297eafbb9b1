"""`modelprobe models`: the names of torchvision's and timm's models."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli.options import TARGET, ReportOptions

EXAMPLES = (
    "modelprobe models 'convnext_*tiny*'",
    "modelprobe models resnet",
)

PatternArg = Annotated[
    str,
    typer.Argument(
        metavar="[PATTERN]",
        help="A part of the name, or wildcards: 'vit_*_384'.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]


def command(
    *,
    pattern: PatternArg = "",
    report: ReportOptions,
) -> None:
    """Names of torchvision and timm models, without importing or building them."""
    report.check()
    from modelprobe.environment import brief
    from modelprobe.model.zoo_listing import list_models

    report.emit(list_models(pattern, brief()).report())
