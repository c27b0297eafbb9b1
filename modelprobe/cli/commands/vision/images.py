"""`modelprobe images`: what is in a directory of images."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli.image_options import RangeOpt
from modelprobe.cli.options import TARGET, ReportOptions

EXAMPLES = (
    "modelprobe images samples",
    "modelprobe images 'samples/*.png' -f json",
)

ImagesArg = Annotated[
    list[str],
    typer.Argument(
        metavar="DIR|FILE|PATTERN",
        help="Directories, with all below them; images; quoted wildcards.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]


def command(paths: ImagesArg, *, values: RangeOpt = None, report: ReportOptions) -> None:
    """Images in a directory: how many, sizes, modes, broken files, and the mean and deviation of each channel.

    The last two are what --mean and --std of the other commands take.
    """
    report.check()
    from modelprobe.vision.preprocessing.overrides import parse_range
    from modelprobe.vision.survey import survey

    report.emit(survey(paths, parse_range(values)).report())
