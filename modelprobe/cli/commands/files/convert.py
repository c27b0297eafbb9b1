"""`modelprobe convert`: a checkpoint in another format, in one file or in shards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from modelprobe import console
from modelprobe.cli import output
from modelprobe.cli.file_options import (
    WEIGHTS,
    BranchOpt,
    OverwriteOpt,
    StdoutFormatOpt,
    ToOpt,
    WeightsArg,
    WeightsOutputOpt,
)
from modelprobe.cli.options import OUTPUT, option
from modelprobe.errors import BadInput

EXAMPLES = (
    "modelprobe convert samples/digit_cnn.pth -o digits.safetensors",
    "modelprobe convert samples/digit_vit.pth -o digits.safetensors --shard-size 100KB",
)

ShardOpt = Annotated[
    str | None,
    option(
        "--shard-size",
        metavar="SIZE",
        panel=OUTPUT,
        help="Cut into files of at most SIZE (2GB, 500MB, 2GiB) with an index, as on the Hugging Face Hub.",
    ),
]

MergeOpt = Annotated[
    str | None,
    option(
        "--merge",
        metavar="BASE",
        panel=WEIGHTS,
        help="FILE is a LoRA adapter: write the weights of BASE, the file it was trained on, with it added.",
    ),
]


def command(
    file: WeightsArg,
    *,
    branch: BranchOpt = None,
    out: WeightsOutputOpt = None,
    to: ToOpt = None,
    merge: MergeOpt = None,
    shard_size: ShardOpt = None,
    force: OverwriteOpt = False,
    format: StdoutFormatOpt = None,
) -> None:
    """Write a checkpoint as a safetensors or torch file, whole or in shards, and say what was left behind.

    With --merge BASE, an adapter (LoRA) is added to the weights that it was trained on.
    """
    if out is None:
        raise BadInput("convert writes a file and needs its name", "for example -o model.safetensors")
    from modelprobe.checkpoint.answers.convert import convert_weights
    from modelprobe.checkpoint.file_names import format_of
    from modelprobe.checkpoint.write.convert import parse_byte_size
    from modelprobe.environment import brief
    from modelprobe.files.atomic import check_target

    format_of(out, to)
    size = parse_byte_size(shard_size) if shard_size is not None else None
    if size is None:
        check_target(out, force=force, sources=[Path(file), *([Path(merge)] if merge else [])], links=False)
    with console.working(f"converting {file}"):
        result = convert_weights(file, out, format=to, branch=branch, shard_size=size, force=force, base=merge)
    output.emit(replace(result.report(), env=brief()), format)
