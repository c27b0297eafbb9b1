"""Runs of library models that were recorded before: answered from the store, without torch.

A user's own code may read what nobody sees from outside, so it is kept under `--keep` alone, with the files of every
module that was loaded.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelprobe.console import say
from modelprobe.errors import BadInput
from modelprobe.files.recording import TraceFile, parse_recording, recording_bytes
from modelprobe.files.store import (
    PACKAGES,
    Store,
    StoreDamagedError,
    is_store_on,
    state_of,
    stored_line,
    surroundings,
)

if TYPE_CHECKING:
    from modelprobe.cost.data_dependent import CostBounds
    from modelprobe.cost.memory.of_target import MemoryRequest
    from modelprobe.cost.traces.saved import RecordedMemory
    from modelprobe.model.build import LoadedModel, TargetRequest
    from modelprobe.tracing.records import Trace
    from modelprobe.tracing.step_records import TrainingTrace

ZOO_ORIGINS = ("torchvision", "timm")
"""The origins of targets whose files `surroundings` looks at."""


@dataclass(frozen=True, slots=True)
class StoreUse:
    """`fresh` records anew and keeps that; `keep` is for runs of code that no library brings."""

    fresh: bool = False
    keep: bool = False


class StoredRun:
    """The place of one run in the store, which holds it or not. `kind` is flops, training or memory.

    `settings` are what else changes the run. A model of a library is looked up wherever it is asked for; one of the
    user's own only where `use.keep` says so, from the same directory, and while no file changes that was loaded for it.
    """

    def __init__(self, kind: str, request: TargetRequest, settings: Mapping[str, Any], use: StoreUse) -> None:
        self._use, self._request, self._kind = use, request, kind
        self._store, self.made = Store(), int(time.time())
        self.key = self._key_with(settings) if is_store_on() else None

    def _key_with(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        asked = {field.name: _as_list(getattr(self._request, field.name)) for field in fields(self._request)}
        depends = surroundings()
        if depends is None or (self._request.inputs_from is not None and not self._use.keep):
            return None
        # A file or directory of that name may be what is meant; then it is the user's own.
        own = {"from": str(Path.cwd())} if self._use.keep and not self._names_library() else {}
        if not own and not self._names_library():
            return None
        return {"kind": self._kind, "request": asked, "settings": dict(settings), **own, **depends}

    def _names_library(self) -> bool:
        """Whether the target can be nothing but the name of a library's model."""
        asked = self._request
        origin, colon, name = asked.target.strip().partition(":")
        known = origin in ZOO_ORIGINS if colon else not any(mark in origin for mark in "/\\")
        code = asked.arch is not None or asked.inputs_from is not None or asked.unsafe_load or asked.weights is not None
        return known and not code and not _is_on_disk(asked.target.strip()) and not name.endswith(".py")

    def sections(self) -> TraceFile | None:
        """The recorded sections, where the store has them. Says on stderr why they are of no use, where they are."""
        if self.key is None or self._use.fresh:
            return None
        try:
            held = self._store.get(self.key)
            if held is None or any(_has_changed(state) for state in held[0]["files"]):
                return None
            found = parse_recording(held[1], f"the stored run of {self._request.target}")
        except (BadInput, StoreDamagedError, ValueError, KeyError, TypeError) as error:
            say(f"the stored run of {self._request.target} is not used: {error}; it is recorded anew")
            return None
        self.made = held[0]["made"]
        return found

    def tell(self) -> None:
        """Say on stderr that the stored run is the answer."""
        say(stored_line(self.made), always=False)

    def keep(self, loaded: LoadedModel, **sections: Any) -> None:
        """Keep a run that was just recorded, if it may be; says so where that cannot be done."""
        if self.key is None or (loaded.target.origin not in ZOO_ORIGINS and not self._use.keep):
            self.key = None
            return
        target = self._request.target
        files = list(_loaded_files(target)) if "from" in self.key else []
        about = {"what": self._kind, "target": target, "files": files}
        problem = self._store.put(self.key, about, recording_bytes(sections))
        if problem:
            self.key = None
            say(f"the run was not kept: {problem}")

    @property
    def digest(self) -> str:
        """The checksum of the stored run of a library's model; "" where there is none."""
        return self._store.digest(self.key) if self.key is not None and "from" not in self.key else ""


