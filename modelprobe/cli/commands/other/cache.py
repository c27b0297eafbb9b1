"""`modelprobe cache`: what the store of recorded runs holds, and removing it."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli.options import TARGET, ReportOptions, one_of

CACHE_ACTIONS = ("show", "clear")

EXAMPLES = (
    "modelprobe cache",
    "modelprobe cache clear",
)

CacheActionArg = Annotated[
    str,
    typer.Argument(
        metavar="[show|clear]",
        help="show lists what is kept; clear removes all of it.",
        callback=one_of("cache", CACHE_ACTIONS),
        show_default=False,
        rich_help_panel=TARGET,
    ),
]


def command(*, action: CacheActionArg = CACHE_ACTIONS[0], report: ReportOptions) -> None:
    """The runs of library models that flops, summary, training and memory keep, to answer again without torch.

    Each counts while no file or release of modelprobe, torch, torchvision, timm or formulas has changed.
    """
    report.check()
    from modelprobe.environment import brief
    from modelprobe.files.store_report import describe_store

    report.emit(describe_store(brief(), clear=action == "clear").report())
