"""A recording follows the model, and says what it did not see."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import modelprobe
from modelprobe.errors import ModelRaised
from modelprobe.report.blocks import Level
from modelprobe.tracing.recorder import trace
from modelprobe.tracing.records import Trace
from modelprobe.tracing.training import record_training


def kinds(found: Trace) -> list[str]:
    return [gap.kind for gap in found.gaps]


class Detector(nn.Module):
    """Freezes its stem and keeps batch norm in eval mode, by a `train` of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 4, 1, bias=False)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        self.stem.requires_grad_(False)
        self.stem.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x))


@pytest.mark.parametrize("device", ["meta", "real"])
def test_the_models_own_train_is_called(device: str) -> None:
    model = Detector()
    before = [parameter.requires_grad for parameter in model.parameters()]
    found = record_training(model, torch.zeros(2, 3, 6, 6), device=device)
    stem, head = 2 * 16 * 8 * 27, 2 * 16 * 4 * 8
    assert found.forward.macs == stem + head
    assert sum(step.op.macs for step in found.gradients) == head  # the head's weight; nothing needs its input's
    assert found.frozen == {"stem.0.weight", "stem.1.weight", "stem.1.bias"}
    assert not trace(model, torch.zeros(2, 3, 6, 6), train=True, device=device).changed
    assert [parameter.requires_grad for parameter in model.parameters()] == before


class Merging(nn.Linear):
    """Merges a low-rank product into its weight for evaluation, as LoRA does."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        if not mode and not self.merged:
            self.weight.data += 1
        self.merged = not mode
        return super().train(mode)


def test_what_a_train_of_ones_own_writes_to_weights_is_written_to_copies() -> None:
    model = nn.Sequential(Merging(3, 3))
    before = model[0].weight.detach().clone()
    trace(model, torch.zeros(1, 3), device="real")
    assert torch.equal(model[0].weight, before)
    assert model[0].merged is False


class Forces(nn.Module):
    """The derivative of its energy is part of its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 16), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            energy = self.b(nn.functional.silu(self.a(x))).sum()
            (force,) = torch.autograd.grad(energy, x)
        return energy, force


@pytest.mark.parametrize("device", ["meta", "real"])
def test_a_forward_that_differentiates(device: str) -> None:
    found = trace(Forces(), torch.zeros(5, 3), device=device)
    products = 5 * 3 * 16 + 5 * 16
    assert found.macs == 2 * products
    assert sum(op.macs for op in found.ops if op.gradient) == products
    by_module = {path: sum(op.macs for op in found.ops if op.module == path) for path in ("a", "b")}
    assert by_module == {"a": 2 * 5 * 3 * 16, "b": 2 * 5 * 16}