@dataclass(frozen=True, slots=True)
class ForwardRun:
    """A recorded forward pass; `bounds` tells those of the costs of a trace of it, `stored` where it lies."""

    trace: Trace
    bounds: Callable[[Trace], tuple[CostBounds, ...]]
    stored: StoredRun


def forward_run(
    request: TargetRequest, use: StoreUse, *, fused: bool = False, mode: str = "eval", functions: bool = False,
    edited: bool = False,
) -> ForwardRun:  # fmt: skip
    """The forward pass of a target: stored, or recorded now and kept.

    `edited` is whether the trace will be changed: bounds of what depends on data need the model itself then.
    """
    stored = StoredRun("flops", request, {"fused": fused, "mode": mode, "functions": functions}, use)
    found = stored.sections()
    if found is not None:
        from modelprobe.cost.traces.saved import bounds_in, forward_in

        held = bounds_in(found)
        if not (edited and held):
            stored.tell()
            return ForwardRun(forward_in(found), lambda _: held, stored)
    from modelprobe.cost.data_dependent import cost_bounds
    from modelprobe.model.build import fuse_model, load_model, record

    loaded = load_model(request)
    loaded = fuse_model(loaded) if fused else loaded
    trace = record(loaded, train=mode == "train", functions=functions)
    stored.keep(loaded, forward=trace, bounds=cost_bounds(loaded.model, trace))
    return ForwardRun(trace, partial(cost_bounds, loaded.model), stored)


def training_run(
    request: TargetRequest, use: StoreUse, freeze: Sequence[str]
) -> tuple[TrainingTrace, StoredRun]:  # fmt: skip
    """The training step of a target with these patterns of frozen parameters: stored, or recorded now and kept."""
    stored = StoredRun("training", request, {"freeze": list(freeze)}, use)
    found = stored.sections()
    if found is not None:
        from modelprobe.cost.traces.saved import training_in

        stored.tell()
        return training_in(found), stored
    from modelprobe.cost.training_step import record_training_step
    from modelprobe.model.build import load_model

    loaded = load_model(request)
    step = record_training_step(loaded, freeze)
    stored.keep(loaded, training=step)
    return step, stored


def memory_run(request: TargetRequest, use: StoreUse, asked: MemoryRequest) -> tuple[RecordedMemory, StoredRun | None]:
    """The followed memory of a target: stored, or recorded now and kept; a loss is the user's own code and is not."""
    if asked.loss is not None:
        return _memory_now(request, asked)[1], None
    settings = {
        "train": asked.train, "optimizer": asked.optimizer, "freeze": list(asked.freeze), "like": asked.like,
        "amp": asked.amp,
    }  # fmt: skip
    stored = StoredRun("memory", request, settings, use)
    found = stored.sections()
    if found is not None:
        from modelprobe.cost.traces.saved import memory_in

        stored.tell()
        return memory_in(found), stored
    loaded, recorded = _memory_now(request, asked)
    stored.keep(loaded, memory=recorded)
    return recorded, stored


def _memory_now(request: TargetRequest, asked: MemoryRequest) -> tuple[LoadedModel, RecordedMemory]:
    from modelprobe.cost.memory.of_target import recorded_memory
    from modelprobe.model.build import load_model

    loaded = load_model(request)
    return loaded, recorded_memory(loaded, asked)


def _is_on_disk(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # longer than any name
        return False


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _has_changed(state: list[Any]) -> bool:
    try:
        return list(state_of(Path(state[0]))) != state
    except OSError:
        return True


def _loaded_files(target: str) -> Iterator[tuple[str, int, int]]:
    """The files that a target is, and those of all loaded modules but what `surroundings` looks at and Python's own."""
    place = Path(target).expanduser()
    for path in place.rglob("*") if place.is_dir() else (place,):
        if path.is_file():
            yield state_of(path.absolute())
    own = f"{Path(os.__file__).parent}{os.sep}"
    site = os.sep + "site-packages" + os.sep
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name.partition(".")[0] in PACKAGES:
            continue
        if not file.startswith(own) or site in file:
            with suppress(OSError):
                yield state_of(Path(file))
