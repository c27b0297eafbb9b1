"""What `features`, `predict`, `cam` and `attention` look with: a model with weights, its preprocessing, its labels."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelprobe.checkpoint.names_file import names_weights
from modelprobe.cli import options
from modelprobe.console import stdout_kept, working
from modelprobe.errors import BadInput, CheckFailed
from modelprobe.report.blocks import Fact, Level, Note

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.checkpoint.records import Checkpoint
    from modelprobe.model.target import Target
    from modelprobe.vision.labels import Labels
    from modelprobe.vision.photos import View
    from modelprobe.vision.preprocessing.lookup import Preprocessing

PICTURES = "Pictures"
PRETRAINED, RANDOM = "pretrained", "random"

ImageOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        metavar="FILE|DIR|PATTERN",
        help="A picture, a directory of them, or a quoted wildcard ('photos/**/*.jpg'). May be given again.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
WeightsOpt = Annotated[
    str,
    typer.Option(
        "--weights",
        metavar="pretrained|random|FILE",
        help="The published weights, seeded random ones, or those of a file, which is read safely and repaired where "
        "its names differ. Where none can be had, random ones are taken and the report says so.",
        rich_help_panel=options.MODEL,
    ),
]
LayersOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--layers",
        "-l",
        metavar="NAME[,NAME]",
        help="Layers by name or wildcard: layer1,layer4, 'blocks.*.attn', '*'. May be given again; --list shows them.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
ResizeOpt = Annotated[
    str | None,
    typer.Option(
        "--resize",
        metavar="N|HxW",
        help="Resize the shorter side to N, or the picture to HxW, instead of the model's own way.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
CropOpt = Annotated[
    bool | None,
    typer.Option(
        "--crop/--no-crop",
        help="Take the centre, or squeeze the whole picture into the model's size. Left out: the model's own way.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
MeanOpt = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="X[,X,X]",
        help="Subtracted from values in 0..1, instead of the model's own.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
StdOpt = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="X[,X,X]",
        help="What values are divided by after that, instead of the model's own.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
LabelsOpt = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="FILE",
        help="The names of the classes: one on each line, or JSON. Left out: those that the library publishes.",
        show_default=False,
        rich_help_panel=PICTURES,
    ),
]
ColourMapOpt = Annotated[
    str,
    typer.Option(
        "--cmap", metavar="NAME", help="The colour map: viridis, jet, or any of matplotlib's.", rich_help_panel=PICTURES
    ),
]


@dataclass(frozen=True)
class Looking:
    """What the command line said about the model and how it sees. `weights` is `pretrained`, `random` or a file."""

    target: str
    settings: Sequence[str] = ()
    arch: str | None = None
    unsafe_load: bool = False
    weights: str = PRETRAINED
    resize: str | None = None
    crop: bool | None = None
    mean: str | None = None
    std: str | None = None
    labels: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Weights:
    """Which weights the model has. `trained` is None where nobody can tell: a model of the user's own made them.

    `kind` is `pretrained`, `file`, `random` or `own`; `name` that of the weights or the file; `reason` why they are
    random although trained ones were wanted.
    """

    kind: str
    name: str
    trained: bool | None
    reason: str = ""

    def plain(self) -> dict[str, Any]:
        """What JSON says of them."""
        return {"kind": self.kind, "name": self.name, "trained": self.trained, "reason": self.reason}

    def fact(self) -> Fact:
        """The line of a report's head."""
        if self.kind == RANDOM:
            return Fact("Weights", "RANDOM", detail=f"not trained, {self.name}")
        return Fact("Weights", self.name, detail="" if self.trained else "whether they are trained is not known")


