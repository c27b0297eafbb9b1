"""A weight file as a target: the network that it belongs to, named by `--arch` or by the class that the file names.

A state_dict is tensors without a network: `--arch` names it. A whole pickled model of torchvision or timm is built anew
from the library, when its class, every name, shape and plain attribute agree. Nothing in a file is run, except under
`--unsafe-load`, and never because something else failed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelprobe.checkpoint.branches import chosen_branch
from modelprobe.checkpoint.file_names import SCHEMES, names_weights
from modelprobe.checkpoint.keys.plan import entries_by_name, plan_keys
from modelprobe.checkpoint.keys.reference import reference_of_model, state_entries
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.own_words import architecture_words
from modelprobe.checkpoint.pickle.modules import HOOKS, is_module
from modelprobe.checkpoint.pickle.nodes import PickleNode, attributes, last_part, object_class, pairs, value_at
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.errors import BadInput, ModelRaised, WouldRunCode, one_line
from modelprobe.model.target import Target, resolve
from modelprobe.model.zoo import names as zoo
from modelprobe.report.blocks import Level, Note

if TYPE_CHECKING:
    from torch import nn

PICKLED_ORIGIN = "pickled model"
MOST_CANDIDATES = 40
"""Architectures of one class that are built on meta and compared; timm's own record of the name comes first."""

MAX_UNPICKLED_MODULES = 20_000
UNCOMPARED = frozenset(("inplace", "training"))
SAFE_HINT = "name the network with --arch, or, if you trust the file, let its code run with --unsafe-load"


@dataclass(frozen=True)
class PickledSource:
    """A model that was unpickled because a person asked for it."""

    module: nn.Module
    label: str

    def make(self, given: Mapping[str, Any]) -> nn.Module:
        return self.module

    def check(self, given: Mapping[str, Any]) -> None:
        if given:
            raise BadInput(f"{self.label} is a model already built: --set comes too late", "leave --set out")

    def failed(self, error: BaseException, given: Mapping[str, Any]) -> Exception:
        return ModelRaised(f"{self.label} could not be used: {one_line(error)}", "--debug shows the traceback")

    def constructor(self) -> None:
        return None


def named_target(
    spec: str, settings: Sequence[str] = (), arch: str | None = None, unsafe: bool = False
) -> tuple[Target, Checkpoint | None]:
    """The target that `spec` names, and the listing of the weight file if it is one.

    Without `arch`, a file of tensors is identified. Raises BadInput where that is not certain, and WouldRunCode for a
    whole model that cannot be built anew.
    """
    if not names_weights(spec):
        for given, option in ((arch is not None, "--arch"), (unsafe, "--unsafe-load")):
            if given:
                raise BadInput(f"{option} is for weight files, and {spec} is none", f"leave {option} out")
        return resolve(spec, settings), None
    path = spec if spec.startswith(SCHEMES) else str(Path(spec).expanduser())
    if unsafe:
        return _unpickled(spec, path, settings, arch), None
    try:
        found = open_checkpoint(path)
    except BadInput:
        if arch is None and Path(path).is_dir():
            return resolve(spec, settings), None  # which says what to name in a directory of code
        raise
    if arch is not None:
        if names_weights(arch):
            raise BadInput(f"--arch {arch} is a weight file, not a network", "for example --arch resnet50")
        return resolve(arch, settings), found
    if found.tree.kind != "module":
        return _identified(found, spec, settings), found
    return _rebuilt(found, settings), found


