"""What stands behind a target: a builder of a zoo, or something in the user's own Python."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modelprobe.errors import BadInput, ModelRaised
from modelprobe.model.user_code import arguments
from modelprobe.model.user_code.import_file import Loaded
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo.names import TORCHVISION

if TYPE_CHECKING:
    from torch import nn

# The default of `image_size` in the builders of torchvision.
_USUAL_SIZE = 224
_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")
_TWICE = re.compile(r"multiple values for (?:keyword )?argument '(\w+)'")
_WEIGHTS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone", "checkpoint_path", "progress")


class ModelSource(Protocol):
    """Something that can be called for a model."""

    def make(self, given: Mapping[str, Any]) -> nn.Module:
        """The model, from these constructor arguments. Runs under whatever device context stands around it."""

    def check(self, given: Mapping[str, Any]) -> None:
        """Raises BadInput when it cannot be called with these arguments."""

    def failed(self, error: BaseException, given: Mapping[str, Any]) -> Exception:
        """What to raise when `make` raised `error`."""

    def constructor(self) -> Callable[..., Any] | None:
        """The callable whose signature tells what may be set; a class, for a zoo's builder."""


@dataclass(frozen=True)
class ZooSource:
    """A name of torchvision or timm, with a pretrained tag or not. No weights are ever asked for."""

    library: str
    name: str

    def builder(self) -> Callable[..., Any]:
        """The library's own function for this name."""
        if self.library == TORCHVISION:
            found: Callable[..., Any] = libraries.torchvision_models().get_model_builder(self.name)
            return found
        entry: Callable[..., Any] = libraries.timm().model_entrypoint(self.name)
        return entry

    def constructor(self) -> Callable[..., Any] | None:
        """The class that the builder says it returns, else the builder."""
        builder = self.builder()
        returned = inspect.unwrap(builder).__annotations__.get("return")
        if isinstance(returned, str):
            returned = vars(sys.modules[builder.__module__]).get(returned)
        return returned if isinstance(returned, type) else builder

    def make(self, given: Mapping[str, Any]) -> nn.Module:
        if self.library == TORCHVISION:
            builder = self.builder()
            none = {key: None for key in arguments.accepted(builder) if key.startswith("weights")}
            model: nn.Module = builder(**none, **{**self.native_size(), **given})
        else:
            model = libraries.timm().create_model(self.name, pretrained=False, **given)
        return model

    def native_size(self) -> dict[str, int]:
        """`image_size=` of torchvision's DEFAULT weights where the builder's own default is another (vit_h_14: 518).

        torchvision itself sets it from `meta["min_size"]` when it is asked for those weights.
        """
        weights = libraries.default_weights(self.name) if self.library == TORCHVISION else None
        constructor = self.constructor()
        if weights is None or constructor is None or "image_size" not in arguments.accepted(constructor):
            return {}
        size = int(weights.meta["min_size"][0])
        return {"image_size": size} if size != _USUAL_SIZE else {}

    def check(self, given: Mapping[str, Any]) -> None:
        for key in given:
            if key in _WEIGHTS:
                raise BadInput(f"--set {key} would load weights", "a cost does not depend on them: leave it out")

    def failed(self, error: BaseException, given: Mapping[str, Any]) -> Exception:
        refused = _refused(error, _UNEXPECTED, given)
        if refused:
            return arguments.unknown_setting(refused, self._accepted(), self.name)
        fixed = _refused(error, _TWICE, given)
        if fixed:
            return BadInput(f"{self.name} sets {fixed} itself", "leave that --set out")
        from modelprobe.model.user_code.failure import told

        hint = "the arguments it was given: " + ", ".join(f"{key}={value!r}" for key, value in given.items())
        return ModelRaised(
            f"{self.name} could not be built: {told(error)}", hint if given else "--debug shows the traceback"
        )

    def _accepted(self) -> list[str]:
        names: dict[str, None] = {}
        for function in (self.builder(), self.constructor()):
            if function is not None:
                names.update(dict.fromkeys(arguments.accepted(function)))
        return [name for name in names if name not in _WEIGHTS]


