"""Forwards of unusual kinds, each with its MACs worked out by hand: on `meta` and for real, and with what is missing.

The layer is 8 to 8 and the input 2 x 8, so that one call is 128 MACs (`ONE`).
"""

from __future__ import annotations

import asyncio
import copy
import functools
import gc
import queue
import threading
import types
from collections import UserDict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, func, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import modelprobe
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.training import record_training
from tests.tracing.by_hand import sees_higher_order

pytestmark = pytest.mark.filterwarnings("ignore")

ONE = 2 * 8 * 8
Case = tuple[Callable[..., Any], int]


class Plain(nn.Module):
    """A layer `l` (8 to 8), a weight `w` (8 x 8) and a forward that is given."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.l = nn.Linear(8, 8)
        self.w = nn.Parameter(torch.randn(8, 8))
        self.given = forward

    def forward(self, *args: Any) -> Any:
        return self.given(self, *args)


def in_threads(s: Plain, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(s.l(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return torch.stack(found)


def thread_in_a_thread(s: Plain, x: Tensor) -> Tensor:
    found: list[Tensor] = []

    def outer() -> None:
        inner = threading.Thread(target=lambda: found.append(s.l(x)))
        inner.start()
        inner.join()
        found.append(s.l(x))

    timer = threading.Timer(0, outer)
    timer.start()
    timer.join()
    return torch.stack(found)


async def awaited(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(await asyncio.to_thread(layer, x))


def again(s: Plain, x: Tensor, depth: int = 2) -> Tensor:
    return s(s.l(x), depth - 1) if depth else s.l(x)


def falls_back(s: Plain, x: Tensor) -> Tensor:
    try:
        return s.l(x.t())
    except RuntimeError:
        return s.l(x)


def under_a_function_mode(s: Plain, x: Tensor) -> Tensor:
    class Mode(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Mode():
        return s.l(x)


def outside_inference_mode(s: Plain, x: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return s.l(x.clone())


def asks_for_a_shape(s: Plain, x: Tensor) -> Tensor:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        rows = (torch.empty(2, 8) @ torch.empty(8, 8)).shape[0]
    return s.l(x[:rows])


def inner_step(s: Plain, x: Tensor) -> Tensor:
    with torch.enable_grad():
        w = s.w.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((x @ w).pow(2).sum(), w)
    return x @ (w - 0.1 * gradient)


def only_with_gradients(s: Plain, x: Tensor) -> Tensor:
    with torch.enable_grad():
        y = s.l(x)
        return s.l(y) if y.requires_grad else y


def forward_mode(s: Plain, x: Tensor) -> Any:
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(forward_ad.make_dual(x, torch.ones_like(x)) * 2 @ s.w.detach()).tangent


def made_and_registered(s: Plain, x: Tensor) -> Tensor:
    if not hasattr(s, "late"):
        s.late = nn.Linear(8, 8)
    return s.late(x)


def rows_in_place(s: Plain, x: Tensor) -> Tensor:
    out = torch.empty(3, 2, 8, device=x.device)
    for row in range(3):
        out[row] = s.l(x)
    return out


def into_a_given_tensor(s: Plain, x: Tensor) -> Tensor:
    return torch.mm(x, s.w, out=x.new_empty(2, 8))


def masked(s: Plain, x: Tensor) -> Tensor:
    from torch.masked import masked_tensor

    return s.l(x) + masked_tensor(x, x == 0).sum().get_data()


def jagged_attention(s: Plain, x: Tensor) -> Tensor:
    rows = torch.nested.nested_tensor([x, x[:1]], layout=torch.jagged).unflatten(-1, [2, 4]).transpose(1, 2)
    return F.scaled_dot_product_attention(rows, rows, rows).transpose(1, 2).values()


@torch.jit.script
def scripted_fork(x: Tensor, w: Tensor) -> Tensor:
    forked = torch.jit.fork(torch.mm, x, w)
    return torch.jit.wait(forked) + torch.mm(x, w)


WEIGHT = torch.randn(8, 8)

FORWARDS: dict[str, Case] = {
    "one layer in four threads": (in_threads, 4 * ONE),
    "a thread that starts a thread": (thread_in_a_thread, 2 * ONE),
    "a coroutine and a thread of it": (lambda s, x: asyncio.run(awaited(s.l, x)), 2 * ONE),
    "a forward that enters itself": (again, 3 * ONE),
    "an error that is caught": (falls_back, ONE),
    "forward without call": (lambda s, x: s.l.forward(x), ONE),
    "a mode of its own": (under_a_function_mode, ONE),
    "inference mode off": (outside_inference_mode, ONE),
    "FakeTensors for a shape": (asks_for_a_shape, ONE),
    "a constant from a list": (lambda s, x: x @ torch.tensor([[1.0] * 8] * 8, device=x.device), ONE),
    "a constant of the module": (lambda s, x: x @ WEIGHT.data.t(), ONE),
    "a legacy constructor": (lambda s, x: x @ torch.FloatTensor([[1.0] * 8] * 8).to(x.device), ONE),
    "a buffer of bytes": (lambda s, x: x @ torch.frombuffer(bytearray(256), dtype=torch.float32).view(8, 8), ONE),
    "made at the first call": (made_and_registered, ONE),
    "rows written in place": (rows_in_place, 3 * ONE),
    "out=": (into_a_given_tensor, ONE),
    "TorchScript's fork": (lambda s, x: scripted_fork(x, s.w), 2 * ONE),
    "vmap": (lambda s, x: func.vmap(lambda row: s.w @ row)(x), ONE),
    "vmap in chunks": (lambda s, x: func.vmap(lambda row: s.w @ row, chunk_size=1)(x), ONE),
    "functional grad": (lambda s, x: func.grad(lambda row: torch.tanh(s.w @ row).sum())(x[0]), 2 * 64),
    "vjp": (lambda s, x: func.vjp(lambda y: y @ s.w, x)[1](x)[0], 2 * ONE),
    # eight rows of the identity through the transposed product
    "jacrev": (lambda s, x: func.jacrev(lambda row: s.w @ row)(x[0]), 64 + 8 * 64),
    "jacobian of autograd": (
        lambda s, x: torch.autograd.functional.jacobian(lambda row: s.w @ row, x[0]),
        64 + 8 * 64,
    ),
    "an inner step of training": (inner_step, 3 * ONE),
    "a branch that needs gradients": (only_with_gradients, 2 * ONE),
    # value, tangent of the input, and the tangent of the weight, for which torch multiplies by zeros
    "forward mode": (forward_mode, 3 * ONE),
    "complex": (lambda s, x: torch.complex(x, x) @ s.w.to(torch.complex64), 4 * ONE),
    "masked": (masked, ONE),
    # two heads of four: 2 rows and 1 row, scores and sums
    "attention of a jagged tensor": (jagged_attention, 2 * (4 + 1) * (4 + 4)),
}


OLDER = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 13)
UNSEEN = ("attention of a jagged tensor",)
"""What torch 2.6 does not tell a dispatch mode: products inside attention of jagged tensors."""


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("name", FORWARDS)
def test_its_macs(name: str, device: str) -> None:
    if OLDER and name in UNSEEN:
        pytest.skip("torch 2.6 does not tell of it")
    forward, macs = FORWARDS[name]
    model = Plain(forward)
    found = trace(model, torch.zeros(2, 8), device=device)
    assert found.macs == macs
    assert not found.gaps
    assert not found.uncounted
    assert gc.get_freeze_count() == 0
    with torch.no_grad():
        model(torch.zeros(2, 8))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    model[0].register_forward_hook(lambda module, _, out: out @ module.weight)
    model[1].register_forward_pre_hook(lambda _, args: (args[0] @ model[0].weight,))
    return model


def patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8))
    twice = types.MethodType(lambda self, x: F.linear(F.linear(x, self.weight), self.weight), model[0])
    model[0].forward = twice
    return model


def cached_parametrization() -> nn.Module:
    class Gram(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w @ w.t()

    def forward(s: Plain, x: Tensor) -> Tensor:
        with nn.utils.parametrize.cached():
            return s.l(s.l(x))

    model = Plain(forward)
    nn.utils.parametrize.register_parametrization(model.l, "weight", Gram())
    return model


def kept_elsewhere() -> nn.Module:
    """Weights that hooks bring in for each call, as offloading does."""
    layer, store = nn.Linear(8, 8), {}
    store["weight"] = layer.weight.detach().clone()
    layer.weight = nn.Parameter(torch.empty(8, 8, device="meta"))

    def bring(module: nn.Module, _: Any) -> None:
        module.weight = nn.Parameter(store["weight"].clone())

    def take(module: nn.Module, *_: Any) -> None:
        module.weight = nn.Parameter(torch.empty(8, 8, device="meta"))

    layer.register_forward_pre_hook(bring)
    layer.register_forward_hook(take)
    return nn.Sequential(layer)


class Named(UserDict):  # type: ignore[type-arg]
    """Not a dict."""


class GivesADict(nn.Linear):
    def forward(self, x: Tensor) -> Named:  # type: ignore[override]
        return Named(hidden=super().forward(x))


class TakesADict(nn.Linear):
    def forward(self, found: Named) -> Tensor:  # type: ignore[override]
        return super().forward(found["hidden"])


class Yields(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        for _ in range(3):
            x = self.l(x)
            yield x


class ReadsIt(nn.Sequential):
    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self[0](x))


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize(
    ("build", "macs"),
    [
        (hooked, 3 * ONE),
        (patched, 2 * ONE),
        (cached_parametrization, 8**3 + 2 * ONE),
        (kept_elsewhere, ONE),
        (lambda: nn.Sequential(GivesADict(8, 8), TakesADict(8, 8)), 2 * ONE),
        (lambda: ReadsIt(Yields()), 3 * ONE),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.DataParallel(nn.Linear(8, 8))), 2 * ONE),
        (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU())), ONE),
        (lambda: torch.jit.trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), torch.zeros(2, 8)), ONE),
        (lambda: torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(8, 8)).eval())), ONE),
        # in evaluation: u . (W v), a product of matrix and vector and one of vectors
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8)), ONE + 64 + 8),
    ],
)
def test_modules_that_are_not_what_they_seem(build: Callable[[], nn.Module], macs: int, device: str) -> None:
    found = trace(build(), torch.zeros(2, 8), device=device)
    assert found.macs == macs
    assert not found.gaps
    assert not found.uncounted


JOBS: queue.Queue[Callable[[], Tensor]] = queue.Queue()
DONE: queue.Queue[Tensor] = queue.Queue()


def work() -> None:
    while True:
        DONE.put(JOBS.get()())


def by_a_worker(s: Plain, x: Tensor) -> Tensor:
    if not any(thread.name == "worker of a test" for thread in threading.enumerate()):
        raise RuntimeError("start it before")
    JOBS.put(lambda: x @ s.w)
    return DONE.get() @ s.w


def product(x: Any, w: Any) -> Any:
    return x @ w


def by_a_process(s: Plain, x: Tensor) -> Tensor:
    with ProcessPoolExecutor(1) as pool:
        return torch.from_numpy(pool.submit(product, x.numpy(), s.w.detach().numpy()).result()) @ s.w


@pytest.mark.parametrize(("forward", "device"), [(by_a_worker, "meta"), (by_a_worker, "real"), (by_a_process, "real")])
def test_what_others_compute_is_said(forward: Callable[..., Any], device: str) -> None:
    threading.Thread(target=work, daemon=True, name="worker of a test").start()
    found = trace(Plain(forward), torch.zeros(2, 8), device=device)
    assert found.macs == ONE
    read = ["data-dependent"] if forward is by_a_process else []  # which takes it to numpy
    assert [gap.kind for gap in found.gaps] == ["unknown data", *read]


def by_value(s: Plain, x: Tensor) -> Tensor:
    try:
        many = int(x.sum())
    except Exception:  # noqa: BLE001 - as models write it
        return x
    return s.l(x) + many


def by_numpy(s: Plain, x: Tensor) -> Tensor:
    try:
        many = len(x.tolist())
    except Exception:  # noqa: BLE001
        many = 0
    return s.l(x) if many else x


@pytest.mark.parametrize("forward", [by_value, by_numpy])
def test_a_refusal_that_the_model_swallows_is_no_other_way(forward: Callable[..., Any]) -> None:
    found = trace(Plain(forward), torch.zeros(2, 8))
    assert found.macs == ONE
    assert [gap.kind for gap in found.gaps] == ["data-dependent"]


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: {"now": x, "later": (s.l(y) for y in x)},
        lambda s, x: (x, map(s.l, x)),
        lambda s, x: functools.partial(s.l, x),
        lambda s, x: [lambda: s.l(x)],
    ],
)
def test_what_is_computed_later_is_said(forward: Callable[..., Any]) -> None:
    found = trace(Plain(forward), torch.zeros(2, 8))
    assert [gap.kind for gap in found.gaps] == ["unread generator"]


def test_a_forward_that_uses_nothing_of_the_model_is_said() -> None:
    found = trace(Plain(lambda s, x: x + 1 if x.is_meta else s.l(x)), torch.zeros(2, 8))
    assert (found.macs, [gap.kind for gap in found.gaps]) == (0, ["unused model"])
    assert not trace(nn.ReLU(), torch.zeros(2, 8)).gaps
    assert not trace(nn.BatchNorm1d(8), torch.zeros(2, 8)).gaps


class Squares(torch.autograd.Function):
    """Builds what it needs at its first call: 5 x 5 by 8 x 5, then the product, and two in its backward."""

    tables: dict[Any, Tensor] = {}  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        table = torch.eye(5, device=x.device)
        ctx.save_for_backward(x, w)
        return x @ (w.t() @ table)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x, w = ctx.saved_tensors
        return gradient @ w, gradient.t() @ x


class Recomputes(torch.autograd.Function):
    """Runs its layer again in the backward pass, and differentiates there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        return layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        with torch.enable_grad():
            x = ctx.saved_tensors[0].detach().requires_grad_()
            ctx.layer(x).backward(gradient)
        return x.grad, None


