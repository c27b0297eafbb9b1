"""What a recording did not see: layers that were silent, data from nowhere, results that nobody read."""

from __future__ import annotations

import functools
import gc
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import isasyncgen, iscoroutine
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from modelprobe.tracing.module_calls import Running, is_script
from modelprobe.tracing.records import CoverageGap, ModuleTree, OpCall, TensorRef, coverage_gap
from modelprobe.tracing.tensors import TensorNumbers, storage_key

MAX_STRANGERS = 16
"""How many tensors of unknown origin are kept until the end of a forward."""

MAX_NESTING = 4
"""How deep in its containers an output is searched for what nobody read."""


_CONSTRUCTING = frozenset({"aten.lift_fresh", "aten.detach_"})
"""What `torch.tensor` gives its new tensor to first."""


_TAKING_LISTS = frozenset(f"aten.{name}" for name in "index _unsafe_index index_put index_put_".split())
"""Operators that are given lists of Python's numbers: torch makes tensors of them where no operator is seen."""


class DataOrigins:
    """Where the data that operators read came from: operators, or what no operator did.

    `unknown` are operators that read memory which nothing was written to, with the first module where they did;
    `returned` the modules that took back what had left torch, `elsewhere` those that took what something unseen made
    during the forward. `drew` are the libraries beside torch whose random numbers were drawn.
    """

    def __init__(self, values: TensorNumbers) -> None:
        self.unknown: dict[str, str] = {}
        self.returned: dict[str, None] = {}
        self.elsewhere: dict[str, None] = {}
        self.drew = ""
        self.left = False  # whether a tensor was handed to numpy
        self.handed: dict[int, str] = {}  # values that were handed to Python or to numpy, and where
        self.inside_subclasses = False  # whether tensors hold others, which operators make unseen
        self._values = values
        self._blank: set[int] = set()  # memories that were reserved, and that nothing has been written to
        self._strangers: list[tuple[Tensor, str]] = []  # tensors of which no operator told, and where they were read

    def written(self, storage: int) -> None:
        """An operator wrote to this memory."""
        self._blank.discard(storage)

    def note_operator(self, op: OpCall) -> None:
        """Take note of memory that is reserved, and of who reads it before anybody wrote to it."""
        if op.kind == "creation":
            if "empty" in op.name:
                self._blank.update(ref.storage for ref in op.outputs if ref.nbytes)
        elif self._blank and op.kind != "view":
            self._note_blank(op.name, op.module, op.inputs)

    def _note_blank(self, name: str, where: str, refs: Sequence[TensorRef]) -> None:
        if any(ref.storage in self._blank for ref in refs):
            self.unknown.setdefault(name, where)

    def note_leaving(self, where: Callable[[], tuple[str, int]], tensor: Tensor, method: str) -> None:
        """A tensor leaves torch: what comes from outside from now on may have been computed from it, but for a list."""
        self.left = self.left or method != "tolist"
        self.handed.setdefault(self._values.get(tensor).value, where()[0])

    def note_unseen(self, name: str, where: str) -> None:
        """An operator reads tensors that came up for the first time."""
        fresh, self._values.unseen = self._values.unseen, []
        for tensor in fresh or ():
            if type(tensor) not in (Tensor, nn.Parameter) or tensor.numel() < 2:
                continue  # a subclass may be no more than a wrapper of tensors that are known
            if name in _TAKING_LISTS and tensor.dtype == torch.int64:
                continue
            foreign, constructed = _is_foreign(tensor), name in _CONSTRUCTING
            if self.left and (constructed or foreign):
                self.returned[where or "the model itself"] = None
            elif not constructed and (not foreign or _is_shared(tensor)):
                key = storage_key(tensor)
                if key not in self._values.blocks.returned and len(self._strangers) < MAX_STRANGERS:
                    self._strangers.append((tensor, where))

    def note_set(self, tensor: Tensor, where: str) -> None:
        """A tensor was put on a memory: one that is shared with other processes was filled by one of them."""
        if storage_key(tensor) not in self._values.blocks.returned and _is_shared(tensor):
            self.elsewhere[where or "the model itself"] = None

    @contextmanager
    def watched(self, model: nn.Module) -> Iterator[None]:
        """In the body, tensors that something unseen makes are told from those that were there before.

        Python's collector keeps what it is told to freeze apart from what is made later.
        """
        self._values.unseen = []
        frozen = not gc.get_freeze_count()
        if frozen:
            gc.freeze()
        try:
            yield
            if frozen and self._strangers and not (self.inside_subclasses or any(map(is_script, model.modules()))):
                self._judge_strangers()
        finally:
            if frozen:
                gc.unfreeze()
            self._values.unseen = None
            self._strangers.clear()

    def _judge_strangers(self) -> None:
        new = {id(found) for found in gc.get_objects() if isinstance(found, Tensor)}
        for tensor, where in self._strangers:
            if id(tensor) in new:
                self.elsewhere[where or "the model itself"] = None