class PlainForces(Forces):
    """As it is written for training: nobody turns gradients on."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x.requires_grad_(True)
        energy = self.b(nn.functional.silu(self.a(x))).sum()
        return energy, -torch.autograd.grad(energy, x, create_graph=self.training)[0]


@pytest.mark.parametrize("device", ["meta", "real"])
def test_a_forward_that_differentiates_without_turning_gradients_on(device: str) -> None:
    found = trace(PlainForces(), torch.zeros(5, 3), device=device)
    assert found.macs == 2 * (5 * 3 * 16 + 5 * 16)
    assert modelprobe.estimate_memory(PlainForces(), torch.zeros(5, 3)).peak_bytes > 0


class CountsVersions(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        assert x._version == 0
        return super().forward(x)


def test_versions_of_tensors_can_be_read() -> None:
    assert trace(CountsVersions(3, 5), torch.zeros(2, 3)).macs == 30


class Five(nn.Module):
    """Five layers, given to `spread`."""

    def __init__(self, spread: Callable[[list[Callable[[], Tensor]]], list[Tensor]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(5))
        self.spread = spread

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack(self.spread([lambda layer=layer: layer(x) for layer in self.layers])).sum(0)


POOL = ThreadPoolExecutor(2)
OLD_POOL = ThreadPool(2)


def threads(tasks: list[Callable[[], Tensor]]) -> list[Tensor]:
    found: dict[int, Tensor] = {}

    def run(number: int) -> None:
        found[number] = tasks[number]()

    started = [threading.Thread(target=run, args=(number,)) for number in range(len(tasks))]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return [found[number] for number in range(len(tasks))]


def own_pool(tasks: list[Callable[[], Tensor]]) -> list[Tensor]:
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda task: task(), tasks))


def thread_pool(tasks: list[Callable[[], Tensor]]) -> list[Tensor]:
    with ThreadPool(2) as pool:
        return pool.map(lambda task: task(), tasks)


SPREADS = [threads, own_pool, lambda tasks: list(POOL.map(lambda task: task(), tasks)), thread_pool]


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("spread", SPREADS, ids=["threads", "own pool", "a pool that was there", "ThreadPool"])
def test_work_in_other_threads_is_counted(spread: Callable[..., Any], device: str) -> None:
    found = trace(Five(spread), torch.zeros(2, 8), device=device)
    assert found.macs == 5 * 2 * 8 * 8
    assert not found.gaps
    by_layer = [sum(op.macs for op in found.ops if op.module == f"layers.{i}") for i in range(5)]
    assert by_layer == [128] * 5
    assert [found.ops_of(number)[0].macs for number, call in enumerate(found.calls) if call.path] == [128] * 5
    assert len(found.ops_of(0)) == len(found.ops)
    assert threading.Thread.start.__module__ == "threading"
    assert ThreadPoolExecutor.submit.__module__ == "concurrent.futures.thread"


@pytest.mark.parametrize("spread", SPREADS[:3], ids=["threads", "own pool", "a pool that was there"])
def test_gradients_of_other_threads_belong_to_their_layers(spread: Callable[..., Any]) -> None:
    found = record_training(Five(spread), torch.zeros(2, 8))
    gradients = {f"layers.{i}": 0 for i in range(5)}
    for step in found.gradients:
        if step.op.macs:
            gradients[step.op.module] += step.weight_macs
    assert gradients == {f"layers.{i}": 2 * 8 * 8 for i in range(5)}


def test_layers_in_threads_that_cannot_be_followed_are_named() -> None:
    found = trace(Five(lambda tasks: OLD_POOL.map(lambda task: task(), tasks)), torch.zeros(2, 8), device="real")
    assert kinds(found) == ["silent layer"]
    assert "layers.0" in found.gaps[0].text


def test_other_threads_of_the_process_are_left_alone() -> None:
    stop, seen = threading.Event(), []

    def beside() -> None:
        while not stop.is_set():
            seen.append(torch.is_inference_mode_enabled())
            torch.ones(2) @ torch.ones(2)

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        found = [trace(Five(threads), torch.zeros(2, 8)).macs for _ in range(10)]
    finally:
        stop.set()
        thread.join()
    assert found == [640] * 10
    assert not any(seen)


class Dice(nn.Module):
    def __init__(self, roll: Callable[[], int]) -> None:
        super().__init__()
        self.layer, self.roll = nn.Linear(4, 4), roll

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.roll()):
            x = self.layer(x)
        return x


@pytest.mark.parametrize(
    "roll",
    [
        lambda: random.randint(1, 10**6) % 50 + 1,
        lambda: int(numpy.random.randint(1, 50)),
        lambda: int(torch.randint(1, 50, (), device="cpu")),
    ],
    ids=["random", "numpy", "torch"],
)
def test_random_numbers_are_seeded_and_put_back(roll: Callable[[], int]) -> None:
    model = Dice(roll)
    figures = {trace(model, torch.zeros(1, 4), device="real").macs for _ in range(4)}
    other = {trace(model, torch.zeros(1, 4), device="real", env={"seed": seed}).macs for seed in range(8)}
    assert len(figures) == 1 < len(other)
    states = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state()
    trace(model, torch.zeros(1, 4), device="real")
    assert random.getstate() == states[0]
    assert numpy.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


class NotOnMeta(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        assert x.device.type != "meta"
        return super().forward(x)


class Autocast(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def test_autocast_of_the_device_of_a_meta_tensor() -> None:
    found = trace(Autocast(3, 5), torch.zeros(2, 3))
    assert (found.macs, found.notes) == (30, ())


def test_what_fails_on_meta_alone_is_run_for_real() -> None:
    found = trace(NotOnMeta(3, 5), torch.zeros(2, 3))
    assert found.macs == 30
    (note,) = found.notes
    assert note.level is Level.INFO
    assert "Run for real where its weights are, not on meta, where it raised " in note.text


def test_what_fails_everywhere_is_the_models() -> None:
    with pytest.raises(ModelRaised, match="mat1 and mat2 shapes cannot be multiplied"):
        trace(nn.Linear(4, 4), torch.zeros(1, 3))


class LazyBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.LazyConv2d(6, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x)).flatten(1))


@pytest.mark.parametrize("device", ["meta", "real"])
def test_lazy_norms(device: str) -> None:
    model = LazyBlock()
    found = trace(model, torch.zeros(1, 3, 10, 10), device=device)
    assert (found.macs, found.tree.parameter_count()) == (14_208, 4_030)
    assert isinstance(model.norm, nn.LazyBatchNorm2d)
    assert model.norm.has_uninitialized_params()


class LazyByItself(nn.Module):
    """A layer that takes its shape in a hook of its own, without torch's mixin, as those of graph libraries do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.parameter.UninitializedParameter()
        self.hook = self.register_forward_pre_hook(self.grow)

    def grow(self, _: nn.Module, args: tuple[Tensor]) -> None:
        self.weight.materialize((7, args[0].shape[-1]))
        self.hook.remove()
        del self.hook

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