def hooked_gradient(s: Plain, x: Tensor) -> Tensor:
    y = s.l(x)
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient @ s.w.detach())
    return y


STEPS: dict[str, Case] = {
    # of the function: its own product of 8 x 5 by 5 x 5; forward 2 x 8 by 8 x 5; both gradients
    "a function of one's own": (lambda s, x: Squares.apply(x, s.w[:5]), 8 * 25 + 3 * 2 * 8 * 5),
    "a function that runs again": (lambda s, x: Recomputes.apply(x, s.l), 4 * ONE),
    "checkpoint, reentrant": (lambda s, x: checkpoint(s.l, x, use_reentrant=True), 4 * ONE),
    # nothing is left to compute when the layer has saved its input: the second product is not run
    "checkpoint": (lambda s, x: checkpoint(s.l, x, use_reentrant=False), 3 * ONE),
    "a hook on a gradient": (hooked_gradient, 4 * ONE),
}


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("name", STEPS)
def test_training_steps(name: str, device: str) -> None:
    forward, macs = STEPS[name]
    found = record_training(Plain(forward), torch.zeros(2, 8, requires_grad=True), device=device)
    assert found.forward.macs + sum(step.op.macs for step in found.gradients) == macs
    assert not found.uncounted


def test_a_layer_copied_in_the_forward_is_named() -> None:
    found = trace(Plain(lambda s, x: copy.deepcopy(s.l)(x)), torch.zeros(2, 8))
    assert (found.macs, [gap.kind for gap in found.gaps]) == (ONE, ["unregistered parameters"])


