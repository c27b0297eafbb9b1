"""A request to make a weight file match a model (`keys`, `repair`), and the plan that answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelprobe.checkpoint.file_names import SCHEMES, format_of, names_weights
from modelprobe.console import stdout_kept, working
from modelprobe.errors import BadInput

if TYPE_CHECKING:
    from modelprobe.checkpoint.keys.draft import PlanOptions
    from modelprobe.checkpoint.keys.reference import Expectation
    from modelprobe.model.target import Target
    from modelprobe.model.weights.load import Fit


@dataclass(frozen=True)
class RepairOptions:
    """The file, what it is to match, and how much may be changed or assumed."""

    file: str
    arch: str | None = None
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

    def arguments(self) -> list[str]:
        """The same options for another command line, but for the file and `--arch`."""
        given = [text for setting in self.settings for text in ("--set", setting)]
        given += [text for spec in self.inputs for text in ("--input", spec)]
        for option, value in (("--from", self.origin), ("--branch", self.branch), ("--prefix", self.prefix or None),
                              ("--grid", self.grid), ("--dtype", self.dtype)):  # fmt: skip
            given += [option, value] if value is not None else []
        given += [text for pattern in self.drop for text in ("--drop", pattern)]
        given += ["--drop-head"] if self.drop_head else []
        return given + (["--unproven"] if self.unproven else [])

    def check_output(self, out: Path | None, format: str | None, *, force: bool) -> None:
        """Raise now what writing would raise about the place and the format: planning may take a while."""
        from modelprobe.files.atomic import check_target

        if out is not None:
            format_of(out, format)
            check_target(out, force=force, sources=[Path(self.file).expanduser()], links=False)


def plan_repair(request: RepairOptions) -> Fit:
    """Read the headers of the file, build the network it is for, and plan."""
    from modelprobe.checkpoint.open import open_checkpoint

    if request.file.startswith(SCHEMES):
        raise BadInput(f"{request.file} is not on this machine", "download it first")
    found = open_checkpoint(Path(request.file).expanduser())
    options, words = plan_options(request), tuple(request.arguments())
    if request.arch is not None and names_weights(request.arch):
        from modelprobe.model.weights.load import fit

        if request.origin or request.settings:
            raise BadInput("--from and --set need a model after --arch", "a file has names and shapes alone")
        _, reference = reference_for(request)
        return replace(fit(found, reference=reference, branch=request.branch, options=options), arguments=words)
    with stdout_kept(), working(f"fitting {request.file}"):
        from modelprobe.model.weights.load import fit

        target, origin = _resolved(request.arch, request.settings), _resolved(request.origin, ())
        found_fit = fit(found, target=target, origin=origin, branch=request.branch, options=options)
        return replace(found_fit, arguments=words)


def plan_options(request: RepairOptions) -> PlanOptions:
    """What the request says about the plan. Raises BadInput for a grid or a type that is none."""
    from modelprobe.checkpoint.keys.draft import PlanOptions
    from modelprobe.model.inputs.spec import parse_floating

    return PlanOptions(
        prefix=request.prefix, drop=tuple(request.drop), drop_head=request.drop_head,
        dtype=parse_floating(request.dtype) if request.dtype is not None else "", grid=_parse_grid(request.grid),
        unproven=request.unproven, inputs=tuple(request.inputs),
    )  # fmt: skip


def reference_for(request: RepairOptions) -> tuple[Target | None, Expectation | None]:
    """The network that the file is wanted for, and what it expects; what another file holds, if that is asked for."""
    from modelprobe.checkpoint.keys.reference import reference_of_checkpoint, reference_of_model
    from modelprobe.checkpoint.open import open_checkpoint

    if request.arch is not None and names_weights(request.arch):
        return None, reference_of_checkpoint(open_checkpoint(Path(request.arch).expanduser()))
    target = _resolved(request.arch, request.settings)
    return target, reference_of_model(target.build().module, target.spec) if target else None


def _resolved(spec: str | None, settings: Sequence[str]) -> Target | None:
    from modelprobe.model.target import resolve

    if spec is None and settings:
        raise BadInput("--set needs a model to set something of", "name it with --arch")
    return resolve(spec, settings) if spec is not None else None


def _parse_grid(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    rows, _, columns = text.partition("x")
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise BadInput(f"--grid {text!r} is no grid", "for example --grid 14x16")
    return int(rows), int(columns)