@pytest.mark.parametrize("device", ["meta", "real"])
def test_layers_that_give_themselves_a_shape(device: str) -> None:
    found = trace(nn.Sequential(LazyByItself()), torch.zeros(2, 3), device=device)
    assert (found.macs, found.tree.parameter_count()) == (42, 21)


class InNumpy(nn.Module):
    def __init__(self, back: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.weight, self.fc, self.back = nn.Parameter(torch.randn(8, 16)), nn.Linear(16, 4), back

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.back(x.detach().numpy() @ numpy.asarray(self.weight.detach())))


@pytest.mark.parametrize("back", [torch.as_tensor, torch.from_numpy, torch.tensor])
def test_products_in_numpy_are_named(back: Callable[[Any], Tensor]) -> None:
    found = trace(InNumpy(back), torch.zeros(4, 8))
    assert found.macs == 256
    assert "unknown data" in kinds(found)


class LooksOnly(nn.Linear):
    """Hands a tensor to numpy to look at it, and takes nothing back."""

    def forward(self, x: Tensor) -> Tensor:
        x.detach().numpy().mean()
        return super().forward(x)


@pytest.mark.parametrize("device", ["meta", "real"])
def test_a_look_by_numpy_hides_no_work(device: str) -> None:
    assert kinds(trace(LooksOnly(3, 5), torch.zeros(1, 3), device=device)) == ["data-dependent"]