@pytest.mark.zoo
@pytest.mark.parametrize("device", ["meta", "real"])
def test_compiled_in_every_place(device: str) -> None:
    inner = torch.compile(nn.Linear(8, 8))

    def forward(s: Plain, x: Tensor) -> Tensor:
        return torch.compile(lambda y: inner(torch.compile(lambda z: s.l(z))(y)) @ s.w)(x)

    assert trace(Plain(forward), torch.zeros(2, 8), device=device).macs == 3 * ONE


@pytest.mark.zoo
@pytest.mark.parametrize("device", ["meta", "real"])
def test_exported_modules_stay_in_their_mode(device: str) -> None:
    exported = torch.export.export(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), (torch.zeros(2, 8),)).module()
    found = trace(exported, torch.zeros(2, 8), device=device)
    assert found.macs == ONE
    assert [note.text.partition(" stays")[0] for note in found.notes] == ["What torch.export made"]
    with pytest.raises(NotImplementedError):
        exported.eval()


@pytest.mark.zoo  # it imports the compiler
def test_a_counter_of_its_own() -> None:
    def forward(s: Plain, x: Tensor) -> Tensor:
        with FlopCounterMode(display=False):
            return s.l(x)

    assert trace(Plain(forward), torch.zeros(2, 8)).macs == ONE


