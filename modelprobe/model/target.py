"""From a string to a target: zoo names, `net.py:Net`, `package.module:factory`; the same for every command."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any

from modelprobe.checkpoint.file_names import names_weights
from modelprobe.errors import BadInput
from modelprobe.model.sources import ModelSource, UserSource, ZooSource, as_probe_errors
from modelprobe.model.user_code import arguments
from modelprobe.model.user_code import import_file as pyfile
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo import names as zoo
from modelprobe.report.blocks import Level, Note

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.model.construct import Built
    from modelprobe.model.inputs.declared import DeclaredInput

PYTHON_FILE = "python file"
IMPORT = "import"

_FILE = re.compile(r"(?P<file>.+\.py)(?::(?P<attribute>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Target:
    """A model that has been named, and not yet built.

    `spec` is what was typed, `name` a short name for reports, `origin` one of `torchvision`, `timm`, `python file` and
    `import`. `given` are the constructor arguments. `notes` say what was chosen on the user's behalf.
    """

    spec: str
    name: str
    origin: str
    source: ModelSource = field(repr=False)
    notes: tuple[Note, ...] = ()
    given: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def build(self, device: str = "meta", seed: int = 0) -> Built:
        """The model and the notes on how it was built, in the mode its constructor left it in. Nothing is downloaded.

        On `meta` no weights are allocated, unless the constructor cannot do without, which a note says. Elsewhere it is
        initialised on the CPU from `seed` and moved. An instance is returned as it is, on whatever device it is.
        Raises BadInput for arguments that do not fit, ModelRaised for what the constructor itself raises.
        """
        from modelprobe.model import construct
        from modelprobe.tracing.module_tree import refuse_what_torch_cannot_walk

        self.source.check(self.given)
        if self.is_instance:
            existing = self.source.make(self.given)
            refuse_what_torch_cannot_walk(existing)
            return construct.Built(existing)
        with as_probe_errors(self.source, self.given), construct.without_warnings(), construct.no_downloads():
            # Imports the library now: some releases compute on import, which the meta device around `make` breaks.
            self.source.constructor()
            module, notes = construct.construct(lambda: self.source.make(self.given), device, seed, self.name)
        refuse_what_torch_cannot_walk(module)
        if device == "meta":
            if not notes and all(parameter.is_meta for parameter in module.parameters()):
                construct.buffers_to_meta(module)
        elif device != "cpu":
            module = module.to(device)
        return construct.Built(module, notes)

    @property
    def is_instance(self) -> bool:
        """Whether the target is a model that exists already, in the user's Python."""
        return isinstance(self.source, UserSource) and self.source.is_instance()

    def declared_inputs(self, model: nn.Module | None = None) -> DeclaredInput | None:
        """What the model says it takes: the zoo's record, an attribute of the model, or a guess from its first layer.

        None when nothing tells. `model` spares building it again; only a model of the user's own is looked at.
        """
        from modelprobe.model.inputs import declared
        from modelprobe.model.inputs import first_layer as guess

        if isinstance(self.source, ZooSource):
            return declared.of_zoo(self.source, self.given)
        return guess.of_module(model if model is not None else self.build().module)

    def with_given(self, more: Mapping[str, Any], *notes: Note) -> Target:
        """The same target with more constructor arguments, and what to say about them."""
        given = MappingProxyType({**self.given, **more})
        return replace(self, given=given, notes=(*self.notes, *notes))


def resolve(spec: str, settings: Sequence[str] = ()) -> Target:
    """The target that `spec` names; `settings` are the `--set key=value` texts. User code is imported.

    Raises BadInput when it names nothing, ModelRaised when the user's file raises while it is imported.
    """
    spec = spec.strip()
    parsed = MappingProxyType(arguments.parse_settings(settings))
    refuse_weight_file(spec)
    library, colon, name = spec.partition(":")
    file = _FILE.fullmatch(spec)
    if colon and library in (zoo.TORCHVISION, zoo.TIMM):
        found = _zoo_target(spec, name, library)
    elif colon and library.replace("_", "-") in ("hf-hub", "local-dir"):
        raise _from_hub(spec)
    elif (colon and library == "hf") or is_configuration(spec):
        found = _config_target(spec, name if colon else "")
    elif colon and (builder := _named_by_library(library, name)) is not None:
        found = _built_target(spec, builder, name)
    elif file:
        found = _file_target(spec, file["file"], file["attribute"])
    elif colon:
        found = _user_target(spec, pyfile.load_module(library), name, IMPORT)
    else:
        found = _zoo_target(spec, spec, "")
    found = replace(found, given=parsed)
    found.source.check(parsed)
    return found


def refuse_weight_file(spec: str) -> None:
    """Raises BadInput when `spec` is the name of a weight file rather than of a model."""
    if names_weights(spec) and not pyfile.expanded(spec).is_dir():
        raise BadInput(
            f"{spec} is a weight file, not a network",
            "name the network that it belongs to: resnet50, timm:NAME, net.py:Net",
        )


def _zoo_target(spec: str, name: str, library: str) -> Target:
    architecture, _, tag = name.partition(".")
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        raise _from_hub(name)
    origins = zoo.zoo_names().origins(architecture)
    wanted = [origin for origin in origins if (not library or origin == library) and not (tag and origin != zoo.TIMM)]
    if not wanted:
        return _renamed_target(spec, name, library)
    source = ZooSource(wanted[0], name)
    if tag:
        _check_tag(architecture, tag)
    return Target(spec, name, wanted[0], source)


