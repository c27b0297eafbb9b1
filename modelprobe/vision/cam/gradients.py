"""Gradients through somebody else's model, and the paths from the image to the scores."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Edge = tuple[Any, int]
"""A node of the autograd graph and which of its outputs."""


T = TypeVar("T")

SPOILT = "modified by an inplace operation"
"""In torch's message when a tensor that a gradient is computed from was overwritten."""


def with_gradients(model: nn.Module, compute: Callable[[], T]) -> T:
    """What `compute` returns, run where gradients flow through `model` to its image.

    What a model overwrites where it switched gradients off would spoil them: then it is run again with copies kept.
    """
    try:
        with differentiable(model):
            return compute()
    except RuntimeError as error:
        if SPOILT not in str(error):
            raise
    with differentiable(model), torch.autograd.graph.allow_mutation_on_saved_tensors():
        return compute()


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Let gradients flow through `model` to its image, and nowhere else; `requires_grad` is put back.

    Parameters ask for no gradient, which saves the memory of one.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with ExitStack() as stack:
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield
    finally:
        for parameter, wanted in flags:
            parameter.requires_grad_(wanted)


class _KeepGradients(TorchFunctionMode):
    """In this thread, torch's own switch of gradients does nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            return None
        return func(*args, **(kwargs or {}))


class _Skipping:
    """`torch.inference_mode` asks, while any thread is inside `never_off`, whether it is the one that calls.

    Its switch is no torch function, so no mode can take it. For other threads it works as ever.
    """

    def __init__(self) -> None:
        self._here, self._lock, self._threads = threading.local(), threading.Lock(), 0
        self._own: tuple[Any, Any] = (None, None)

    def __enter__(self) -> None:
        mode: Any = torch.inference_mode
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                own_enter, own_exit = self._own = mode.__enter__, mode.__exit__

                def enter(entered: Any) -> None:
                    if getattr(self._here, "depth", 0):
                        entered._skipped = True
                    else:
                        own_enter(entered)

                def leave(entered: Any, *raised: Any) -> None:
                    if not entered.__dict__.pop("_skipped", False):
                        own_exit(entered, *raised)

                mode.__enter__, mode.__exit__ = enter, leave
        self._here.depth = getattr(self._here, "depth", 0) + 1

    def __exit__(self, *raised: object) -> None:
        self._here.depth -= 1
        with self._lock:
            self._threads -= 1
            if not self._threads:
                mode: Any = torch.inference_mode
                mode.__enter__, mode.__exit__ = self._own


_SKIPPING = _Skipping()


@contextmanager
def never_off() -> Iterator[None]:
    """Inside, `torch.no_grad`, `set_grad_enabled(False)` and `inference_mode` of the model's own code do nothing.

    This thread alone is concerned: others keep their gradient mode.
    """
    with _SKIPPING, _KeepGradients():
        yield


@contextmanager
def nothing_zero(model: nn.Module) -> Iterator[None]:
    """Inside, weights that are zero throughout are small random numbers instead; the zeros are put back.

    Networks are born with such weights (the head of a transformer, the last scale of a branch), and no gradient passes.
    """
    born = [(p, p.detach().clone()) for p in model.parameters() if p.is_floating_point() and not bool(p.any())]
    drawn = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for parameter, _ in born:
                parameter.copy_(0.02 * torch.randn(parameter.shape, generator=drawn))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in born:
                parameter.copy_(value)


def edge_of(tensor: Tensor) -> Edge | None:
    """Where `tensor` stands in the graph as it is now: a later write in place does not change what is returned."""
    if not tensor.requires_grad:
        return None
    found = torch.autograd.graph.get_gradient_edge(tensor)
    return found.node, found.output_nr


def gradients(score: Tensor, edges: Sequence[Edge]) -> tuple[Tensor | None, ...]:
    """The gradients of `score` with respect to tensors, given by their edges. None where it does not depend on one."""
    wanted = [torch.autograd.graph.GradientEdge(node, number) for node, number in edges]
    found: Any = torch.autograd.grad([score], wanted, retain_graph=True, allow_unused=True)
    return tuple(found)


class Paths:
    """The paths from the image to the scores, counted, so that one can ask whether all of them pass through a tensor.

    All do exactly when (paths from the scores to it) x (paths from it to the image) is the number of all paths.
    """

    def __init__(self, scores: Tensor, image: Tensor) -> None:
        root, source = edge_of(scores), edge_of(image)
        assert root is not None
        assert source is not None
        order = _ordered(root[0])
        self._down: dict[Any, int] = {}
        for node in order:  # inputs first
            inputs = sum(self._down[child] for child, _ in node.next_functions if child is not None)
            self._down[node] = 1 if node is source[0] else inputs
        self._up: dict[Edge, int] = {root: 1}
        arrived = dict.fromkeys(order, 0)
        arrived[root[0]] = 1
        for node in reversed(order):
            for child, number in node.next_functions:
                if child is not None:
                    edge = (child, number)
                    self._up[edge] = self._up.get(edge, 0) + arrived[node]
                    arrived[child] += arrived[node]
        self.total = self._down[root[0]]

    def count(self, edge: Edge) -> int:
        """How many of all the paths pass through the tensor of `edge`."""
        return self._up.get(edge, 0) * self._down.get(edge[0], 0)

    def through(self, edge: Edge) -> bool:
        """Whether everything that the scores know of the image passes through the tensor of `edge`."""
        return self.total > 0 and self.count(edge) == self.total


def _ordered(root: Any) -> list[Any]:
    """The nodes that `root` depends on, each after those that it depends on itself."""
    done: dict[Any, None] = {}
    stack: list[tuple[Any, bool]] = [(root, False)]
    opened: set[Any] = set()
    while stack:
        node, leaving = stack.pop()
        if leaving:
            done[node] = None
            continue
        if node in opened:
            continue
        opened.add(node)
        stack.append((node, True))
        stack.extend((child, False) for child, _ in node.next_functions if child is not None and child not in opened)
    return list(done)


# What made an output

_CARRY = re.compile(
    r"View|Reshape|Squeeze|Select|Slice|Alias|Permute|Transpose|TBackward|Copy|Clone|Index|Cat|Stack|Expand|Unbind|Split"
)
"""Nodes of the graph that hand numbers on as they are."""

_WITH_WEIGHTS = re.compile(r"Addm|Mm|Mv|Bmm|Bilinear|Conv|Linear|Embedding|Lstm|Gru|Rnn")
"""Nodes of layers with weights, and of products."""

_PROBABILITIES = ("Sigmoid", "Hardsigmoid", "Softmax", "SafeSoftmax")


def maker_of(tensor: Tensor) -> str:
    """The operator that computed the numbers of `tensor`, by the name of its node, or empty; of joined numbers the one
    that computed all of them."""
    return _maker(_computing(tensor.grad_fn))


def _maker(node: Any) -> str:
    if node is not None and _CARRY.search(type(node).__name__):
        makers = {_maker(_computing(child)) for child, _ in node.next_functions if child is not None}
        return makers.pop() if len(makers) == 1 else ""
    name = "" if node is None else _name_of(node)
    return "Softmax" if name == "SafeSoftmax" else name


def _name_of(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", type(node).__name__).lstrip("_")


def _computing(node: Any) -> Any:
    """The node that computed the numbers which `node` hands on, itself or one before; None for None."""
    while node is not None and _CARRY.search(type(node).__name__):
        following = [child for child, _ in node.next_functions if child is not None]
        if len(following) != 1:
            break
        node = following[0]
    return node


def is_of_probabilities(tensor: Tensor) -> bool:
    """Whether the numbers are made of results of sigmoids or softmaxes alone: their mean, their product."""
    found, left, seen = False, [tensor.grad_fn], set[Any]()
    while left:
        node: Any = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = _name_of(node)
        if name in _PROBABILITIES:
            found = True
            continue
        if name == "Relu" or _WITH_WEIGHTS.search(name):
            return False
        left += [child for child, _ in node.next_functions]
    return found


def last_made(able: Mapping[str, Tensor]) -> str | None:
    """The name of the one tensor that all others went into, by the graph."""
    for name, tensor in able.items():
        maker = _computing(tensor.grad_fn)
        if maker is None:
            continue
        before = set(_before(maker))
        if all(_computing(other.grad_fn) in before for key, other in able.items() if key != name):
            return name
    return None


def needs_weights_after(later: Tensor, earlier: Tensor) -> bool:
    """Whether layers with weights, or products, lie between two tensors."""
    known = set(_before(earlier.grad_fn)) | {earlier.grad_fn}
    between = {later.grad_fn, *_before(later.grad_fn)} - known
    return any(node is not None and _WITH_WEIGHTS.search(_name_of(node)) for node in between)


def _before(root: Any) -> Iterator[Any]:
    """The nodes that `root` depends on, itself left out."""
    seen, left = {root}, [root]
    while left:
        node = left.pop()
        for child, _ in node.next_functions if node is not None else ():
            if child is not None and child not in seen:
                seen.add(child)
                left.append(child)
                yield child
