"""Asks ptflops, which counts in two ways: at modules and functions (`pytorch`), or at operators (`aten`)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelprobe.cost.peers.peer import Peer, named
from modelprobe.errors import ModelRaised

if TYPE_CHECKING:
    from torch import nn


def ask_pytorch(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """ptflops' MACs by its default backend."""
    return _asked(model, args, kwargs, "pytorch")


def ask_aten(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """ptflops' MACs by its backend `aten`."""
    return _asked(model, args, kwargs, "aten")


def _asked(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], backend: str) -> Any:
    """The figure. Where ptflops fails it prints why and returns None: that becomes an exception here."""
    from ptflops import get_model_complexity_info

    batch = args[0] if len(args) == 1 and not kwargs else named(model, args, kwargs)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        found = get_model_complexity_info(
            model,
            (1,),  # must be there, and is not looked at beside a constructor
            input_constructor=lambda _: batch,
            as_strings=False,
            print_per_layer_stat=False,
            backend=backend,
        )[0]
    if found is None:
        text = " ".join(said.getvalue().partition("exception:")[2].split())
        kind, _, message = text.removeprefix("<class '").partition("'>: ")
        raise ModelRaised(f"raised {kind}: {message}" if message else "it gives no figure and no reason")
    return found


PYTORCH = Peer("ptflops", "ptflops", "MACs", 1, ask_pytorch, convention="ptflops", extra="compare")
ATEN = Peer("ptflops-aten", "ptflops", "MACs", 1, ask_aten, convention="ptflops-aten", extra="compare")