def _identified(found: Checkpoint, spec: str, settings: Sequence[str]) -> Target:
    """The network of the index with these names and shapes. Raises BadInput, with the nearest, unless it is certain."""
    from modelprobe.model.zoo.index import read_catalogue
    from modelprobe.model.zoo.match import match_network

    chosen = chosen_branch(found, None)
    entries = entries_by_name(found, chosen)
    match = match_network({n: entry.shape for n, entry in entries.items()}, read_catalogue(), architecture_words(found))
    targets = [target for c in match.candidates[:1] for target in (c.target, *c.same_as)]
    given = dict(match.candidates[0].settings) if match.candidates else {}
    zoo_of = {"in_chans": zoo.TIMM, "aux_logits": zoo.TORCHVISION}  # whose factories alone take such an argument
    for name, library in zoo_of.items():
        named = [target for target in targets if name not in given or target.startswith(f"{library}:")]
        if targets and not named and match.verdict == "certain":
            differs = ", ".join(match.candidates[0].differences)
            raise BadInput(
                f"{spec} is {targets[0]} with a difference that its builder cannot make: {differs}",
                "build it in a function of your own: --arch net.py:make",
            )
        targets = named
    if match.verdict != "certain" or not targets:
        near = ", ".join(candidate.target for candidate in match.candidates[:3])
        hint = f"say which network with --arch; the nearest are {near}" if near else "say which network with --arch"
        if match.verdict != "unknown" and targets:
            equals = f", or as well {', '.join(targets[1:4])}" if targets[1:] else ""
            hint = f"--arch {targets[0]} is likely{equals}"
        raise BadInput(
            f"{spec} holds tensors, not a network",
            f"{hint}; `modelprobe identify {shlex.quote(spec)}` shows what differs",
        )
    target = resolve(targets[0], [*(f"{key}={value}" for key, value in given.items()), *settings])
    differs = "".join(f", {text}" for text in (*match.candidates[0].differences, *match.variant.how))
    by_name = ", and by what the file calls itself" if match.by_name else ""
    notes = [Note(f"{spec} is {targets[0]} by the names and shapes in it{by_name}{differs}.", Level.INFO)]
    shapes = {name: entry.shape for name, entry in entries.items()}
    others = [
        branch.name
        for branch in found.branches
        if branch.name != chosen.name and {n: e.shape for n, e in entries_by_name(found, branch).items()} != shapes
    ]
    if others:
        text = f"{spec} holds other tensors too, in {', '.join(others[:4])}: these are of {chosen.name or 'its root'}."
        notes.append(Note(text, Level.WARNING))
    return replace(target, notes=(*target.notes, *notes))


def fit_notes(found: Checkpoint, model: nn.Module, target: Target) -> tuple[Note, ...]:
    """Whether the names and shapes in a file fit a model, as they are or once they are repaired. No value is read."""
    from modelprobe.model.weights.load import keys_command

    name = target.spec
    plan = plan_keys(found, chosen_branch(found, None), reference_of_model(model, name))
    said = f"{found.path} ({plan.branch.name or 'the root'})"
    if plan.complete and plan.certain and not plan.changes:
        return (Note(f"All {len(plan.parts):,} tensors of {said} fit {name} by name and shape.", Level.INFO),)
    if plan.complete and plan.certain:
        rules = ", ".join(dict.fromkeys(applied.rule for applied in plan.applied)) or "dropped entries"
        return (Note(f"The tensors of {said} fit {name} once they are repaired ({rules}).", Level.INFO),)
    counts = {"missing": len(plan.missing), "unexpected": len(plan.unexpected), "of another shape": len(plan.misshapen)}
    what = ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count) or "the assignment is not certain"
    text = f"The tensors of {said} do not fit {name}: {what}. `{keys_command(found.path, target)}` says why."
    return (Note(text, Level.WARNING),)


def _rebuilt(found: Checkpoint, settings: Sequence[str]) -> Target:
    """A whole pickled model built anew by its library. Raises WouldRunCode when none of its models is that one."""
    library, dot, _ = found.tree.type.partition(".")
    if not dot or library not in (zoo.TORCHVISION, zoo.TIMM) or found.root is None:
        raise WouldRunCode(
            f"{found.path} is a whole model of class {found.tree.type}: its code would be run", SAFE_HINT
        )
    if settings:
        raise BadInput("--set needs a network that is named", "name it with --arch")
    differs = ""
    for candidate in _network_candidates(found, library):
        reason = _difference(found, candidate)
        if not reason:
            return replace(candidate, notes=(*candidate.notes, _rebuilt_note(found, library, candidate)))
        differs = differs or f"{candidate.name} is not it, {reason}"
    raise WouldRunCode(
        f"{found.path} is no {found.tree.type} that {library} builds: {differs or 'no builder is like it'}", SAFE_HINT
    )


def _rebuilt_note(found: Checkpoint, library: str, candidate: Target) -> Note:
    told = "".join(f", {key}={value}" for key, value in candidate.given.items())
    return Note(
        f"The file is a whole {found.tree.type}: {library}:{candidate.name}{told} was built instead, equal in names, "
        "shapes, classes and plain attributes. Nothing in the file was run.",
        Level.INFO,
    )


def _network_candidates(found: Checkpoint, library: str) -> Iterator[Target]:
    """Architectures that the class may be, with its own number of classes and channels."""
    names = _timm_names(found) if library == zoo.TIMM else _torchvision_names(found)
    for name in names[:MOST_CANDIDATES]:
        plain = resolve(f"{library}:{name}")
        yield plain
        more = _constructor_arguments(found, library)
        if more:
            yield plain.with_given(more)


def _timm_names(found: Checkpoint) -> list[str]:
    """The name that timm itself left in the model, then those of the module its class stands in."""
    from modelprobe.model.zoo import libraries

    config = found.tree.child("pretrained_cfg") or found.tree.child("default_cfg")
    told = config.child("architecture") if config is not None else None
    names = [told.value] if told is not None and isinstance(told.value, str) else []
    known = libraries.timm().list_models(module=found.tree.type.split(".")[-2])
    return [name for name in dict.fromkeys([*names, *known]) if name in zoo.zoo_names().timm]