class Blank(nn.Linear):
    """Something that no operator is fills the memory, as a kernel of one's own does."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.empty_like(x) + super().forward(x)


class Filled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty(2, 3)
        out[0].zero_()
        return super().forward(x) + out


def test_memory_that_nothing_wrote_to() -> None:
    assert kinds(trace(Blank(3, 3), torch.zeros(2, 3))) == ["unknown data"]
    assert not trace(Filled(3, 3), torch.zeros(2, 3)).gaps


class Yields(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Iterator[Tensor]:
        yield self.fc(x)


def test_a_generator_is_not_read() -> None:
    found = trace(Yields(), torch.zeros(1, 3))
    assert kinds(found) == ["unread generator"]


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.out = [nn.Linear(8, 8) for _ in range(3)], nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.out(x)


def test_layers_in_a_plain_list_are_named() -> None:
    found = trace(Hidden(), torch.zeros(1, 8))
    assert found.macs == 3 * 64 + 16
    assert kinds(found) == ["unregistered parameters"]
    assert found.gaps[0].text.startswith("216 parameters in 6 tensors are used, and no module registers them")


def test_recurrent_layers_tied_weights_and_attributes_are_registered() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.a, self.b = nn.LSTM(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.table = torch.ones(4)
            self.norm = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.b(self.a(self.rnn(x)[0]))) * self.table

    for device in ("meta", "real"):
        assert not trace(Tied(), torch.zeros(2, 1, 4), device=device).gaps


class Exits(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else super().forward(x)


def test_a_cost_that_depends_on_data_is_a_gap() -> None:
    assert kinds(trace(Exits(3, 5), torch.zeros(1, 3))) == ["data-dependent"]


class Reads(nn.Linear):
    """Reads what it computed; `first` may need what `meta` does not have, without reading anything."""

    def __init__(self, read: Callable[[Tensor], Any], first: Callable[[Tensor], Any]) -> None:
        super().__init__(4, 4)
        self.read, self.first = read, first

    def forward(self, x: Tensor) -> Tensor:
        self.first(x)
        y = super().forward(x)
        self.read(y)
        return y


def through_a_view(y: Tensor) -> int:
    table = torch.zeros(2, 4)
    table[0].copy_(y[0])
    return int(table.sum())


def into_a_large_table(y: Tensor) -> int:
    table = torch.zeros(600, 600)
    table[0, :4] = y[0]
    return int(table.sum())


def into_a_number(y: Tensor) -> int:
    total = torch.tensor(0)
    total += y.sum().long()
    return int(total)


def by_out(y: Tensor) -> Any:
    table = torch.zeros(2, 4)
    torch.add(y, y, out=table)
    return table.tolist()


def in_a_list(y: Tensor) -> Any:
    table = torch.zeros(2, 4)
    torch._foreach_add_([table], [y])
    return table[0].tolist()


READINGS = {
    "item": lambda y: y.sum().item(),
    "float": lambda y: float(y[0, 0]),
    "truth": lambda y: bool((y > 0).any()),
    "tolist": lambda y: y.tolist(),
    "numpy": lambda y: y.numpy(),
    "equal": lambda y: torch.equal(y, y),
    "allclose": lambda y: torch.allclose(y, y),
    "nonzero": lambda y: y.nonzero(),
    "where": lambda y: torch.where(y > 0),
    "mask": lambda y: y[y > 0],
    "masked_select": lambda y: y.masked_select(y > 0),
    "unique": lambda y: y.unique(),
    "unique_consecutive": lambda y: y.unique_consecutive(),
    "unique rows": lambda y: y.unique(dim=0),
    "bincount": lambda y: y[0].abs().long().bincount(),
    "one_hot": lambda y: nn.functional.one_hot(y[0].abs().long()),
    "repeat_interleave": lambda y: y.repeat_interleave(y[0, :2].abs().long(), 0),
    "to_sparse": lambda y: y.to_sparse(),
    "to_sparse_csr": lambda y: y.to_sparse_csr(),
    "coalesce": lambda y: torch.sparse_coo_tensor(y[:1].abs().long(), y[0]).coalesce(),
    "written through a view": through_a_view,
    "written into a large table": into_a_large_table,
    "added to a number": into_a_number,
    "written by out=": by_out,
    "written in a list": in_a_list,
}
FIRST = {"at once": torch.sum, "after a kernel that meta lacks": lambda x: torch.histogram(x, 3)}


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
def test_whatever_tells_values_is_a_finding(read: Callable[..., Any], first: Callable[..., Any], device: str) -> None:
    found = trace(Reads(read, first), torch.ones(2, 4), device=device)
    assert kinds(found) == ["data-dependent"]
    assert "asks for values" in found.gaps[0].text
    assert found.gaps[0].text.endswith("may depend on the data.")


def of_constants(on_cpu: bool) -> Callable[[Tensor], None]:
    def read(y: Tensor) -> None:
        table, total = torch.zeros(2, 4, device="cpu" if on_cpu else y.device), torch.tensor(0)
        table[0] = torch.arange(4, device=y.device)
        total += torch.arange(4, device=y.device).sum()
        assert int(table.sum()) == int(total) == 6

    return read


CONSTANTS = {
    "written on the CPU": of_constants(True),
    "written": of_constants(False),
    "item": lambda y: int(torch.arange(3).sum()),
    "mask": lambda y: torch.arange(3)[torch.arange(3) > 1],
    "tolist": lambda y: torch.arange(3).tolist(),
    "sizes": lambda y: torch.zeros(y.shape[0]).nonzero(),
    "one_hot of so many classes": lambda y: nn.functional.one_hot(y.argmax(-1), 10),
    "so many repeats": lambda y: y.repeat_interleave(2, 0),
}


@pytest.mark.parametrize("device", ["meta", "real"])
@pytest.mark.parametrize("first", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize("read", CONSTANTS.values(), ids=CONSTANTS)
def test_values_of_constants_are_no_finding(read: Callable[..., Any], first: Callable[..., Any], device: str) -> None:
    found = trace(Reads(read, first), torch.ones(2, 4), device=device)
    assert not found.gaps
    lacking = first is not torch.sum and device == "meta"
    said = "Run for real where its weights are, not on meta, which cannot run it (torch.histogram has no kernel"
    assert any(note.text.startswith(said) and note.level is Level.INFO for note in found.notes) is lacking


class Scaled(nn.Linear):
    """Asks for a buffer that is called `scale`; with a `zero_point` beside it, a quantizer."""

    def __init__(self, quantizer: bool) -> None:
        super().__init__(4, 4)
        self.register_buffer("scale", torch.ones(1))
        if quantizer:
            self.register_buffer("zero_point", torch.zeros(1, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.scale.item() > 0 else x


@pytest.mark.parametrize("quantizer", [False, True])
def test_a_buffer_called_scale_is_a_value_like_any_other_unless_a_quantizer_holds_it(quantizer: bool) -> None:
    found = trace(Scaled(quantizer), torch.ones(2, 4), device="cpu")
    assert kinds(found) == ([] if quantizer else ["data-dependent"])


class ByLists(nn.Linear):
    """Indexes by a list of numbers, and writes by one."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)[:, [3, 1, 0]].clone()
        y[:, [0, 2]] = 1.0
        return y