def _is_foreign(tensor: Tensor) -> bool:
    """Whether somebody else owns the tensor's memory, as numpy does after `torch.from_numpy`."""
    try:
        return not tensor.untyped_storage().resizable()
    except (NotImplementedError, RuntimeError):  # sparse and nested layouts
        return False


def _is_shared(tensor: Tensor) -> bool:
    storage: Any = tensor.untyped_storage()
    return bool(tensor.device.type == "cpu" and storage.is_shared())


class _Observed(Protocol):
    """What is asked of the dispatch mode."""

    ops: list[OpCall]
    values: TensorNumbers
    origins: DataOrigins


def gaps(
    tree: ModuleTree, observer: _Observed, running: Running, out: Any, named: Mapping[int, str], for_real: bool
) -> Iterator[CoverageGap]:
    """What the recording of a model shows that it did not see; `named` are its tensors by their numbers.

    `for_real`: values could be read, and nobody has said yet that they were.
    """
    values, origins = observer.values, observer.origins
    if running.silent:
        names = ", ".join(list(running.silent)[:3]) + (", …" if len(running.silent) > 3 else "")
        yield coverage_gap(
            "silent layer",
            f"No operator was seen of {names}, which ran and has parameters: what it computes is missing.",
        )
    for name, path in origins.unknown.items():
        where = path or tree.cls
        yield coverage_gap(
            "unknown data",
            f"{name} in {where} reads memory that no operator wrote to: who filled it is unknown and not counted.",
        )
    if origins.returned:
        yield coverage_gap(
            "unknown data",
            f"Tensors left torch and came back to {', '.join(origins.returned)}: what numpy or another library "
            "computed in between is not counted.",
        )
    if origins.elsewhere and not running.silent and not origins.returned:
        yield coverage_gap(
            "unknown data",
            f"Tensors that were made during the forward, by no operator seen, came to {', '.join(origins.elsewhere)}: "
            "what another thread, process or library computed is not counted.",
        )
    yield from _data_dependence(observer, named, for_real)
    unread = next(_not_read(out), "")
    if unread:
        yield coverage_gap(
            "unread generator", f"forward returned a {unread}, which was not read: what it computes is missing."
        )
    elif not _uses_parameters(tree, observer, named) and not (running.silent or origins.elsewhere or origins.returned):
        text = "The model has parameters, and this forward used none of them: does it need other inputs?"
        yield coverage_gap("unused model", text)
    yield from _unregistered_parameters(values)


