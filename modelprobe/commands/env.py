"""`modelprobe env`: versions, devices and memory, for a bug report."""

from __future__ import annotations

from modelprobe.options import ForceOpt, FormatOpt, OutputOpt, StrictOpt


def command(
    format: FormatOpt = None, output: OutputOpt = None, force: ForceOpt = False, strict: StrictOpt = False
) -> None:
    """Show the versions, devices and memory that modelprobe finds here: what a bug report needs."""
    from modelprobe.analyzers.env import describe
    from modelprobe.output import check, emit

    check(format, output, force=force)
    emit(describe().report(), format, output, force=force, strict=strict)
