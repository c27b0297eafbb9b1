"""`modelprobe buffers`: which tensors are not parameters, whether they are saved, and whether training changes them."""

from __future__ import annotations

from typing import Annotated

import typer

from modelprobe.cli import options, output
from modelprobe.model.build import Question, build, changed_by_training

AllOpt = Annotated[
    bool,
    typer.Option("--all", help="List every buffer, however many there are.", rich_help_panel=options.OUTPUT),
]


def command(
    target: options.TargetArg,
    settings: options.SetOpt = None,
    arch: options.ArchOpt = None,
    unsafe_load: options.UnsafeLoadOpt = False,
    input: options.InputOpt = None,
    batch: options.BatchOpt = None,
    inputs_from: options.InputsFromOpt = None,
    dtype: options.DtypeOpt = None,
    everyone: AllOpt = False,
    format: options.FormatOpt = None,
    out: options.OutputOpt = None,
    force: options.ForceOpt = False,
    strict: options.StrictOpt = False,
) -> None:
    """Buffers against parameters: owner, shape, bytes, saved or not, and whether a training forward changes them."""
    output.check(format, out, force=force)
    from modelprobe.cost.buffers import list_buffers
    from modelprobe.tracing.module_tree import saved_names

    subject = build(
        Question(target, settings or (), input or (), inputs_from, batch, dtype, arch=arch, unsafe_load=unsafe_load)
    )
    changed, notes = changed_by_training(subject)
    result = list_buffers(
        subject.tree,
        changed=changed,
        saved=saved_names(subject.model),
        everyone=everyone,
        model=subject.target.name,
        notes=notes,
        env=subject.env,
    )
    output.emit(result.report(), format, out, force=force, strict=strict)