def _data_dependence(observer: _Observed, named: Mapping[int, str], for_real: bool) -> Iterator[CoverageGap]:
    """Where a forward goes by random numbers; and, run for real, where it goes by values of its inputs or weights."""
    origins = observer.origins
    drawn = origins.drew or ("torch" if next(_told(observer.ops, (), RANDOM), None) else "")
    if drawn:
        yield coverage_gap(
            "data-dependent",
            f"The forward goes by random numbers that it draws from {drawn}: with another --seed it may do other work.",
        )
    given = named.keys() - _quantizers(named)
    for how, where in islice(_told(observer.ops, given, handed=origins.handed), for_real):
        place = f" in {where}" if where else ""
        text = f"The model asks for values{place} ({how}): what it costs may depend on the data."
        yield coverage_gap("data-dependent", text)


def _quantizers(named: Mapping[int, str]) -> set[int]:
    """The values that are the buffers of a quantizer."""
    names = {name: value for value, name in named.items()}
    places = {name.removesuffix(QUANTIZER[0]) for name in names if name.rpartition(".")[2] == QUANTIZER[0]}
    pairs = [[names.get(place + word) for word in QUANTIZER] for place in places]
    return {value for pair in pairs if None not in pair for value in pair if value is not None}


def _unregistered_parameters(values: TensorNumbers) -> Iterator[CoverageGap]:
    strangers = [parameter for key, parameter in values.strangers.items() if key not in values.registered]
    if strangers:
        many = sum(parameter.numel() for parameter in strangers)
        yield coverage_gap(
            "unregistered parameters",
            f"{many:,} parameters in {len(strangers)} tensors are used, and no module registers them (layers in "
            "a plain list?): they are in no count of parameters, and no optimizer gets them.",
        )


RANDOM = frozenset(
    f"aten.{name}"
    for name in "rand randn randint rand_like randn_like randint_like randperm bernoulli bernoulli_ multinomial normal "
    "normal_ uniform uniform_ exponential_ geometric_ random_ log_normal_ cauchy_ poisson".split()
)
"""Operators that draw random numbers and nothing else."""

QUANTIZER = ("scale", "zero_point")
"""Buffers that stand side by side in quantized layers, which ask for them as plain numbers: the work stays the same."""

ASKING = frozenset(f"aten.{name}" for name in "is_nonzero item _local_scalar_dense equal allclose".split())
"""Operators by which Python is told a value."""

SIZED_BY_VALUES = frozenset(["torchvision.nms"]) | frozenset(
    f"aten.{name}"
    for name in "nonzero argwhere masked_select bincount one_hot _unique _unique2 unique_dim unique_consecutive "
    "unique_dim_consecutive repeat_interleave linalg_lstsq _ctc_loss ctc_loss coalesce _coalesce to_sparse _to_sparse "
    "_to_sparse_csr _to_sparse_csc _to_sparse_bsr _to_sparse_bsc".split()
)
"""Operators whose values say how large their results are. torch tags them so, but for the sparse ones."""


SIZED_BY_NUMBERS = ("aten.one_hot", "aten.repeat_interleave")
"""Those whose second argument, where it is a number, says it in their place."""


def _told(
    ops: Sequence[OpCall], given: Iterable[int], sources: frozenset[str] = frozenset(), handed: Mapping[int, str] = {}
) -> Iterator[tuple[str, str]]:
    """How and where Python is told what was computed from the values `given`, or by the operators `sources`.

    `handed` are values that it was handed whole, and where. What an operator writes to is computed from all that the
    operator reads, with every view of that memory.
    """
    if not handed and not any(map(_tells_values, ops)):
        return
    values, memories = set(given), set[int]()
    for op in ops:
        if op.name in sources or any(ref.value in values or ref.storage in memories for ref in op.inputs):
            if _tells_values(op):
                yield op.name, op.module
            values.update(ref.value for ref in op.outputs)
            if op.name.endswith("_"):
                memories.update(ref.storage for ref in op.inputs[:1])
    yield from (("tolist or numpy", where) for value, where in handed.items() if value in values)


