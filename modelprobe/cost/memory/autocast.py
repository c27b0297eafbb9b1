"""Autocast on `meta`, which torch has for devices alone: what a CPU or a GPU would cast is cast here.

torch's own kernels for autocast look at the device of a tensor and leave `meta` as it is. Here the same operators get
Python kernels under a dispatch key that no device on this machine uses. They stand, as torch's do, above autograd.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

LOWER = frozenset(
    "conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d _convolution convolution prelu"
    " addmm _addmm_activation addmv addr matmul einsum mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul"
    " _thnn_fused_lstm_cell _thnn_fused_gru_cell cudnn_convolution cudnn_convolution_transpose _cudnn_rnn"
    " mkldnn_rnn_layer linalg_multi_dot lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell scaled_dot_product_attention"
    " _scaled_dot_product_flash_attention _native_multi_head_attention".split()
)
"""Operators that autocast runs in the lower precision. Source: ATen/autocast_mode.h, and autocast_mode.cpp for CPUs."""

WIDEST = frozenset(
    "addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add"
    " stack cat index_copy".split()
)
"""Operators that it runs in the widest type among their operands."""

WIDE_BY_ARGUMENT = frozenset(
    "prod softmax log_softmax cumprod cumsum linalg_vector_norm linalg_matrix_norm sum norm".split()
)
"""Operators of a GPU that it asks for a float32 result, if no type is given. All others are given float32 operands."""

NOT_CAST = frozenset(("fake_quantize_per_tensor_affine",))
"""Operators that are among torch's for another reason."""

_CORE: Any = torch._C
_KEY = _CORE.DispatchKey.AutocastPrivateUse1
_DEFAULT = {"cpu": torch.bfloat16, "cuda": torch.float16}


def autocast_type(like: str) -> torch.dtype:
    """The lower precision that autocast takes on that kind of device, unless told another."""
    return _DEFAULT[like]


@contextmanager
def autocast_on_meta(like: str) -> Iterator[None]:
    """In the body `torch.autocast` works on `meta` as on the kind of device `like`, cpu or cuda, here or not.

    For one thread at a time; the autocast that others have meanwhile is torch's own.
    """
    with ExitStack() as stack:
        made: Any = torch.library.Library
        library, others = made("aten", "IMPL"), made("_", "IMPL")
        stack.callback(library._destroy)
        stack.callback(others._destroy)
        others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
        casts = _Casts()
        for name in _operators(like):
            packet, _, overload = name.removeprefix("aten::").partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            call = partial(_cast_call, casts, like, packet, op)
            library.impl(name.removeprefix("aten::"), call, "AutocastPrivateUse1")
        stack.callback(casts.reset, like)
        _replace_autocast(casts, like, stack)
        yield


