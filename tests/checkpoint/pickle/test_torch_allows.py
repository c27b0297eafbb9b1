"""Would torch.load take it? The answer of `summary` is torch's own, and the line that it gives works."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._weights_only_unpickler import _get_allowed_globals

from modelprobe.checkpoint.answers.summary import summarize_weights
from modelprobe.checkpoint.open import open_checkpoint
from modelprobe.checkpoint.pickle.torch_allows import ALLOWED, allowed

STATE = {"w": torch.ones(2, 2)}

VALUES: dict[str, Callable[[], Any]] = {
    "state dict": lambda: STATE,
    "ordered": lambda: nn.Linear(2, 2).state_dict(),
    "numbers and texts": lambda: {**STATE, "epoch": 3, "name": "x", "lr": 0.1, "betas": (0.9, 0.99), "none": None},
    "size, dtype, device": lambda: {**STATE, "s": torch.Size([2]), "d": torch.float16, "at": torch.device("cpu")},
    "sparse": lambda: {"w": torch.eye(3).to_sparse()},
    "counter": lambda: {**STATE, "c": collections.Counter("aab")},
    "parameter": lambda: {"w": nn.Parameter(torch.ones(2))},
    "namespace": lambda: {**STATE, "args": argparse.Namespace(lr=0.1)},
    "numpy scalar": lambda: {**STATE, "best": np.float64(0.5), "n": np.int64(3)},
    "numpy array": lambda: {**STATE, "mean": np.ones(3, np.float32)},
    "defaultdict": lambda: {**STATE, "history": collections.defaultdict(list)},
    "path": lambda: {**STATE, "root": pathlib.PurePosixPath("/data")},
    "datetime": lambda: {**STATE, "when": datetime.datetime(2024, 1, 2), "for": datetime.timedelta(1)},
    "whole": lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU()),
    "frozen set": lambda: {**STATE, "s": frozenset({1, 2}), "t": {3}},
    "deque": lambda: {**STATE, "d": collections.deque([1, 2])},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", VALUES)
def test_the_answer_is_torchs_own_and_the_line_works(kind: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(VALUES[kind](), path, _use_new_zipfile_serialization=not legacy)
    found = summarize_weights(open_checkpoint(path))
    taken = True
    try:
        torch.load(path, weights_only=True)
    except Exception:  # noqa: BLE001 - whatever the unpickler raises
        taken = False
    assert (not found.refused) is taken, found.refused
    if taken or kind == "deque" or (kind == "whole" and legacy):  # with sources of classes, which no line allows
        assert found.allowing == ""
        return
    assert found.allowing
    with contextlib.ExitStack() as stack:
        before = torch.serialization.get_safe_globals()
        stack.callback(torch.serialization.add_safe_globals, before)
        stack.callback(torch.serialization.clear_safe_globals)
        exec(found.allowing, {})
        torch.load(path, weights_only=True)


def test_the_list_is_that_of_the_installed_torch() -> None:
    theirs = set(_get_allowed_globals())
    assert {name for name in theirs if not allowed(*name.rpartition(".")[::2])} == set()
    ours = {f"{module}.{name}" for module, names in ALLOWED.items() for name in names}
    assert ours - theirs == set()
    assert not allowed("torch", "load")
    assert not allowed("torch.nn.modules.linear", "Linear")


def test_no_line_allows_what_is_dangerous(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            import os

            return os.system, ("true",)

    torch.save({**STATE, "x": Runs()}, tmp_path / "m.pth")
    found = summarize_weights(open_checkpoint(tmp_path / "m.pth"))
    assert found.refused == ("posix.system",)
    assert found.allowing == ""
