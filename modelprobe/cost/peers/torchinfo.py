"""Asks torchinfo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from modelprobe.cost.peers.peer import Peer, positional

if TYPE_CHECKING:
    from torch import nn


def ask(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """torchinfo's "mult-adds"."""
    import torch
    from torchinfo import summary

    with suppress(TypeError):  # by place, where it can be: some names mean something to torchinfo itself
        args, kwargs = positional(model, args, kwargs), {}
    # Without a device it moves the model to a GPU where there is one.
    tensors = (*model.parameters(), *(value for value in args if isinstance(value, torch.Tensor)))
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    return summary(model, input_data=list(args), verbose=0, device=device, **kwargs).total_mult_adds


PEER = Peer("torchinfo", "torchinfo", "mult-adds", 1, ask, convention="torchinfo", on_meta=True)