def _torchvision_names(found: Checkpoint) -> list[str]:
    """The builders that stand in the module of the class."""
    from modelprobe.model.zoo import libraries

    models = libraries.torchvision_models()
    home = found.tree.type.rpartition(".")[0]
    return [name for name in zoo.zoo_names().torchvision if models.get_model_builder(name).__module__ == home]


def _constructor_arguments(found: Checkpoint, library: str) -> dict[str, int]:
    """What the file says about the constructor's most common arguments."""
    if library == zoo.TIMM:
        told = {key: found.tree.child(key) for key in ("num_classes", "in_chans")}
        return {key: item.value for key, item in told.items() if item is not None and type(item.value) is int}
    heads = [entry for entry in found.tensors if entry.name.endswith("weight") and len(entry.shape) in (2, 4)]
    return {"num_classes": heads[-1].shape[0]} if heads else {}


def _difference(found: Checkpoint, candidate: Target) -> str:
    """What separates the pickled model from a candidate; empty when nothing that can be compared does."""
    try:
        model = candidate.build("meta").module
    except (BadInput, ModelRaised) as error:
        return error.message
    branch = chosen_branch(found, None)
    there = {".".join(entry.path): entry.shape for entry in state_entries(found, branch)}
    here = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if hasattr(tensor, "shape")}
    if there != here:
        name = next((n for n in (*there, *here) if there.get(n) != here.get(n)), "")
        return f"{name} is {_with_classes(there.get(name))} in the file and {_with_classes(here.get(name))} there"
    return _attributes_differ(found.root, model)


def _with_classes(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else "x".join(map(str, shape)) or "scalar"


def _attributes_differ(root: PickleNode, model: nn.Module) -> str:
    """Compare classes and plain attributes, module by module: strides and dilations are in no tensor's shape."""
    stack: list[tuple[str, PickleNode, Any]] = [("", root, model)]
    for _ in range(MAX_UNPICKLED_MODULES):
        if not stack:
            return ""
        path, node, module = stack.pop()
        if last_part(object_class(node)) != type(module).__name__:
            return f"{path or 'the root'} is a {object_class(node)} in the file and a {type(module).__name__} there"
        for key, value in pairs(attributes(node)):
            mine = getattr(module, key, value) if type(key) is str and key not in HOOKS | UNCOMPARED else value
            if _plain_state(value) and _plain_state(mine) and value != mine:
                return f"{path}.{key} is {value} in the file and {mine} there".lstrip(".")
        children = dict(module.named_children())
        for key, child in pairs(value_at(attributes(node), "_modules")):
            if type(key) is str and is_module(child):
                if key not in children:
                    return f"{path}.{key} is not there".lstrip(".")
                stack.append((f"{path}.{key}".lstrip("."), child, children[key]))
    return "it has too many modules to compare"


def _plain_state(value: Any) -> bool:
    if type(value) is tuple:
        return all(_plain_state(item) for item in value)
    return type(value) in (int, float, bool, str)


def _unpickled(spec: str, path: str, settings: Sequence[str], arch: str | None) -> Target:
    """Load a file the ordinary way, which runs whatever it names. Only ever because `--unsafe-load` was given."""
    import torch

    if arch is not None:
        raise BadInput("--arch builds the network itself, --unsafe-load takes it from the file", "give one of them")
    if path.startswith(SCHEMES):
        raise BadInput(f"{spec} is not on this machine", "--unsafe-load takes local files: download it first")
    if not Path(path).is_file():
        raise BadInput(f"there is no file {spec}", "check the path")
    try:
        root = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ModelRaised(
            f"loading {spec} raised {type(error).__name__}: {one_line(error)}", "--debug shows where"
        ) from error
    module = _module_in(root)
    if module is None:
        raise BadInput(
            f"{spec} holds no whole model", "its tensors are read safely: name the network with --arch instead"
        )
    name = type(module).__name__
    source = PickledSource(module, name)
    if settings:
        source.check({"set": settings})
    note = Note(f"The code in {spec} was run, as --unsafe-load asks: a {name} with its own weights.", Level.WARNING)
    return Target(spec, name, PICKLED_ORIGIN, source, (note,))


def _module_in(root: Any) -> nn.Module | None:
    """The model itself, or the one that a dictionary holds under a usual key."""
    from torch import nn

    places = [root, *(root.get(key) for key in ("ema", "model", "module", "net"))] if isinstance(root, dict) else [root]
    return next((value for value in places if isinstance(value, nn.Module)), None)
