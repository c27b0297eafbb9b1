"""Networks of the zoos with the names and shapes of another one that compute something else: padding, norms, blur."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelprobe.checkpoint.own_words import architecture_words
from modelprobe.checkpoint.records import Checkpoint
from modelprobe.errors import ProbeError
from modelprobe.model.zoo.names import TIMM, TORCHVISION
from modelprobe.report.units import first_few

if TYPE_CHECKING:
    from modelprobe.model.target import Target

MAX_TWINS_BUILT = 12
MAX_TWINS_SHOWN = 3


def look_alike_text(found: Checkpoint, network: Target) -> str:
    """What a file that fits a network cannot say, in words; nothing where it names the network itself."""
    if network.origin not in (TORCHVISION, TIMM) or network.name in architecture_words(found):
        return ""
    twins = look_alikes(network)
    if not twins:
        return ""
    have, compute = ("has", "computes") if len(twins) == 1 else ("have", "compute")
    others = first_few(twins, MAX_TWINS_SHOWN)
    return f"the file is of {network.spec}: {others} {have} the same names and shapes and {compute} something else"


def look_alikes(network: Target) -> tuple[str, ...]:
    """The networks of the index with the same names and shapes that have other costs or other layers."""
    from modelprobe.model.zoo.index import read_catalogue

    catalogue = read_catalogue()
    own = catalogue.get(f"{network.origin}:{network.name}")
    if own is None:
        return ()
    names, profiles = catalogue.names(own), dict(catalogue.profiles())
    twins = [
        model
        for model, profile in profiles.items()
        if "quantized_" not in model.target
        and model.target != own.target
        and profile == profiles[own]
        and catalogue.names(model) == names
    ]
    costs = own.parameters, own.macs
    found = [model.target for model in twins if (model.parameters, model.macs) != costs]
    equal = [model.target for model in twins if model.target not in found]
    same_library = [target for target in equal if target.partition(":")[0] == network.origin][:MAX_TWINS_BUILT]
    if same_library:
        layers = _printed_layers(own.target)
        found += [target for target in same_library if _printed_layers(target) != layers]
    return tuple(found)


def _printed_layers(target: str) -> str:
    """The layers of a network with their settings, as torch prints them."""
    from modelprobe.model.target import resolve

    try:
        return repr(resolve(target).build("meta").module)
    except ProbeError:
        return ""
