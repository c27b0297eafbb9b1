"""What `keys` and `repair` have in common: the file, what it is wanted for, and how much may be assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelprobe.checkpoint.file_names import SCHEMES, names_weights
from modelprobe.cli import options
from modelprobe.console import stdout_kept, working
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from modelprobe.model.target import Target
    from modelprobe.model.weights.load import Fit

PLAN = "Plan"

FileArg = Annotated[str, typer.Argument(metavar="FILE", help="A weight file.", show_default=False)]
ForOpt = Annotated[
    str | None,
    typer.Option(
        "--for",
        metavar="TARGET|FILE",
        help="What the weights are wanted for: a model (resnet50, timm:NAME, net.py:Net) or a file of right names.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
FromOpt = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TARGET",
        help="The network the file was saved from, where it has other names: its outputs are compared.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
BranchOpt = Annotated[
    str | None,
    typer.Option(
        "--branch",
        metavar="NAME",
        help="Which part of the file to take, by its dotted name: state_dict_ema.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
PrefixOpt = Annotated[
    str,
    typer.Option(
        "--prefix",
        metavar="NAME",
        help="Take only the tensors under this prefix, without it: encoder_q.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
DropOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--drop",
        metavar="PATTERN",
        help="Leave these tensors out, and do not expect them: 'fc.*'. May be given again.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
DropHeadOpt = Annotated[
    bool,
    typer.Option(
        "--drop-head",
        metavar=options.FLAG,
        help="Leave out a last layer that is for another number of classes.",
        rich_help_panel=PLAN,
    ),
]
GridOpt = Annotated[
    str | None,
    typer.Option(
        "--grid",
        metavar="ROWSxCOLUMNS",
        help="The grid that the file's position embedding was learned on, where it is not square.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
CastOpt = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="The floating-point type of the result: float16, bfloat16, float32, float64.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
InputOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        metavar="[NAME=]SHAPE[:DTYPE]",
        help="What both networks are run on to compare outputs: 224, 2x16x512. Left out: what is declared.",
        show_default=False,
        rich_help_panel=PLAN,
    ),
]
UnprovenOpt = Annotated[
    bool,
    typer.Option(
        "--unproven",
        metavar=options.FLAG,
        help="Accept an assignment that nothing but the order of the tensors speaks for.",
        rich_help_panel=PLAN,
    ),
]


@dataclass(frozen=True)
class RepairOptions:
    """What the command line said about the plan."""

    file: str
    wanted: str | None = None
    settings: Sequence[str] = ()
    origin: str | None = None
    branch: str | None = None
    prefix: str = ""
    drop: Sequence[str] = ()
    drop_head: bool = False
    grid: str | None = None
    dtype: str | None = None
    unproven: bool = False
    inputs: Sequence[str] = ()

    def again(self) -> list[str]:
        """The same options for another command line."""
        given = [text for setting in self.settings for text in ("--set", setting)]
        given += [text for spec in self.inputs for text in ("--input", spec)]
        for option, value in (("--from", self.origin), ("--branch", self.branch), ("--prefix", self.prefix or None),
                              ("--grid", self.grid), ("--dtype", self.dtype)):  # fmt: skip
            given += [option, value] if value is not None else []
        given += [text for pattern in self.drop for text in ("--drop", pattern)]
        given += ["--drop-head"] if self.drop_head else []
        return given + (["--unproven"] if self.unproven else [])


def plan(asked: RepairOptions) -> Fit:
    """Read the headers of the file, build what it is wanted for, and plan."""
    from modelprobe.checkpoint.keys.plan import PlanOptions
    from modelprobe.checkpoint.open import open_checkpoint

    if asked.file.startswith(SCHEMES):
        raise BadInput(f"{asked.file} is not on this machine", "download it first")
    found = open_checkpoint(Path(asked.file).expanduser())
    options = PlanOptions(
        prefix=asked.prefix, drop=tuple(asked.drop), drop_head=asked.drop_head, dtype=_dtype(asked.dtype),
        grid=_grid(asked.grid), unproven=asked.unproven, inputs=tuple(asked.inputs),
    )  # fmt: skip
    if asked.wanted is not None and names_weights(asked.wanted):
        from modelprobe.checkpoint.keys.reference import reference_of_checkpoint
        from modelprobe.model.weights.load import fit

        if asked.origin or asked.settings:
            raise BadInput("--from and --set need a model after --for", "a file tells names and shapes alone")
        reference = reference_of_checkpoint(open_checkpoint(Path(asked.wanted).expanduser()))
        return fit(found, reference=reference, branch=asked.branch, options=options)
    with stdout_kept(), working(f"fitting {asked.file}"):
        from modelprobe.model.weights.load import fit

        return fit(
            found, target=_target(asked.wanted, asked.settings), origin=_target(asked.origin, ()),
            branch=asked.branch, options=options,
        )  # fmt: skip


def _target(spec: str | None, settings: Sequence[str]) -> Target | None:
    from modelprobe.model.target import resolve

    if spec is None and settings:
        raise BadInput("--set needs a model to set something of", "name it with --for")
    return resolve(spec, settings) if spec is not None else None


def _dtype(text: str | None) -> str:
    from modelprobe.model.inputs.spec import parse_floating

    return parse_floating(text) if text is not None else ""


def _grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise BadInput(f"--grid {text!r} is no grid", "for example --grid 14x16")
    return int(rows), int(columns)


def check_output(asked: RepairOptions, out: Path | None, format: str | None, force: bool) -> None:
    """Raise now what writing would raise about the place and the format: planning may take a while."""
    from modelprobe.checkpoint.write.convert import format_of
    from modelprobe.files.atomic import check_target

    if out is not None:
        format_of(out, format)
        check_target(out, force=force, sources=[Path(asked.file).expanduser()], links=False)
