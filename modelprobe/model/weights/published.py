"""Published weights of a zoo model: built by the library's own rules, read safely.

torchvision's builders change the network itself for trained weights (frozen batch norms, GoogLeNet's input transform),
so they are called with the weights; timm's adapt weights to other channels and class counts. What either reads is data:
a pickle is only ever unpickled with `weights_only`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelprobe.errors import one_line
from modelprobe.model.construct import seeded, without_warnings
from modelprobe.model.sources import ZooSource
from modelprobe.model.user_code import arguments
from modelprobe.model.weights.download import UnreachableError, bounded_waits, check_reachable, fetch_to_hub
from modelprobe.model.zoo import libraries
from modelprobe.model.zoo.names import TORCHVISION
from modelprobe.report.blocks import Level, Note

if TYPE_CHECKING:
    from torch import nn

    from modelprobe.model.target import Target

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
HUB_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
)


class UnavailableError(Exception):
    """Trained weights cannot be had; the message says why, for the end of a sentence."""


@dataclass(frozen=True)
class Pretrained:
    """A network with the weights its library publishes; `name` of the weights, and torchvision's entry for them."""

    model: nn.Module
    name: str
    entry: Any = None
    notes: tuple[Note, ...] = ()


def pretrained(target: Target, seed: int = 0) -> Pretrained:
    """`target`, which is a zoo's, on the CPU with its published weights. Raises UnavailableError."""
    source = target.source
    assert isinstance(source, ZooSource)
    build = _torchvision if source.library == TORCHVISION else _timm
    try:
        with without_warnings(), seeded(seed), bounded_waits(), _weights_only():
            return build(source, dict(target.given))
    except (UnavailableError, KeyboardInterrupt):
        raise
    except UnreachableError as error:
        raise UnavailableError(str(error)) from error
    except Exception as error:  # of either library, the hub's client, or a damaged file: the reason is told
        raise UnavailableError(f"its published weights could not be loaded ({one_line(error)})") from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """torch's own switch: within, `torch.load` unpickles tensors and nothing else, whoever calls it."""
    before = os.environ.get(WEIGHTS_ONLY)
    os.environ[WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WEIGHTS_ONLY]
        else:
            os.environ[WEIGHTS_ONLY] = before


def _torchvision(source: ZooSource, given: dict[str, Any]) -> Pretrained:
    entry = libraries.default_weights(source.name)
    if entry is not None and not given.get("quantize"):
        entry = entry.meta.get("unquantized", entry)
    if entry is None:
        raise UnavailableError("torchvision publishes none for it")
    fetch_to_hub(entry.url)
    builder = source.builder()
    backbone = {key: None for key in arguments.accepted(builder) if key.startswith("weights_")}
    return Pretrained(builder(weights=entry, **backbone, **given), str(entry), entry)


def _timm(source: ZooSource, given: dict[str, Any]) -> Pretrained:
    timm = libraries.timm()
    cfg = timm.models.get_pretrained_cfg(source.name)
    if cfg is None or not cfg.has_weights:
        raise UnavailableError("timm publishes none for it")
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)
    with ExitStack() as stack:
        if cfg.hf_hub_id:
            stack.enter_context(_hub(cfg))
        elif cfg.url:
            fetch_to_hub(cfg.url)
        model = timm.create_model(source.name, pretrained=True, **given)
    return Pretrained(model, name, None, tuple(_adapted(cfg, given)))


def _adapted(cfg: Any, given: dict[str, Any]) -> Iterator[Note]:
    """What timm changes of published weights by itself, in silence."""
    classes, channels = given.get("num_classes"), given.get("in_chans")
    if classes not in (None, 0, cfg.num_classes):
        text = f"Its last layer is random: the weights are of {cfg.num_classes:,} classes, {classes:,} were asked for."
        yield Note(text, Level.WARNING)
    if channels is not None and channels != (cfg.input_size or (3,))[0]:
        yield Note(f"timm adapted the first layer to {channels} channels.", Level.INFO)


@contextmanager
def _hub(cfg: Any) -> Iterator[None]:
    """Within, the hub's client answers from its cache when the hub is out of reach; by itself it tries for 24 s.

    Raises UnreachableError when it is out of reach and the weights are not in the cache.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    repository, _, revision = str(cfg.hf_hub_id).partition("@")
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else list(HUB_FILES)
    cached = any(isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str) for name in names)
    before = constants.HF_HUB_OFFLINE
    try:
        check_reachable(constants.ENDPOINT)
    except UnreachableError:
        if not cached:
            raise
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
