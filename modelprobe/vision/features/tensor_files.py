"""Tensors by name as the bytes of a file that others read: `npz`, `safetensors` or `pt`."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor

from modelprobe.errors import BadInput


def serialised(tensors: Mapping[str, Tensor], format: str) -> bytes:
    """The tensors as one file. numpy has no bfloat16 and no float8: `npz` holds those as float32.

    Raises BadInput for a tensor that the format has no place for (sparse, quantised, nested; complex in safetensors).
    """
    held = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    if format == "pt":
        out = io.BytesIO()
        torch.save(held, out)
        return out.getvalue()
    for name, tensor in held.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
            raise BadInput(f"{name} is no plain tensor, and {format} holds no other", "--save pt keeps it")
    if format == "safetensors":
        from safetensors.torch import save

        return bytes(save({name: tensor.contiguous() for name, tensor in held.items()}))
    import numpy as np

    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **{name: _widened(tensor).numpy() for name, tensor in held.items()})
    return out.getvalue()


def _widened(tensor: Tensor) -> Tensor:
    narrow = tensor.is_floating_point() and tensor.dtype not in (torch.float16, torch.float32, torch.float64)
    return tensor.to(torch.float32) if narrow else tensor
