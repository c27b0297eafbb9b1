"""The ledger of a run with its values: every operator, where its operands come from, and what it put out.

The dispatch mode here stands above the operators as the model writes them: in inference mode composites such as
`aten.linear` arrive whole.
"""

from __future__ import annotations

import threading
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from modelprobe.inside.divergence.spill import ValueStore
from modelprobe.tracing.dispatch import Operator, describe_operator
from modelprobe.tracing.module_tree import walk

_COPIES = frozenset(
    f"aten.{name}"
    for name in "clone contiguous _to_copy to type_as detach alias lift_fresh lift resolve_conj resolve_neg "
    "_unsafe_view view_copy _reshape_copy".split()
)
"""Operators that put out the values that they are given, in another type or another place of memory."""

_DROPOUTS = frozenset(f"aten.{name}" for name in "dropout feature_dropout alpha_dropout native_dropout".split())


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that an operator reads. `maker` is the number of the operator that made it or wrote to it last, else -1.

    `name` is then the parameter, the buffer or the input (`input 0`); empty for any other constant. `check` is the
    checksum of such a value; inputs have none, since they are the same for both runs.
    """

    maker: int
    position: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    check: int = 0

    @property
    def is_constant(self) -> bool:
        """Whether it is neither computed nor given: a parameter, a buffer, a tensor that the model holds."""
        return self.maker < 0 and not self.name.startswith("input ")


@dataclass(slots=True)
class TapeOp:
    """One operator call. `arguments` are its plain arguments, with `None` in the place of tensors.

    `role` is `node` for what computes, `passing` for what only hands values on (views, copies, casts), `source` for
    what makes a constant. `sums` are (sum, sum of magnitudes, norm) of each output, in float64.
    """

    number: int
    name: str
    kind: str
    role: str
    path: str
    backward: bool
    arguments: tuple[Any, ...]
    operands: tuple[Operand, ...]
    outputs: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    sums: tuple[tuple[float, float, float], ...] = ()
    random: bool = False

    @property
    def step(self) -> str:
        """The operator's name without the mark of one that writes in place: `add_` is the same step as `add`."""
        return self.name.removesuffix("_")

    @property
    def checks(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The checksums and shapes of the constants that it reads."""
        return tuple((o.check, o.shape) for o in self.operands if o.is_constant)


_TapeMode: Any = TorchDispatchMode  # whose methods have no types in some releases of torch


class Tape(_TapeMode):  # type: ignore[misc]
    """The dispatch mode: `ops` grows with every operator; `store` takes what the nodes put out.

    `where` tells the running module and whether this is a backward pass. Subclasses change what is done with results.
    """

    supports_higher_order_operators = True

    def __init__(self, store: ValueStore | None = None) -> None:
        super().__init__()
        self.ops: list[TapeOp] = []
        self.where: Callable[[], tuple[str, bool]] = lambda: ("", False)
        self._store = store
        self._known: dict[int, tuple[weakref.ref[Tensor], int, int]] = {}
        self._written: dict[int, int] = {}  # memory -> the operator that wrote to it last
        self._constants: dict[int, str] = {}  # address -> name
        self._checks: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._operators: dict[Any, Operator] = {}
        self._inputs: dict[int, tuple[Tensor, str]] = {}
        self._lock = threading.RLock()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # see tracing.dispatch.Observer

    def starts(self, model: nn.Module, inputs: Sequence[tuple[str, Tensor]]) -> None:
        """The model's tensors and the inputs get their names; called once the run is about to begin."""
        for path, module in walk(model):
            for table in (module._parameters, module._buffers):
                for name, tensor in table.items():
                    if tensor is not None and tensor.layout is torch.strided:
                        self._constants.setdefault(tensor.data_ptr(), f"{path}.{name}" if path else name)
        self._inputs = {id(tensor): (tensor, f"input {index}") for index, (_, tensor) in enumerate(inputs)}

    def ends(self) -> None:
        """Let go of the inputs; what is known of the operators stays."""
        self._inputs.clear()
        self.where = lambda: ("", False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = self._operators.get(func)
        if operator is None:
            operator = self._operators[func] = describe_operator(func)
        operands = flat_tensors(args, kwargs)
        with self._lock:
            op = self._described(operator, args, kwargs, operands)
            before = self.before(op, func, args, kwargs)
        out = func(*args, **kwargs)
        with self._lock:
            results = [*_values_among(results_of(out)), *self._written_only(operator, args, kwargs, out)]
            op.outputs = tuple(tuple(tensor.shape) for tensor in results)
            op.dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in results)
            self.after(op, results, before)
            self._register(op, operator, operands, results)
        return out

    def maker_of(self, tensor: Tensor) -> int:
        """The number of the operator that made a tensor, -1 for one that none made."""
        return self._operand(tensor).maker

    def before(self, op: TapeOp, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What is wanted of the operands before the operator may overwrite them; handed to `after`."""

    def after(self, op: TapeOp, results: Sequence[Tensor], before: Any) -> None:
        """What an operator put out: measured, and kept."""
        if op.role != "node":
            return
        op.sums = tuple(sums_of(tensor) for tensor in results)
        if self._store is not None:
            for position, tensor in enumerate(results):
                self._store.put((op.number, position), tensor)

    def _described(self, operator: Operator, args: Any, kwargs: Any, operands: Sequence[Tensor]) -> TapeOp:
        path, backward = self.where()
        op = TapeOp(
            len(self.ops), operator.name, operator.kind, role_of(operator, args), path, backward,
            plain_arguments(operator, args, kwargs), tuple(map(self._operand, operands)), (), (),
            random=operator.kind == "random",
        )  # fmt: skip
        self.ops.append(op)
        return op

    def _operand(self, tensor: Tensor) -> Operand:
        shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        known = self._known.get(id(tensor))
        maker, position = (known[1], known[2]) if known is not None and known[0]() is tensor else (-1, 0)
        last = self._written.get(storage_number(tensor), -1)
        if last > maker:
            maker, position = last, 0
        if maker >= 0:
            return Operand(maker, position, "", shape, dtype)
        if id(tensor) in self._inputs:
            return Operand(-1, 0, self._inputs[id(tensor)][1], shape, dtype)
        name = self._constants.get(tensor.data_ptr(), "") if tensor.layout is torch.strided else ""
        return Operand(-1, 0, name, shape, dtype, self._check(tensor))

    def _check(self, tensor: Tensor) -> int:
        known = self._checks.get(id(tensor))
        if known is None or known[0]() is not tensor:
            known = self._checks[id(tensor)] = (weakref.ref(tensor), checksum_of(tensor))
        return known[1]

    def _written_only(self, operator: Operator, args: Any, kwargs: Any, out: Any) -> list[Tensor]:
        """What an operator wrote to and does not return: the running statistics of a batch norm."""
        results = results_of(out)
        places = [args[i] for i in operator.writes if i < len(args)]
        if operator.kind == "norm" and "batch_norm" in operator.name and len(args) > 5 and args[5] is True:
            places += args[3:5]
        return [t for t in places if isinstance(t, Tensor) and not any(t is result for result in results)]

    def _register(self, op: TapeOp, operator: Operator, operands: Sequence[Tensor], results: Sequence[Tensor]) -> None:
        given = {storage_number(tensor) for tensor in operands}
        writes = bool(operator.writes) or any(any(r is o for o in operands) for r in results)
        for position, tensor in enumerate(results):
            self._known[id(tensor)] = (weakref.ref(tensor), op.number, position)
            memory = storage_number(tensor)
            if memory not in given:
                self._written.pop(memory, None)
            elif writes and op.role != "passing":
                self._written[memory] = op.number


def role_of(operator: Operator, args: Sequence[Any]) -> str:
    """`node`, `passing` or `source`."""
    if operator.kind in ("view", "label") or operator.name in _COPIES:
        return "passing"
    if operator.name in _DROPOUTS and len(args) > 2 and (args[2] is False or not args[1]):
        return "passing"
    return "source" if operator.kind == "creation" and not operator.writes else "node"


def plain_arguments(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments with None for tensors; keywords as (name, value), those that say nothing left out."""
    named = tuple(
        (key, plain_argument(value)) for key, value in sorted(kwargs.items()) if value is not None and key != "device"
    )
    return (*map(plain_argument, args), *named)


def plain_argument(value: Any) -> Any:
    """A number or text as it is, a list as a tuple, None for a tensor and for where one is made."""
    if isinstance(value, (Tensor, torch.device)):
        return None
    if isinstance(value, (list, tuple)):
        return tuple(map(plain_argument, value))
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def flat_tensors(args: Any, kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among arguments, in order, those in lists included."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, Tensor)]
    return found


def results_of(out: Any) -> list[Tensor]:
    """The tensors that an operator returned."""
    return [out] if isinstance(out, Tensor) else flat_tensors(out, {}) if isinstance(out, (list, tuple)) else []


def _values_among(results: list[Tensor]) -> list[Tensor]:
    """Without the bytes in which a kernel keeps notes for its backward pass (mkldnn's LSTM): they are no values."""
    if any(tensor.is_floating_point() for tensor in results):
        return [tensor for tensor in results if tensor.dtype is not torch.uint8]
    return results


def storage_number(tensor: Tensor) -> int:
    """What two tensors on the same memory have in common."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return id(tensor)


def checksum_of(tensor: Tensor) -> int:
    """A checksum of the values in the order of the indices, whatever the layout."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        return 0
    flat: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return zlib.crc32(flat.data) if flat.size else 0


SUMMED_AT_ONCE = 1 << 17
"""Elements of which float64 copies are made at a time."""


def sums_of(tensor: Tensor) -> tuple[float, float, float]:
    """Sum, sum of magnitudes and norm of a tensor in float64, without a copy of the whole."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or not tensor.numel():
        return (0.0, 0.0, 0.0)
    total = magnitudes = squares = 0.0
    for part in torch.split(tensor.detach().reshape(-1), SUMMED_AT_ONCE):
        wide = part.to(torch.float64)
        total += float(wide.sum())
        magnitudes += float(wide.abs().sum())
        squares += float(wide.square().sum())
    return (total, magnitudes, squares**0.5)