@dataclass(frozen=True)
class UserSource:
    """A class, a factory or an instance in the user's Python."""

    loaded: Loaded
    attribute: str
    value: Any

    @property
    def label(self) -> str:
        """`Net.__init__` for a class, `make` for a function: what an error calls it."""
        return f"{self.attribute}.__init__" if isinstance(self.value, type) else self.attribute

    @property
    def directory(self) -> Path:
        """The folder whose frames are the user's own."""
        return self.loaded.surroundings.directory

    def is_instance(self) -> bool:
        """Whether the model exists already."""
        from torch import nn

        return isinstance(self.value, nn.Module)

    def constructor(self) -> Callable[..., Any] | None:
        return None if self.is_instance() else self.value

    def make(self, given: Mapping[str, Any]) -> nn.Module:
        from torch import nn

        if self.is_instance():
            existing: nn.Module = self.value
            return existing
        library = self._builder()
        with self.loaded.surroundings.entered():
            made = library.make(self.value, given) if library is not None else self.value(**given)
        if not isinstance(made, nn.Module):
            raise self._not_a_module(made)
        return made

    def _builder(self) -> Any | None:
        """The file of the class's library, where that builds it from settings that the class itself does not take."""
        if not isinstance(self.value, type):
            return None
        from modelprobe.model.other_libraries import library_of

        library = library_of(self.value)
        return library if library is not None and getattr(library, "builds", lambda _: False)(self.value) else None

    def check(self, given: Mapping[str, Any]) -> None:
        if self._builder() is not None:
            return  # it says itself what it does not know
        if not self.is_instance():
            arguments.check_call(self.value, given, self.label)
        elif given:
            raise BadInput(
                f"{self.attribute} is a model already built: --set {next(iter(given))} comes too late",
                "name its class or a function that builds it",
            )

    def failed(self, error: BaseException, given: Mapping[str, Any]) -> Exception:
        refused = _refused(error, _UNEXPECTED, given)
        if refused:
            return arguments.unknown_setting(refused, arguments.accepted(self.value), self.label)
        from modelprobe.model.user_code.failure import told
        from modelprobe.tracing.failures import asks_for_cuda

        told_ = told(error, self.directory)
        hint = "--debug shows the traceback"
        if asks_for_cuda(error):
            hint = f"it asks for CUDA, which is not here: --redirect-device builds it without; {hint}"
        return ModelRaised(f"building {self.attribute} failed: {told_}", hint)

    def _not_a_module(self, made: Any) -> BadInput:
        from torch import nn

        inner = made.values() if isinstance(made, dict) else made if isinstance(made, (tuple, list)) else ()
        kinds = [type(item).__name__ for item in inner]
        detail = f" of {', '.join(kinds[:6])}" if kinds else ""
        hint = "it must return one torch.nn.Module"
        if any(isinstance(item, nn.Module) for item in inner):
            hint = "write a function that returns the one to look at"
        what = type(made).__name__
        if isinstance(made, type) and issubclass(made, nn.Module):
            what, hint = f"the class {made.__name__}", f"name the class itself: {self.loaded.label}:{made.__name__}"
        return BadInput(f"{self.attribute} returned {what}{detail}, not a torch.nn.Module", hint)


def _refused(error: BaseException, pattern: re.Pattern[str], given: Mapping[str, Any]) -> str:
    """The `--set` key that a TypeError complains about, or nothing."""
    match = pattern.search(str(error)) if isinstance(error, TypeError) else None
    return match[1] if match and match[1] in given else ""


@contextmanager
def as_probe_errors(source: ModelSource, given: Mapping[str, Any]) -> Iterator[None]:
    """What the constructor raises, as one line of ours."""
    try:
        yield
    except (BadInput, ModelRaised, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise source.failed(error, given) from error
