"""`modelprobe env`: versions, devices and memory, for a bug report."""

from __future__ import annotations

from modelprobe.cli.options import ForceOpt, FormatOpt, OutputOpt, StrictOpt


def command(
    format: FormatOpt = None, output: OutputOpt = None, force: ForceOpt = False, strict: StrictOpt = False
) -> None:
    """Show the versions, devices and memory that modelprobe finds here: what a bug report needs."""
    from modelprobe.cli.output import check, emit
    from modelprobe.environment import describe

    check(format, output, force=force)
    emit(describe().report(), format, output, force=force, strict=strict)
