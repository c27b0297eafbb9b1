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

from modelprobe.tracing.completeness import DataOrigins
from modelprobe.tracing.failures import asks_for_values
from modelprobe.tracing.formulas import Cost, in_real_numbers, operator_name, rule_for
from modelprobe.tracing.formulas.convolution import ComplexConvolutions
from modelprobe.tracing.meta_results import NOT_KNOWN, KnownValues, MetaResults
from modelprobe.tracing.module_calls import Running
from modelprobe.tracing.operator_parts import BODIES, has_parts
from modelprobe.tracing.records import Composite, OpCall, Status, TensorRef
from modelprobe.tracing.tensors import TensorNumbers, storage_key

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

_DUALS = frozenset({"aten._make_dual", "aten._fw_primal", "aten._unpack_dual"})
"""Forward-mode differentiation, of which nothing comes in inference mode."""


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
        return Operator(shown, kind, status, formula, None if rule else BODIES.get(qualified), (), (), ())
    written = [i for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write]
    composite = rule is None and has_parts(func)
    names = tuple(schema.arguments[i].name for i in written)
    returned = tuple(schema.arguments[i].name for i in written if schema.arguments[i].kwarg_only)
    pure = all(value.alias_info is None for value in (*schema.arguments, *schema.returns))
    parts = func.decompose if composite else None
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
        self.values = values
        self._where = where
        self._meta = meta
        self._operators: dict[Any, Operator] = {}
        self._results, self.known, self._complex = MetaResults(), KnownValues(), ComplexConvolutions()
        self._inside = -1  # the composite that is being taken apart
        self.origins = DataOrigins(values)
        self.refused: tuple[str, BaseException] | None = None  # who was refused a value on `meta` first, and how
        self.wants_gradients = False  # whether the forward turned gradients on, which inference mode does not heed
        self._lock = threading.Lock()
        self._started: tuple[int, Operator, Sequence[Any], tuple[TensorRef, ...], tuple[str, int]] | None = None
        self.threads = False  # whether more than one wrote into this ledger

    def twin(self, running: Running) -> Observer:
        """What another thread enters, where `running` tells what it runs, to write into the same ledger."""
        twin = copy(self)
        _Base.__init__(twin)  # which modes it stands in is the thread's own
        twin._where, twin._inside, twin._results = running.where, -1, copy(self._results)
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
            self.wants_gradients |= operator.name in _DUALS
        if operator.parts is not None:
            return self._by_parts(operator, args, kwargs)
        if not self.differentiates and torch.is_grad_enabled():
            self.wants_gradients = True
        tensors = _tensors(args, kwargs)
        if types:
            if self._is_imagined(tensors):
                return func(*args, **kwargs)
            self.origins.inside_subclasses = True
        given, named = args, kwargs
        if self._meta and self.known.mixes(tensors):
            kwargs = {key: self.known.all_meta(value) for key, value in named.items()}
            args = self.known.all_meta(args)
            if operator.name in _PACKED and isinstance(given[1], Tensor) and given[1].dtype == torch.int64:
                args = (args[0], given[1], *args[2:])
        if self.values.initialised:
            self.values.note_read(tensors)
        refs = tuple(map(self.values.get, tensors))
        if self.values.unseen:
            self.origins.note_unseen(operator.name, self._where()[0])
        memories = {storage_key(tensor): ref.storage for tensor, ref in zip(tensors, refs, strict=True)}
        self._results.inside, alone = 0, operator.pure and not types
        self._started = (len(self.ops), operator, args, refs, self._where())
        if self._meta:
            _refuse_mixed_dtypes(operator.name, args)
        try:
            out = self._results.call(func, args, kwargs, self._meta) if alone else func(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - it is raised again where the values are not known
            out = self._known_result(func, operator, given, named, tensors, error)
        if self._meta:
            self.known.follow(func, operator, given, named, tensors, _written(operator, given, named), out)
        if type(out) is Tensor or types or not self._is_imagined(_results(out)):
            self.ops.append(self._record(operator, args, kwargs, refs, memories, out))
        return out

    def _is_imagined(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are torch's FakeTensors, by which a forward asks for shapes and computes nothing."""
        fakes = [tensor for tensor in tensors if type(tensor).__name__ == "FakeTensor"]
        return bool(fakes) and not any(map(self.values.has, fakes))

    def _by_parts(self, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        assert operator.parts is not None
        if self._inside >= 0:
            with self:
                return operator.parts(*args, **kwargs)
        refs = tuple(map(self.values.get, _tensors(args, kwargs)))
        with self._lock:
            number = self._inside = len(self.composites)
            self.composites.append(Composite(operator.name, refs, (), _plain_arguments(args)))
        try:
            # The next kernels arrive here again: with the mode on, inside the operator's own decomposition.
            with self:
                out = operator.parts(*args, **kwargs)
        finally:
            self._inside = -1
        made = tuple(map(self.values.get, _results(out)))
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
        if operator.name == "aten.set_":
            self.origins.note_set(results[0], self._where()[0])
        outputs = tuple(self.values.new(tensor, memories.get(storage_key(tensor))) for tensor in results)
        beside = []
        for target in _written(operator, args, kwargs):
            if self.values.strangers:
                self.values.note_written(target)
            storage = memories.get(storage_key(target))
            if storage is not None:
                self.written.add(storage)
                self.origins.written(storage)
            if not any(target is result for result in results):
                beside.append(self.values.new(target, storage))
        cost, bound = self._cost(operator, args, kwargs, refs, outputs, out)
        read, written = _traffic(operator, refs, outputs)
        broken = operator.name in self.broken
        op = OpCall(
            operator.name, "unknown" if broken else operator.kind, "uncounted" if broken else operator.status,
            *self._where(), refs, outputs, cost.macs, cost.flops,
            read if cost.read is None else cost.read, written if cost.written is None else cost.written, bound,
            _plain_arguments(args), self._inside,
            self.differentiates and torch._C._current_autograd_node() is not None,
            self._results.inside, tuple(beside),
        )  # fmt: skip
        self.origins.note_operator(op)
        return op._replace(macs=op.macs * self._complex.products(op)) if self.values.complex else op

    def unfinished(self) -> tuple[OpCall, ...]:
        """The operator that began and put nothing out: after a failure, the one that raised, if it was one."""
        if self._started is None or self._started[0] < len(self.ops):
            return ()
        _, operator, args, refs, (path, call) = self._started
        given = _plain_arguments(args)
        return (OpCall(operator.name, operator.kind, "failed", path, call, refs, (), 0, 0, 0, 0, 0, given),)

    def _known_result(
        self, func: Any, operator: Operator, args: Any, kwargs: Any, tensors: Sequence[Tensor], error: Exception
    ) -> Any:
        """What `func`, which raised, returns where the values that it asks for are known; else raises again."""
        found = NOT_KNOWN
        if self._meta and asks_for_values(error):
            found = self.known.answer(func, operator, args, kwargs, tensors)
        if found is NOT_KNOWN:
            self.note_refusal(error)
            raise error
        return found

    def note_refusal(self, error: BaseException) -> None:
        """On `meta` a tensor was asked for what it does not have: the model may swallow that, and go another way."""
        if self._meta and self.refused is None and asks_for_values(error):
            self.refused = self._where()[0], error

    def note_gradients(self) -> None:
        """The forward differentiates, which inference mode keeps it from."""
        self.wants_gradients |= not self.differentiates

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
        # The tensors of `out=` come back as the result.
        kwargs = {key: value for key, value in kwargs.items() if key not in operator.returned_names}
        try:
            found = operator.formula(*args, out=out, **kwargs)
        except Exception as error:  # noqa: BLE001 - a user's formula may raise anything; the operator is then uncounted
            self.broken[operator.name] = f"{type(error).__name__}: {error}"
            return Cost(), upper_bound(refs, outputs)
        cost = found if isinstance(found, Cost) else Cost(int(found))
        if self.values.complex and any(ref.dtype.startswith("complex") for ref in (*outputs, *refs)):
            cost = in_real_numbers(cost, operator.name, operator.kind, args)
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


def _written(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operator changes in place. Batch norm says so by `training`, not in its schema."""
    if operator.kind == "norm" and "batch_norm" in operator.name and len(args) > 5 and args[5] is True:
        return [item for item in args[3:5] if isinstance(item, Tensor)]
    found = [args[i] for i in operator.writes if i < len(args)]
    found += [kwargs[name] for name in operator.written_names if name in kwargs]
    return _tensors(found, {})


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