@pytest.mark.zoo
@sees_higher_order
def test_a_branch_inside_a_loop() -> None:
    from torch._higher_order_ops.while_loop import while_loop

    def forward(s: Plain, x: Tensor) -> Any:
        def body(count: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            twice = torch.cond(y.sum() > 1e9, lambda y: y @ s.w @ s.w, lambda y: (y @ s.w).clone(), (y,))
            return count + 1, twice

        return while_loop(lambda count, y: count < 3, body, (torch.tensor(0), x))[1]

    assert trace(Plain(forward), torch.zeros(2, 8)).macs == 3 * ONE


class State:
    """What a quantized layer keeps beside its tables (`bitsandbytes` calls it so)."""

    weight: nn.Parameter | None = None


class KeptElsewhere(nn.Module):
    """Makes a second parameter of the same memory, in an object that is no module: at once, or in the first forward."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.layer, self.state = nn.Linear(4, 3), State()
        if early:
            self.keep()

    def keep(self) -> None:
        self.state.weight = nn.Parameter(self.layer.weight.data, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.state.weight is None:
            self.keep()
        assert self.state.weight is not None
        return nn.functional.linear(x, self.state.weight, self.layer.bias)


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("early", [False, True])
def test_a_second_parameter_of_a_registered_memory_is_no_stranger(early: bool, device: str) -> None:
    found = trace(KeptElsewhere(early), torch.zeros(2, 4), device=device)
    assert (found.macs, found.gaps, found.notes) == (24, (), ())
    if not early:
        memory = modelprobe.estimate_memory(KeptElsewhere(early), torch.zeros(2, 4))
        assert not any("registers" in note.text for note in memory.notes)
        assert memory.parts["weights"] == 4 * 15