def _tells_values(op: OpCall) -> bool:
    """Whether Python is told what values its operands have, if only by the size of the result."""
    if op.name == "aten.index":
        return any(ref.dtype in ("bool", "uint8") for ref in op.inputs[1:])
    if op.name in SIZED_BY_NUMBERS and op.arguments[1:2] not in ((), (None,), (-1,)):
        return False
    return op.name in ASKING or op.name in SIZED_BY_VALUES or (op.name == "aten.where" and len(op.inputs) == 1)


def _uses_parameters(tree: ModuleTree, observer: _Observed, named: Mapping[int, str]) -> bool:
    """Whether any parameter of a model that has some went into an operator; true where a doubt is left."""
    parameters = {entry.path for entry in tree.state if entry.role == "parameter"}
    if not parameters or any(op.macs or op.status == "uncounted" for op in observer.ops):
        return True
    values = {value for value, name in named.items() if name in parameters}
    return not values or any(ref.value in values for op in observer.ops for ref in op.inputs)


_FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)


def _not_read(out: Any, depth: int = 0) -> Iterator[str]:
    """What kind of thing in an output computes something when it is read or called, each."""
    if isinstance(out, (Tensor, str, bytes)) or out is None or depth > MAX_NESTING:
        return
    if iscoroutine(out) or isasyncgen(out) or isinstance(out, Iterator):
        yield type(out).__name__.replace("_", " ")
    elif isinstance(out, _FUNCTIONS):
        yield "function"
    elif isinstance(out, Mapping):
        for item in out.values():
            yield from _not_read(item, depth + 1)
    elif isinstance(out, (list, tuple)):
        for item in out:
            yield from _not_read(item, depth + 1)


@contextmanager
def refusals_noted(note: Callable[[BaseException], None], known: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """In the body, `note(error)` hears of every tensor that refused its values, also where a model swallows that.

    One whose values are `known` gives those.
    """
    with _wrapped(Tensor, ("numpy", "tolist", "__array__"), lambda plain: _noting(plain, note, known)):
        yield


@contextmanager
def transforms_noticed(note: Callable[[], None]) -> Iterator[None]:
    """In the body, `note` is called when `torch.func` differentiates: older releases do not tell a dispatch mode."""
    transforms: Any = sys.modules.get("torch._functorch.eager_transforms")
    plain = getattr(transforms, "_grad_increment_nesting", None)
    if plain is None:
        yield
        return

    def noticed() -> int:
        note()
        return int(plain())

    transforms._grad_increment_nesting = noticed
    try:
        yield
    finally:
        transforms._grad_increment_nesting = plain


@contextmanager
def handed_tensors(left: Callable[[Tensor, str], None]) -> Iterator[None]:
    """In the body, `left(tensor, method)` hears of a tensor that becomes a list, or goes to another library."""

    def noticed(plain: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(plain)
        def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
            left(tensor, plain.__name__)
            return plain(tensor, *args, **kwargs)

        return call

    with _wrapped(Tensor, ("numpy", "tolist", "__array__", "__dlpack__"), noticed):
        yield


def _noting(
    plain: Callable[..., Any], note: Callable[[BaseException], None], known: Callable[[Tensor], Tensor | None]
) -> Callable[..., Any]:
    @functools.wraps(plain)
    def call(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        values = known(tensor)
        if values is not None:
            with _disable_current_modes():
                return plain(values, *args, **kwargs)
        try:
            if not tensor.is_meta:
                raise NotImplementedError("what was written to the tensor has no values on meta")
            return plain(tensor, *args, **kwargs)
        except Exception as error:
            note(error)
            raise

    return call


@contextmanager
def _wrapped(cls: Any, names: Sequence[str], wrapper: Callable[[Callable[..., Any]], Any]) -> Iterator[None]:
    own = {name: name in vars(cls) for name in names}
    plain = {name: getattr(cls, name) for name in names}
    for name, original in plain.items():
        setattr(cls, name, wrapper(original))
    try:
        yield
    finally:
        for name, original in plain.items():
            if own[name]:
                setattr(cls, name, original)
            else:  # the method of a base class: ours hid it
                delattr(cls, name)