def _replace_autocast(casts: _Casts, like: str, stack: ExitStack) -> None:
    """Let `torch.autocast` of this thread set `casts` until `stack` is closed."""
    cls: Any = torch.amp.autocast_mode.autocast
    own = {name: cls.__dict__[name] for name in ("__init__", "__enter__", "__exit__")}
    thread = threading.get_ident()

    def init(
        self: Any, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        self._here = threading.get_ident() == thread
        if not self._here:
            own["__init__"](self, device_type, dtype, enabled, cache_enabled)
            return
        own["__init__"](self, "cpu", enabled=False)  # no GPU is needed, nor a type that it has
        self.device, self.fast_dtype = device_type, dtype or _DEFAULT[like]
        self._enabled, self._ours = enabled, device_type in ("meta", like)
        self._keeps_casts = cache_enabled is not False

    def enter(self: Any) -> Any:
        if not getattr(self, "_here", False):  # another thread's, or made before
            return own["__enter__"](self)
        if self._ours:
            casts.enter(like, self._enabled, self.fast_dtype, self._keeps_casts)
        return self

    def leave(self: Any, *raised: Any) -> Any:
        if not getattr(self, "_here", False):
            return own["__exit__"](self, *raised)
        if self._ours:
            casts.leave(like)
        return False

    for name, function in own.items():
        stack.callback(setattr, cls, name, function)
    cls.__init__, cls.__enter__, cls.__exit__ = init, enter, leave


class _Casts:
    """The state of autocast, and the weights that were cast while it is on."""

    def __init__(self) -> None:
        self.dtype = torch.float32
        self.weights: dict[int, tuple[Tensor, Tensor]] = {}
        self.keeps = True
        self._outer: list[tuple[bool, torch.dtype, bool]] = []

    def enter(self, like: str, enabled: bool, dtype: torch.dtype, keeps: bool) -> None:
        self._outer.append((torch.is_autocast_enabled(like), torch.get_autocast_dtype(like), self.keeps))
        torch.autocast_increment_nesting()
        self._set(like, enabled, dtype)
        self.keeps = keeps

    def leave(self, like: str) -> None:
        enabled, dtype, self.keeps = self._outer.pop()
        self._set(like, enabled, dtype)
        if torch.autocast_decrement_nesting() == 0:
            self.weights.clear()

    def reset(self, like: str) -> None:
        while self._outer:
            self.leave(like)
        self.weights.clear()

    def _set(self, like: str, enabled: bool, dtype: torch.dtype) -> None:
        torch.set_autocast_enabled(like, enabled)
        torch.set_autocast_dtype(like, dtype)
        self.dtype = dtype
        _CORE._dispatch_tls_set_dispatch_key_included(_KEY, enabled)
        _CORE._dispatch_tls_set_dispatch_key_excluded(_KEY, not enabled)

    def cast(self, value: Any, dtype: torch.dtype) -> Any:
        """The value, or each tensor of a list, in that type. A weight is cast once while autocast is on."""
        if isinstance(value, (list, tuple)):
            return type(value)(self.cast(one, dtype) for one in value)
        if not _is_cast(value) or value.dtype is dtype:
            return value
        weight = value.is_leaf and value.requires_grad and value.dtype is torch.float32
        once = self.keeps and weight and dtype is self.dtype
        if not once:
            return value.to(dtype)
        if id(value) not in self.weights:
            self.weights[id(value)] = value, value.to(dtype)
        return self.weights[id(value)][1]


def _cast_call(casts: _Casts, like: str, packet: str, op: Any, *args: Any, **kwargs: Any) -> Any:
    dtype = torch.float32
    with _CORE._ExcludeDispatchKeyGuard(_CORE.DispatchKeySet(_KEY)):
        if not torch.is_autocast_enabled(like):  # turned off by hand, not by leaving it
            return op(*args, **kwargs)
        if like == "cuda" and packet in WIDE_BY_ARGUMENT:
            place = next((at for at, one in enumerate(op._schema.arguments) if one.name == "dtype"), None)
            if place is not None:
                given = args[place] if place < len(args) else kwargs.get("dtype")
                if given is None and _is_cast(args[0]) and args[0].dtype is not dtype:
                    args, kwargs = args[:place], {**kwargs, "dtype": dtype}
                return op(*args, **kwargs)
        elif packet in LOWER:
            dtype = casts.dtype
        elif packet in WIDEST and not any(one.dtype is dtype for one in _tensors(args) if _is_cast(one)):
            return op(*args, **kwargs)
        return op(*(casts.cast(one, dtype) for one in args), **{k: casts.cast(v, dtype) for k, v in kwargs.items()})


def _is_cast(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype is not torch.float64


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


@lru_cache(maxsize=2)
def _operators(like: str) -> tuple[str, ...]:
    """The operators for which this torch has a kernel under autocast on that kind of device."""
    has: Callable[[str, str], bool] = _CORE._dispatch_has_kernel_for_dispatch_key
    key = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}[like]
    names = [name for name in _CORE._dispatch_get_all_op_names() if name.startswith("aten::") and has(name, key)]
    return tuple(name for name in names if name.removeprefix("aten::").partition(".")[0] not in NOT_CAST)
