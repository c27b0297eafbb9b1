"""`modelprobe params`: how many parameters, where, and which would train."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli import options, output
from modelprobe.model.build import Question, build

FreezeOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--freeze",
        metavar="PATTERN[,PATTERN]",
        help="What would still train if these were frozen: 'conv1,layer1.*'. Modules or parameters, with wildcards.",
        show_default=False,
        rich_help_panel=options.OUTPUT,
    ),
]


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    arch: options.ArchOpt = None,
    unsafe_load: options.UnsafeLoadOpt = False,
    dtype: options.DtypeOpt = None,
    freeze: FreezeOpt = None,
    depth: options.DepthOpt = None,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """Parameters: total, trainable, by module and dtype, tied ones once, weight-decay groups, what-if freezing."""
    output.check(format, out, force=force)
    from modelprobe.cost.params import count_params
    from modelprobe.cost.patterns import split_patterns

    subject = build(Question(target, settings or (), dtype=dtype, arch=arch, unsafe_load=unsafe_load))
    result = count_params(
        subject.tree,
        model=subject.target.name,
        depth=depth,
        freeze=split_patterns(freeze or ()),
        notes=subject.notes,
        env=subject.env,
    )
    output.emit(result.report(), format, out, force=force, strict=strict)