@pytest.mark.parametrize("device", ["meta", "real"])
def test_lists_of_numbers_are_no_unknown_data(device: str) -> None:
    assert not trace(ByLists(4, 4), torch.ones(2, 4), device=device).gaps


def test_a_script_that_goes_by_its_data() -> None:
    script = torch.jit.script(nn.Sequential(Scripted()))
    assert kinds(trace(script, torch.zeros(2, 4))) == ["data-dependent"]


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            x = self.layer(x)
        return self.layer(x)


class Labelled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        with torch.profiler.record_function("block"):
            return super().forward(x)


def test_labels_of_the_profiler_and_dropout_that_never_ran_are_no_gap() -> None:
    model = nn.Sequential(Labelled(3, 3))
    model[0].dropout = nn.Dropout()
    found = trace(model, torch.zeros(1, 3))
    assert not found.uncounted
    assert not found.uncalled
    assert not found.gaps


def test_inputs_that_want_a_gradient_get_one() -> None:
    layer = nn.Linear(64, 32, bias=False)

    def step(x: Tensor) -> int:
        found = record_training(layer, x)
        return found.forward.macs + sum(gradient.op.macs for gradient in found.gradients)

    assert step(torch.zeros(8, 64)) == 2 * 8 * 64 * 32
    assert step(torch.zeros(8, 64, requires_grad=True)) == 3 * 8 * 64 * 32