@dataclass(frozen=True)
class Sight:
    """A model on the CPU in eval mode, and what it needs to look at pictures. `notes` go into the report."""

    asked: Looking
    target: Target
    model: nn.Module
    weights: Weights
    preprocessing: Preprocessing
    labels: Labels
    notes: tuple[Note, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """What an analyzer needs of it."""
        from modelprobe.vision.photos import View

        return View(
            self.target.name,
            self.model,
            self.preprocessing,
            self.labels,
            self.weights.fact(),
            self.weights.plain(),
            self.notes,
            self.env,
        )


@stdout_kept()
def load(asked: Looking) -> Sight:
    """Build the target, give it weights, find its preprocessing and labels. Raises ProbeError for what is in the way.

    Trained weights that cannot be had are no error: the model keeps seeded random ones, and a warning says so.
    """
    from modelprobe.vision.labels import labels_of
    from modelprobe.vision.preprocessing.lookup import Wishes, preprocessing

    target, found = _named(asked)
    if asked.labels is not None:
        from modelprobe.vision.labels import read_labels

        read_labels(asked.labels)  # a mistake in it is told before weights are fetched
    with working(f"loading {target.name}"):
        model, weights, entry, notes = _weighted(target, asked, found)
    model = model.eval()
    seeing = preprocessing(target, model, entry, Wishes(asked.resize, asked.crop, asked.mean, asked.std))
    labels = labels_of(target, model, entry, asked.labels)
    return Sight(
        asked,
        target,
        model,
        weights,
        seeing,
        labels,
        (*target.notes, *notes, *seeing.notes),
        _env(asked, target, weights),
    )


def _env(asked: Looking, target: Target, weights: Weights) -> dict[str, Any]:
    from modelprobe.environment import brief

    return {
        **brief(),
        "target": asked.target,
        "model": target.name,
        "origin": target.origin,
        "settings": dict(target.given),
        "weights": weights.name,
        "device": "cpu",
        "mode": "eval",
        "seed": asked.seed,
    }


def _named(asked: Looking) -> tuple[Target, str | None]:
    """The target, and the weight file that is to be loaded into it: the target itself, or what --weights names."""
    from modelprobe.model.target import resolve

    file = None if asked.weights in (PRETRAINED, RANDOM) else _weight_file(asked.weights)
    if not names_weights(asked.target) and asked.arch is None and not asked.unsafe_load:
        return resolve(asked.target, asked.settings), file
    from modelprobe.model.weights.as_target import named_target

    found: Checkpoint | None
    target, found = named_target(asked.target, asked.settings, asked.arch, asked.unsafe_load)
    if file is not None and found is not None:
        raise BadInput(f"{asked.target} is a weight file already", "leave --weights out, or name the network itself")
    takes = found is not None and asked.weights == PRETRAINED
    return target, str(Path(asked.target).expanduser()) if takes else file


def _weight_file(text: str) -> str:
    if text.startswith(("http://", "https://")):
        raise BadInput(f"--weights {text} is not on this machine", "download it first")
    path = Path(text).expanduser()
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise BadInput(f"--weights {text!r} is neither a file nor one of {PRETRAINED}, {RANDOM}", "check the path")
    return str(path)


Weighted = tuple["nn.Module", Weights, Any, tuple[Note, ...]]
"""A model, which weights it has, torchvision's entry for them, and notes."""


def _weighted(target: Target, asked: Looking, file: str | None) -> Weighted:
    from modelprobe.model.sources import ZooSource

    if file is not None:
        return _from_file(target, asked, file)
    if isinstance(target.source, ZooSource) and asked.weights == PRETRAINED:
        from modelprobe.model.weights.published import UnavailableError, pretrained

        try:
            got = pretrained(target, asked.seed)
        except UnavailableError as error:
            return _random(target, asked, str(error))
        return got.model, Weights(PRETRAINED, got.name, True), got.entry, got.notes
    if isinstance(target.source, ZooSource) or (asked.weights == RANDOM and not _exists(target)):
        return _random(target, asked, "")
    return _own(target, asked)


def _exists(target: Target) -> bool:
    """Whether the target is a model already: of the user's Python, or unpickled because a person asked for it."""
    from modelprobe.model.weights.as_target import PickledSource

    return target.is_instance or isinstance(target.source, PickledSource)


def _built(target: Target, asked: Looking) -> tuple[nn.Module, tuple[Note, ...]]:
    """The model on the CPU. Of one that exists already a copy, since eval mode and weights would change it."""
    built = target.build("cpu", asked.seed)
    return (copy.deepcopy(built.module).cpu() if target.is_instance else built.module), built.notes


def _random(target: Target, asked: Looking, reason: str) -> Weighted:
    model, notes = _built(target, asked)
    name = f"seed {asked.seed}"
    if not reason:
        note = Note(f"The weights are random ({name}), as --weights random asks.", Level.INFO)
        return model, Weights(RANDOM, name, False), None, (*notes, note)
    text = (
        f"RANDOM WEIGHTS ({name}): {target.name} is not trained here, since {reason}. What follows says something "
        "about the architecture, nothing about what was learned. --weights FILE loads some."
    )
    return model, Weights(RANDOM, name, False, reason), None, (Note(text, Level.WARNING), *notes)


def _own(target: Target, asked: Looking) -> Weighted:
    """A model of the user's own: its weights are those that its constructor, which may load some, left in it."""
    if asked.weights == RANDOM:
        raise BadInput(f"{target.name} is a model already built: --weights random comes too late", "leave it out")
    model, notes = _built(target, asked)
    text = (
        f"The weights are those that {target.name} is built with (seed {asked.seed}): whether they are trained is not "
        "known. --weights FILE loads some."
    )
    return model, Weights("own", f"of {target.name} itself", None), None, (Note(text, Level.ASSUMED), *notes)


def _from_file(target: Target, asked: Looking, file: str) -> Weighted:
    from modelprobe.model.weights.load import load_state_dict_for

    model, notes = _built(target, asked)
    try:
        state, plan = load_state_dict_for(model, file, target=target)
        model.load_state_dict(state, strict=True)
    except CheckFailed as error:
        raise BadInput(error.message, error.hint) from error
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        from modelprobe.errors import one_line

        raise BadInput(
            f"the weights of {file} do not load into {target.name}: {one_line(error)}",
            f"`modelprobe keys {file} --for {target.spec}` says why",
        ) from error
    rules = ", ".join(dict.fromkeys(applied.rule for applied in plan.applied))
    said = (Note(f"The names in {file} were repaired in memory ({rules}).", Level.INFO),) if rules else ()
    return model, Weights("file", file, True), None, (*notes, *said)
