"""Sees every operator of a forward pass and writes it into the ledger, at the level at which the model wrote it.

Recording runs in inference mode. There autograd does not take composite operators apart before the dispatch mode sees
them, so a `linear` arrives as `aten.linear` and attention as `aten.scaled_dot_product_attention`, on every device
alike. A composite that has a formula is recorded whole; one that has none is taken apart under our eyes.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modelprobe.tracing.formulas import Cost, in_real_numbers, operator_name, rule_for
from modelprobe.tracing.meta_results import KnownIndices, MetaResults
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.records import Composite, OpCall, Status, TensorRef
from modelprobe.tracing.tensors import TensorNumbers

_PACKED = frozenset(
    f"aten.{name}" for name in "_pack_padded_sequence _pad_packed_sequence lstm gru rnn_tanh rnn_relu".split()
)
"""Operators on packed sequences: their second argument, lengths, is read on the CPU whatever the device of the data."""


_SAME_DTYPE: dict[str, tuple[int, ...]] = {
    "aten.linear": (0, 1),
    "aten.conv1d": (0, 1),
    "aten.conv2d": (0, 1),
    "aten.conv3d": (0, 1),
    "aten.conv_transpose1d": (0, 1),
    "aten.conv_transpose2d": (0, 1),
    "aten.conv_transpose3d": (0, 1),
    "aten.convolution": (0, 1),
    "aten.matmul": (0, 1),
    "aten.mm": (0, 1),
    "aten.bmm": (0, 1),
    "aten.addmm": (1, 2),
    "aten.baddbmm": (1, 2),
    "aten.scaled_dot_product_attention": (0, 1, 2),
}
"""Operator -> the positions of its operands that have to be of one dtype: `meta` does not ask, a real device does."""


class Operator(NamedTuple):
    """What the observer knows of an operator overload; looked up once per recording.

    `parts` runs an operator without a rule by its parts, each of which is then seen; None when it has none. `pure`: the
    schema tells of no argument that is written or that a result shares memory with.
    """

    name: str
    kind: str
    status: Status
    formula: Callable[..., Any] | None
    parts: Callable[..., Any] | None
    writes: tuple[int, ...]
    written_names: tuple[str, ...]
    returned_names: tuple[str, ...]
    pure: bool = False


def describe_operator(func: Any) -> Operator:
    """The rule, the written arguments and the nature of an overload (or higher-order operator)."""
    schema = getattr(func, "_schema", None)
    qualified = operator_name(func)
    rule = rule_for(qualified)
    status: Status = rule.status if rule else "uncounted"
    kind, formula = (rule.kind, rule.formula) if rule else ("unknown", None)
    # `name` of an overload is "aten::linear"; people know it as aten.linear.
    shown = qualified.replace("::", ".")
    if schema is None:
        from modelprobe.tracing.higher_order import BODIES  # few models have such an operator

        return Operator(shown, kind, status, formula, None if rule else BODIES.get(qualified), (), (), ())
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    composite = rule is None and torch._C._dispatch_has_kernel_for_dispatch_key(
        func.name(), "CompositeImplicitAutograd"
    )
    names = tuple(schema.arguments[i].name for i in written)
    returned = tuple(schema.arguments[i].name for i in written if schema.arguments[i].kwarg_only)
    parts = func.decompose if composite else None
    pure = all(value.alias_info is None for value in (*schema.arguments, *schema.returns))
    return Operator(shown, kind, status, formula, parts, tuple(written), names, returned, pure)


_Base: Any = TorchDispatchMode  # whose methods have no types in some releases of torch


class Observer(_Base):  # type: ignore[misc]
    """The dispatch mode. `ops` grows with every operator; `where` tells the running module's path and call."""

    supports_higher_order_operators = True
    differentiates = False
    """Whether autograd may run inside the forward; what it computes is then told apart."""

    def __init__(self, values: TensorNumbers, where: Callable[[], tuple[str, int]], meta: bool) -> None:
        super().__init__()
        self.ops: list[OpCall] = []
        self.composites: list[Composite] = []
        self.broken: dict[str, str] = {}
        self.written: set[int] = set()
        self._values = values
        self._where = where
        self._meta = meta
        self._operators: dict[Any, Operator] = {}
        self._results, self._indices = MetaResults(), KnownIndices()
        self._inside = -1  # the composite that is being taken apart
        self._blank: set[int] = set()  # memories that were reserved, and that nothing has been written to
        self.unknown: dict[str, str] = {}  # operators that read such memory -> the first module where they did
        self.returned: dict[str, None] = {}  # operators that took what came back from outside torch
        self._left = False  # whether a tensor was handed to numpy
        self._lock = threading.Lock()
        self._started: tuple[int, Operator, Sequence[Any], tuple[TensorRef, ...], tuple[str, int]] | None = None
        self.threads = False  # whether more than one wrote into this ledger

    def twin(self, running: Running) -> Observer:
        """What another thread enters, where `running` tells what it runs, to write into the same ledger."""
        twin = copy(self)
        _Base.__init__(twin)  # which modes it stands in is the thread's own
        twin._where, twin._inside = running.where, -1
        return twin

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # torch's base class would wrap every call below in `torch._dynamo.disable`, whose import takes a second.
        # Compiled parts are run eagerly while we look, so there is no compiler to keep out.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operator = self._operators.get(func)
        if operator is None:
            operator = self._operators[func] = describe_operator(func)
        if operator.parts is not None:
            return self._by_parts(operator, args, kwargs)
        tensors = _tensors(args, kwargs)
        if self._meta and _mixed(tensors):
            given, kwargs = args, {key: _all_meta(value) for key, value in kwargs.items()}
            args = _all_meta(args)
            if operator.name in _PACKED and isinstance(given[1], Tensor) and given[1].dtype == torch.int64:
                args = (args[0], given[1], *args[2:])
        if self._left:
            self._note_returning(operator, tensors)
        if self._values.initialised:
            self._values.note_read(tensors)
        refs = tuple(map(self._values.get, tensors))
        memories = {_storage_key(tensor): ref.storage for tensor, ref in zip(tensors, refs, strict=True)}
        remembered = self._meta and operator.pure
        self._started = (len(self.ops), operator, args, refs, self._where())
        if self._meta:
            _refuse_mixed_dtypes(operator.name, args)
        out = self._results.call(func, args, kwargs) if remembered else func(*args, **kwargs)
        self.ops.append(self._record(operator, args, kwargs, refs, memories, out))
        return out

    def _by_parts(self, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        assert operator.parts is not None
        if self._inside >= 0:
            with self:
                return operator.parts(*args, **kwargs)
        refs = tuple(map(self._values.get, _tensors(args, kwargs)))
        with self._lock:
            number = self._inside = len(self.composites)
            self.composites.append(Composite(operator.name, refs, (), _plain_arguments(args)))
        try:
            # The next kernels arrive here again: with the mode on, inside the operator's own decomposition.
            with self:
                out = operator.parts(*args, **kwargs)
        finally:
            self._inside = -1
        made = tuple(map(self._values.get, _results(out)))
        self.composites[number] = self.composites[number]._replace(outputs=made)
        return out

    def _record(
        self,
        operator: Operator,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        refs: tuple[TensorRef, ...],
        memories: dict[int, int],
        out: Any,
    ) -> OpCall:
        results = _results(out)
        outputs = tuple(self._values.new(tensor, memories.get(_storage_key(tensor))) for tensor in results)
        for target in _written(operator, args, kwargs):
            if self._values.strangers:
                self._values.note_written(target)
            storage = memories.get(_storage_key(target))
            if storage is not None:
                self.written.add(storage)
                self._blank.discard(storage)
            if not any(target is result for result in results):
                self._values.new(target, storage)
        if self._meta and (self._indices.largest or operator.name == "aten.arange"):
            self._indices.note(operator, args, refs, outputs)
        if operator.kind == "creation":
            if "empty" in operator.name:
                self._blank.update(ref.storage for ref in outputs if ref.nbytes)
        elif self._blank and operator.kind != "view":
            self._note_blank(operator, refs)
        cost, bound = self._cost(operator, args, kwargs, refs, outputs, out)
        read, written = _traffic(operator, refs, outputs)
        broken = operator.name in self.broken
        return OpCall(
            operator.name, "unknown" if broken else operator.kind, "uncounted" if broken else operator.status,
            *self._where(), refs, outputs, cost.macs, cost.flops,
            read if cost.read is None else cost.read, written if cost.written is None else cost.written, bound,
            _plain_arguments(args), self._inside,
            self.differentiates and torch._C._current_autograd_node() is not None,
        )  # fmt: skip

    def unfinished(self) -> tuple[OpCall, ...]:
        """The operator that began and put nothing out: after a failure, the one that raised, if it was one."""
        if self._started is None or self._started[0] < len(self.ops):
            return ()
        _, operator, args, refs, (path, call) = self._started
        given = _plain_arguments(args)
        return (OpCall(operator.name, operator.kind, "failed", path, call, refs, (), 0, 0, 0, 0, 0, given),)

    def note_leaving(self) -> None:
        """A tensor leaves torch: whatever comes from outside from now on may have been computed from it."""
        self._left = True

    def _note_returning(self, operator: Operator, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            fresh = tensor.numel() > 1 and not self._values.has(tensor)
            if fresh and (operator.name == "aten.lift_fresh" or _is_foreign(tensor)):
                self.returned[self._where()[0] or "the model itself"] = None

    def _note_blank(self, operator: Operator, refs: tuple[TensorRef, ...]) -> None:
        if any(ref.storage in self._blank for ref in refs):
            self.unknown.setdefault(operator.name, self._where()[0])

    def _cost(
        self,
        operator: Operator,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        refs: tuple[TensorRef, ...],
        outputs: tuple[TensorRef, ...],
        out: Any,
    ) -> tuple[Cost, int]:
        if operator.status == "uncounted" or operator.name in self.broken:
            return Cost(), upper_bound(refs, outputs)
        if operator.formula is None:
            return Cost(), 0
        for name in operator.returned_names:  # the tensors of `out=` come back as the result
            kwargs = {key: value for key, value in kwargs.items() if key != name}
        try:
            found = operator.formula(*args, out=out, **kwargs)
        except Exception as error:  # noqa: BLE001 - a user's formula may raise anything; the operator is then uncounted
            self.broken[operator.name] = f"{type(error).__name__}: {error}"
            return Cost(), upper_bound(refs, outputs)
        cost = found if isinstance(found, Cost) else Cost(int(found))
        if self._values.complex and any(ref.dtype.startswith("complex") for ref in (*outputs, *refs)):
            cost = in_real_numbers(cost, operator.name, operator.kind)
        return cost, 0


def upper_bound(inputs: Sequence[TensorRef], outputs: Sequence[TensorRef]) -> int:
    """At most this many MACs, from the sizes alone.

    A contraction of the three largest operands runs over every combination of its indices. Two axes of one size may
    be one index or two: an index that is summed up after a product stands in one operand at least, any other in two
    tensors. Dense algebra on one matrix of n elements costs up to 32 n^1.5 (14 m n^2 + 8 n^3 FLOPs for singular vectors
    are the most of any formula here).
    """
    operands = sorted(dict.fromkeys(inputs), key=lambda ref: -ref.numel)[:3]
    occurrences: Counter[int] = Counter()
    least: Counter[int] = Counter()
    for ref in (*operands, *outputs[:1]):
        own = Counter(ref.shape)
        occurrences.update(own)
        least |= own
    holding = Counter(size for ref in operands for size in set(ref.shape))
    products = math.prod(
        size ** max((many + 1) // 2, least[size], holding[size]) for size, many in occurrences.items() if size > 1
    )
    algebra = 32 * max((ref.numel for ref in (*operands, *outputs)), default=0) ** 1.5
    return int(max(products if len(operands) > 1 else 0, algebra))


def _tensors(args: Iterable[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among an operator's arguments, those in lists included (`cat`, `index`, LSTM weights)."""
    found: list[Tensor] = []
    for arg in args if not kwargs else (*args, *kwargs.values()):
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)):
            found.extend(item for item in arg if isinstance(item, Tensor))
    return found


def _results(out: Any) -> list[Tensor]:
    return [out] if isinstance(out, Tensor) else _tensors(out, {}) if isinstance(out, (tuple, list)) else []


def _mixed(tensors: Sequence[Tensor]) -> bool:
    meta = [tensor.is_meta for tensor in tensors]
    return any(meta) and not all(meta)


def _all_meta(value: Any) -> Any:
    """A model that holds plain tensors, or makes some on the CPU, mixes them with meta ones: sizes are all we need.

    Numbers wrapped as 0-d tensors may mix, as they may between real devices.
    """
    if isinstance(value, Tensor):
        return value if value.is_meta or value.dim() == 0 else torch.empty_like(value, device="meta")
    if isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value):
        return type(value)(_all_meta(item) for item in value)
    return value


def _is_foreign(tensor: Tensor) -> bool:
    """Whether somebody else owns the tensor's memory, as numpy does after `torch.from_numpy`."""
    try:
        return not tensor.untyped_storage().resizable()
    except (NotImplementedError, RuntimeError):  # sparse and nested layouts
        return False


def _storage_key(tensor: Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse and nested layouts
        return id(tensor)


def _written(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator changes in place. Batch norm says so by `training`, not in its schema."""
    if operator.kind == "norm" and "batch_norm" in operator.name and len(args) > 5 and args[5] is True:
        return [item for item in args[3:5] if isinstance(item, Tensor)]
    found = [args[i] for i in operator.writes if i < len(args)]
    found += [kwargs[name] for name in operator.written_names if name in kwargs]
    return [item for item in found if isinstance(item, Tensor)]


def _traffic(operator: Operator, inputs: Sequence[TensorRef], outputs: Sequence[TensorRef]) -> tuple[int, int]:
    """Bytes read and written when every operand is read once and every result written once; a view moves nothing."""
    if operator.kind == "view":
        known = {ref.storage for ref in inputs}
        fresh = sum(ref.nbytes for ref in outputs if ref.storage not in known)
        return fresh, fresh
    if operator.kind in ("creation", "random") and operator.formula is None and _reads_nothing(operator, inputs):
        # Memory that is only reserved is written by whoever fills it.
        return 0, 0 if "empty" in operator.name else sum(ref.nbytes for ref in outputs)
    read = sum(ref.nbytes for ref in dict.fromkeys(inputs))
    return read, sum(ref.nbytes for ref in outputs)


def _reads_nothing(operator: Operator, inputs: Sequence[TensorRef]) -> bool:
    # `bernoulli(p)` and its like read their parameters; what is made like a tensor, or in its place, does not.
    made = operator.kind == "creation" or not inputs or operator.name.endswith("_like")
    return made or bool(operator.writes)


def _plain_arguments(args: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(map(plain_value, args))


def plain_value(value: Any) -> Any:
    """An argument as the ledger keeps it: numbers, texts and tuples of them, None in the place of a tensor."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(plain_value, value))
    return None if isinstance(value, Tensor) else str(value)


class MixedDtypesError(TypeError):
    """Operands that `meta` takes and no real device does."""


def _refuse_mixed_dtypes(operator: str, args: Sequence[Any]) -> None:
    """Raises MixedDtypesError when `aten.linear` and its like get operands that differ in dtype.

    Under autocast they may: a real device casts them, `meta` does not.
    """
    places = _SAME_DTYPE.get(operator, ())
    found = {args[i].dtype for i in places if i < len(args) and isinstance(args[i], Tensor)}
    if len(found) > 1 and not _inside_autocast():
        kinds = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in found))
        raise MixedDtypesError(f"its operands are {kinds}, and have to be of one dtype")


def _inside_autocast() -> bool:
    # Autocast ran before us: inside a dispatch mode `is_autocast_enabled` is false. Its depth is kept.
    depth: int = torch.autocast_increment_nesting()
    torch.autocast_decrement_nesting()
    return depth > 1