def test_a_model_without_parameters_whose_input_wants_a_gradient() -> None:
    class Product(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(3, 5)

    found = record_training(Product(), torch.zeros(2, 3, requires_grad=True))
    assert sum(gradient.op.macs for gradient in found.gradients) == 2 * 3 * 5


def test_a_sparse_output_in_a_training_step() -> None:
    class Sparse(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).to_sparse()

    found = record_training(Sparse(3, 5, bias=False), torch.randn(2, 3))
    assert sum(gradient.op.macs for gradient in found.gradients) == 2 * 3 * 5


def test_nested_tensors_are_run_for_real() -> None:
    layer = nn.Linear(4, 4, bias=False)
    given = torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)])
    assert trace(layer, given).macs == 5 * 16


class Skipping(nn.Module):
    """Layers that run half of the time, by a generator's word."""

    def __init__(self, draw: Callable[[], Any]) -> None:
        super().__init__()
        self.layers, self.draw = nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), draw

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.draw() < 0.5:
                x = layer(x)
        return x


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda: torch.rand(()), "torch"),
        (lambda: torch.rand(2).mean().item(), "torch"),
        (lambda: random.random(), "random"),
        (lambda: numpy.random.rand(), "numpy.random"),
    ],
    ids=["a tensor", "a number made of one", "Python's", "numpy's"],
)
def test_a_forward_that_goes_by_random_numbers(draw: Callable[[], Any], name: str) -> None:
    (gap,) = [gap for gap in trace(Skipping(draw), torch.rand(2, 8)).gaps if gap.kind == "data-dependent"]
    assert f"random numbers that it draws from {name}:" in gap.text


class Noisy(nn.Module):
    """Random numbers that nobody goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = nn.Linear(8, 8), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(x) * (0 if x.shape[0] > 1 else 1)
        order = torch.randperm(x.shape[0], device=x.device)
        return self.dropout(self.inner(x + noise)[order])


@pytest.mark.parametrize("train", [False, True])
def test_noise_is_no_finding(train: bool) -> None:
    assert not trace(Noisy(), torch.rand(2, 8), train=train).gaps


class Warns(nn.Module):
    """As models of transformers do: it reads ids to warn of padding, and tables that were computed when it was made."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.layer = nn.Embedding(9, 4), nn.Embedding(9, 4), nn.Linear(4, 4)
        angles = torch.arange(9)[:, None] / 10000 ** (torch.arange(0, 4, 2) / 4)
        self.sinusoids = nn.Embedding.from_pretrained(torch.cat([angles.sin(), angles.cos()], -1))
        self.register_buffer("order", torch.arange(9)[None], persistent=False)

    def warn_if_padding_and_no_attention_mask(self, ids: Tensor) -> None:
        if 0 in ids[:, [-1, 0]]:
            self.warned = True

    def forward(self, ids: Tensor, boxes: Tensor) -> Tensor:
        self.warn_if_padding_and_no_attention_mask(ids)
        long = ids.shape[1]
        found = self.words(ids) + self.places(self.order[:, :long]) + self.sinusoids(torch.arange(long))
        return self.layer(found + self.places(boxes[:, :, 2] - boxes[:, :, 0]))


@pytest.mark.parametrize("device", ["meta", "real"])
def test_values_that_are_read_only_to_warn_are_no_finding(device: str) -> None:
    model = Warns()
    before = dict(vars(model))
    ids, boxes = torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 5, 4, dtype=torch.int64)
    assert not trace(model, ids, boxes, device=device).notes
    assert vars(model) == before
    model.warn_if_padding_and_no_attention_mask(ids)
    assert model.warned