def _renamed_target(spec: str, name: str, library: str) -> Target:
    """A deprecated name of timm's, which still means something; else the error for a name that nobody knows."""
    renamed = zoo.zoo_names().renamed
    if library == zoo.TORCHVISION or name not in renamed:
        raise _unknown_target(name, library)
    current = renamed[name]
    if current is None:
        raise BadInput(f"timm has removed {name}, with no replacement", _nearest_hint(name, zoo.TIMM))
    note = Note(f"timm calls {name} {current} now: that was taken", Level.INFO)
    return Target(spec, current, zoo.TIMM, ZooSource(zoo.TIMM, current), (note,))


def _unknown_target(name: str, library: str) -> BadInput:
    for wanted in (library,) if library else (zoo.TORCHVISION, zoo.TIMM):
        if not zoo.installed(wanted):
            return BadInput(f"{wanted} is not installed, so {name!r} cannot be looked up", f"pip install {wanted}")
    other = [origin for origin in zoo.zoo_names().origins(name.partition(".")[0]) if origin != library]
    if library and other:
        return BadInput(f"{library} has no model {name!r}, {other[0]} has", f"{other[0]}:{name}")
    if not name:
        return BadInput("no target was given", "for example resnet50, timm:vit_base_patch16_224, net.py:Net")
    if not library and (missing := _as_path(name)):
        return missing
    package, dot, attribute = name.partition(".")
    if dot and not library and attribute.isidentifier() and find_spec(package) is not None:
        return BadInput(f"no model of torchvision or timm is called {name!r}", f"did you mean {package}:{attribute}?")
    place = library or "torchvision or timm"
    return BadInput(f"no model of {place} is called {name!r}", _nearest_hint(name, library))


def _as_path(name: str) -> BadInput | None:
    """What to say of a name that can only be, or that nearly is, one of a file."""
    path = pyfile.expanded(name)
    if path.is_dir():
        return BadInput(f"{name} is a directory", f"name a file in it, such as {path / 'net.py'}:Net")
    if path.name and path.with_name(f"{path.name}.py").is_file():
        return BadInput(f"there is no file {name}", f"did you mean {name}.py?")
    if "/" in name or os.sep in name:
        return BadInput(f"there is no file {name}", "check the path; a model of your own is net.py:Net")
    return None


def _nearest_hint(name: str, library: str) -> str:
    close = zoo.nearest(name.partition(".")[0], origin=library)
    if close:
        return f"did you mean {', '.join(close)}?"
    return "`modelprobe models` lists them; a model of your own is net.py:Net"


def _check_tag(architecture: str, tag: str) -> None:
    tags = [name.partition(".")[2] for name in libraries.timm().models.get_arch_pretrained_cfgs(architecture)]
    if tag not in tags:
        known = f"it has: {', '.join(sorted(filter(None, tags)))}" if any(tags) else "it has none"
        raise BadInput(f"{architecture} has no pretrained tag {tag!r}", known)


def _from_hub(spec: str) -> BadInput:
    return BadInput(
        f"{spec} stands on a hub and would have to be downloaded; a cost is worked out without",
        "name its architecture instead, such as timm:vit_base_patch16_224",
    )


def _file_target(spec: str, file: str, dotted: str | None) -> Target:
    loaded = pyfile.load_file(file)
    if dotted:
        return _user_target(spec, loaded, dotted, PYTHON_FILE)
    from modelprobe.model.user_code import attributes

    offer = attributes.only_offer(loaded)
    found = _user_target(spec, loaded, offer.name, PYTHON_FILE)
    note = Note(f"{loaded.label}:{offer.name} was taken, the only model in the file", Level.INFO)
    return replace(found, notes=(note, *found.notes))


def is_configuration(spec: str) -> bool:
    """Whether `spec` is a model's configuration, or a directory with one."""
    path = pyfile.expanded(spec)
    return (path.suffix == ".json" and path.is_file()) or (path / "config.json").is_file()


def _named_by_library(package: str, name: str) -> Callable[..., Any] | None:
    from modelprobe.model.other_libraries import named_by_library

    return named_by_library(package, name)


def _config_target(spec: str, hub: str) -> Target:
    """The model that a configuration of transformers, diffusers or timm describes: a file's, or one on the hub."""
    from modelprobe.model.configured import CONFIG, builder_of, config_path, from_hub, read_config, timm_name

    path = from_hub(hub) if hub else config_path(spec)
    label = hub or (path.parent.resolve().name if path.name == CONFIG else path.stem)
    config = read_config(path)
    architecture = timm_name(config)
    if architecture:
        return _zoo_target(spec, architecture, zoo.TIMM)
    return _built_target(spec, builder_of(config, str(path)), label)


def _built_target(spec: str, builder: Callable[..., Any], label: str) -> Target:
    module = ModuleType("modelprobe_configured")
    loaded = pyfile.Loaded(module, pyfile.Surroundings(Path.cwd(), spec), label)
    return Target(spec, label, IMPORT, UserSource(loaded, label, builder))


def _user_target(spec: str, loaded: pyfile.Loaded, dotted: str, origin: str) -> Target:
    from modelprobe.model.user_code import attributes

    if not dotted:
        raise BadInput(
            f"{spec} names no class or function", f"it has: {attributes.listing(attributes.offers(loaded.module))}"
        )
    source = UserSource(loaded, dotted, attributes.attribute(loaded, dotted))
    notes: tuple[Note, ...] = ()
    if source.is_instance():
        notes = (Note(f"{dotted} is a model already built: its own weights and device are used", Level.INFO),)
    return Target(spec, dotted, origin, source, notes)
