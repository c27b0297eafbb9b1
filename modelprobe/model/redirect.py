"""Keeps a model on the device that it is on, whatever device its code names: `--redirect-device`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_MOVES = (torch.Tensor.cuda, torch.Tensor.xpu)


class RedirectedDevice(TorchFunctionMode):
    """In the body, tensors that the model's code makes on an accelerator or moves there stand on `device`.

    `tensor.cuda()`, `.to("cuda")`, `device="cuda:0"` and modules' `.cuda()` are meant; what torch.cuda itself offers
    (streams, synchronization) is not.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _MOVES:
            return args[0].to(self.device)
        named = dict(kwargs or {})
        if func is torch.Tensor.to or "device" in named:
            args = tuple(self._redirected(value, func is torch.Tensor.to) for value in args)
            named = {key: self._redirected(value, key == "device") for key, value in named.items()}
        return func(*args, **named)

    def _redirected(self, value: Any, names_device: bool) -> Any:
        if isinstance(value, torch.device):
            return self.device if value.type not in ("cpu", "meta") else value
        if names_device and isinstance(value, (str, int)) and not isinstance(value, bool):
            text = f"cuda:{value}" if isinstance(value, int) else value
            return self.device if text.partition(":")[0] not in ("cpu", "meta") else value
        return value
