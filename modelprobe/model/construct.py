"""Call a constructor without giving its weights any memory, or for real and seeded: no random state is left behind,
nothing is downloaded."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from modelprobe.model.skip_init import building_on_meta, skipping
from modelprobe.report.blocks import Level, Note
from modelprobe.tracing.compiler_stand_in import compiler_stand_in
from modelprobe.tracing.restore import seed_generators

BUILT_FOR_REAL = " was built for real on the CPU: on meta its constructor raised "
"""What stands between the model's name and the reason."""


@dataclass(frozen=True)
class Built:
    """A model, and what must be said about how it was built."""

    module: nn.Module
    notes: tuple[Note, ...] = ()


def construct(make: Callable[[], Any], device: str, seed: int, label: str) -> tuple[Any, tuple[Note, ...]]:
    """What `make()` returns, built for `device`, and the notes on it. Raises what `make` raises for real.

    On `meta`: under the meta device; if the constructor cannot do without values there, with its parameters alone on
    meta; if it cannot do that either, for real on the CPU.
    """
    notes: tuple[Note, ...] = ()
    if torch.device(device).type == "meta":
        reason = ""
        for without_memory in (building_on_meta, parameters_on_meta):
            try:
                with seeded(seed), without_memory(), compiler_stand_in():
                    return make(), ()
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - what it was shows in the real build below
                from modelprobe.model.user_code.failure import named

                reason = reason or named(error)
        notes = (Note(f"{label}{BUILT_FOR_REAL}{reason}", Level.INFO),)
    with seeded(seed):
        return make(), notes


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's generators start from `seed`, and stand where they stood afterwards."""
    numpy = sys.modules.get("numpy")
    states = random.getstate(), torch.get_rng_state(), numpy.random.get_state() if numpy else None
    seed_generators(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        torch.set_rng_state(states[1])
        if numpy:
            numpy.random.set_state(states[2])


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Every parameter goes to meta as it is registered; all other tensors are real.

    For constructors that do arithmetic on tensors (torchvision's RegNets). A parameter registered twice stays one.
    """
    original = nn.Module.register_parameter
    moved = WeakIdKeyDictionary()

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        original(module, name, param)
        if param is not None and type(param) is nn.Parameter and not param.is_meta:
            if param not in moved:
                moved[param] = nn.Parameter(param.detach().to("meta"), requires_grad=param.requires_grad)
            module._parameters[name] = moved[param]

    nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
    try:
        with skipping():
            yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]


def buffers_to_meta(module: nn.Module) -> None:
    """Move the buffers of a model whose parameters are on meta there too; one that is shared stays shared."""
    moved: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None and not buffer.is_meta:
                part._buffers[name] = moved.setdefault(id(buffer), buffer.to("meta"))


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence for the constructors of the zoos: their deprecations are not the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class DownloadRefusedError(OSError):
    """Somebody's constructor wanted to fetch something."""

    def __init__(self, host: str) -> None:
        super().__init__(f"it wants to download from {host}, which a question about cost never does")


@contextmanager
def no_downloads() -> Iterator[None]:
    """In the body no host is looked up by this thread, and the Hugging Face hub knows that it is offline."""
    lookup, thread = socket.getaddrinfo, threading.get_ident()
    constants: Any = sys.modules.get("huggingface_hub.constants")
    before, offline = os.environ.get("HF_HUB_OFFLINE"), getattr(constants, "HF_HUB_OFFLINE", None)

    def refused(host: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread or host in (None, "localhost", "127.0.0.1", "::1"):
            return lookup(host, *args, **kwargs)
        raise DownloadRefusedError(host.decode() if isinstance(host, bytes) else str(host))

    socket.getaddrinfo, os.environ["HF_HUB_OFFLINE"] = refused, "1"
    if constants is not None:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        socket.getaddrinfo = lookup
        if before is None:
            os.environ.pop("HF_HUB_OFFLINE", None)
        else:
            os.environ["HF_HUB_OFFLINE"] = before
        if constants is not None:
            constants.HF_HUB_OFFLINE = offline
