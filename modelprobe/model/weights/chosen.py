"""The weights of a model that looks at images: published, of a file, random, or those that its own constructor made."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelprobe.console import working
from modelprobe.errors import BadInput, CheckFailed
from modelprobe.model.build import LoadedModel, TargetRequest, environment_of, resolve_target
from modelprobe.report.blocks import Fact, Level, Note

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.model.target import Target

PRETRAINED, RANDOM = "pretrained", "random"

AS_BUILT = "as built"
"""Random weights where the model is made here; of one that exists already those that it has."""


@dataclass(frozen=True)
class ModelWeights:
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


def load_with_weights(request: TargetRequest) -> LoadedModel:
    """The target on the CPU in eval mode, with the weights that were asked for. Raises ProbeError.

    Published weights that cannot be had are no error: the model keeps seeded random ones, and a warning says so.
    """
    target, file = _target_and_file(request)
    with working(f"loading {target.name}"):
        model, weights, entry, notes = _weighted(target, request, file)
    env = environment_of(request, target, "cpu", weights.name)
    return LoadedModel(request, target, model.eval(), (*target.notes, *notes), env, weights=weights, entry=entry)


def _target_and_file(request: TargetRequest) -> tuple[Target, str | None]:
    """The target, and the weight file that is to be loaded into it: the target itself, or what --weights names."""
    file = None if request.weights in (PRETRAINED, RANDOM, AS_BUILT) else _weight_file(request.weights or "")
    target, found = resolve_target(request)
    if request.inputs:
        from modelprobe.model.inputs.sizes import resize

        target = resize(target, request.inputs)
    if file is not None and found is not None:
        raise BadInput(f"{request.target} is a weight file already", "leave --weights out, or name the network itself")
    takes = found is not None and request.weights == PRETRAINED
    return target, str(Path(request.target).expanduser()) if takes else file


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


Weighted = tuple["nn.Module", ModelWeights, Any, tuple[Note, ...]]
"""A model, which weights it has, torchvision's entry for them, and notes."""


def _weighted(target: Target, request: TargetRequest, file: str | None) -> Weighted:
    from modelprobe.model.sources import ZooSource

    if file is not None:
        return _from_file(target, request, file)
    if isinstance(target.source, ZooSource) and request.weights == PRETRAINED:
        from modelprobe.model.weights.published import UnavailableError, pretrained

        try:
            got = pretrained(target, request.seed)
        except UnavailableError as error:
            return _random(target, request, str(error))
        return got.model, ModelWeights(PRETRAINED, got.name, True), got.entry, got.notes
    made_here = request.weights in (RANDOM, AS_BUILT) and not _is_built_already(target)
    if isinstance(target.source, ZooSource) or made_here:
        return _random(target, request, "")
    return _own(target, request)


def _is_built_already(target: Target) -> bool:
    """Whether the target is a model already: of the user's Python, or unpickled because a person asked for it."""
    from modelprobe.model.weights.as_target import PickledSource

    return target.is_instance or isinstance(target.source, PickledSource)


def _built_on_cpu(target: Target, request: TargetRequest) -> tuple[nn.Module, tuple[Note, ...]]:
    """The model on the CPU. Of one that exists already a copy, since eval mode and weights would change it."""
    built = target.build("cpu", request.seed)
    return (copy.deepcopy(built.module).cpu() if target.is_instance else built.module), built.notes


def _random(target: Target, request: TargetRequest, reason: str) -> Weighted:
    model, notes = _built_on_cpu(target, request)
    name = f"seed {request.seed}"
    if not reason:
        note = Note(f"The weights are random ({name}): nobody gave trained ones.", Level.INFO)
        return model, ModelWeights(RANDOM, name, False), None, (*notes, note)
    text = (
        f"RANDOM WEIGHTS ({name}): {target.name} is not trained here, since {reason}. What follows says something "
        "about the architecture, nothing about what was learned. --weights FILE loads some."
    )
    return model, ModelWeights(RANDOM, name, False, reason), None, (Note(text, Level.WARNING), *notes)


def _own(target: Target, request: TargetRequest) -> Weighted:
    """A model of the user's own: its weights are those that its constructor, which may load some, left in it."""
    if request.weights == RANDOM:
        raise BadInput(f"{target.name} is a model already built: --weights random comes too late", "leave it out")
    model, notes = _built_on_cpu(target, request)
    text = (
        f"The weights are those that {target.name} is built with (seed {request.seed}): whether they are trained is "
        "not known. --weights FILE loads some."
    )
    return model, ModelWeights("own", f"of {target.name} itself", None), None, (Note(text, Level.ASSUMED), *notes)


def _way_to_load(file: str, target: Target) -> str:
    """The command that makes a file of all that the network needs, if one was tried and works."""
    from modelprobe.model.user_code.arguments import settings_texts
    from modelprobe.model.weights.request import RepairOptions, plan_repair
    from modelprobe.model.weights.ways_out import ways_out

    if target.is_instance:
        return ""
    request = RepairOptions(file, target.spec, settings_texts(target.given))
    complete = [way for way in ways_out(plan_repair(request), request) if not way.lost]
    return f"{complete[0].command}: with these settings {complete[0].text}" if complete else ""


def _from_file(target: Target, request: TargetRequest, file: str) -> Weighted:
    from modelprobe.model.weights.load import keys_command, load_state_dict_for

    model, notes = _built_on_cpu(target, request)
    try:
        state, plan = load_state_dict_for(model, file, target=target)
        model.load_state_dict(state, strict=True)
    except CheckFailed as error:
        raise BadInput(error.message, _way_to_load(file, target) or error.hint) from error
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        from modelprobe.errors import one_line

        raise BadInput(
            f"the weights of {file} do not load into {target.name}: {one_line(error)}",
            f"`{keys_command(file, target)}` says why",
        ) from error
    rules = ", ".join(dict.fromkeys(applied.rule for applied in plan.applied))
    said = (Note(f"The names in {file} were repaired in memory ({rules}).", Level.INFO),) if rules else ()
    lost = tuple(Note(f"{text}.", Level.WARNING) for text in (*plan.untied, *plan.assumed))
    return model, ModelWeights("file", file, True), None, (*notes, *said, *lost)
