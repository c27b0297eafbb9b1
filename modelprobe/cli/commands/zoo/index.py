"""`modelprobe index`: makes the index of both zoos anew, and adds the models of other packages to the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelprobe.cli.options import OUTPUT, TARGET, ReportOptions, one_of, option
from modelprobe.errors import BadInput

ACTIONS = ("show", "build", "add")

EXAMPLES = (
    "modelprobe index show",
    "modelprobe index show -f json",
)

ActionArg = Annotated[
    str,
    typer.Argument(
        metavar="|".join(ACTIONS),
        help="show what there is; build PATH: both zoos as a file; add PACKAGE: its models to your own index.",
        callback=one_of("index", ACTIONS),
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
WhatArg = Annotated[
    str,
    typer.Argument(
        metavar="[PATH|PACKAGE]",
        help="The file to make; or a package with factories or classes of models that need no argument.",
        show_default=False,
        rich_help_panel=TARGET,
    ),
]
WorkersOpt = Annotated[
    int | None,
    option("--workers", metavar="N", min=1, panel=OUTPUT, help="Processes that count. Default: one per core."),
]


def command(action: ActionArg, what: WhatArg = "", *, workers: WorkersOpt = None, report: ReportOptions) -> None:
    """The index of networks that `models` and `identify` read: what it was made from, making it, adding to it.

    An interrupted build goes on where it stopped. Adding imports the package and builds its models on meta.
    """
    report.check()
    if action == "show" and what:
        raise BadInput("index show takes nothing more", "leave it out")
    if action != "show" and not what:
        raise BadInput(
            f"index {action} needs a {'PATH' if action == 'build' else 'PACKAGE'}",
            "modelprobe index build index.zip" if action == "build" else "modelprobe index add spandrel",
        )
    from modelprobe.environment import brief, usable_cores

    count = workers or usable_cores()
    if action == "show":
        from modelprobe.zoo.index_report import describe_index

        report.emit(describe_index(brief()).report())
    elif action == "build":
        from modelprobe.zoo.index_report import index_built

        report.emit(index_built(Path(what), count, force=report.force, env=brief()).report())
    else:
        from modelprobe.zoo.index_report import package_added

        report.emit(package_added(what, count, env=brief()).report())
