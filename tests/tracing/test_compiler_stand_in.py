"""Recording imports no compiler, and afterwards the compiler is whole: each scenario in an interpreter of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from modelprobe.tracing import compiler_stand_in

START = """
import gc, importlib, sys, types
import torch
from modelprobe.tracing.compiler_stand_in import _StandIn, _StandIns, compiler_loaded, compiler_stand_in

def flops(target):
    from modelprobe.cli.app import main
    assert main(["flops", target, "--format", "json"]) == 0

def nothing_left():
    assert not any(isinstance(module, _StandIn) for module in sys.modules.values())
    assert not any(isinstance(finder, _StandIns) for finder in sys.meta_path)
    assert not isinstance(vars(torch.fx.experimental).get("symbolic_shapes"), _StandIn)
    assert not any(isinstance(value, _StandIn) for value in vars(torch).values())
    if not compiler_loaded():
        functions = (item for item in gc.get_objects() if type(item) is types.FunctionType)
        assert not [f for f in functions if "__dynamo_disable" in vars(f)]

NEW = [int(part) for part in torch.__version__.split(".")[:2]] >= [2, 13]

def not_imported():
    assert not compiler_loaded()
    if NEW:  # older kernels of meta import the symbols themselves
        assert "sympy" not in sys.modules and "torch.fx.experimental.symbolic_shapes" not in sys.modules
    nothing_left()

def compiler_works(run, x, graphs):
    "`run` compiles into that many graphs, and gives what it gives without."
    seen = []
    def backend(graph, inputs):
        seen.append(graph)
        return graph.forward
    assert torch.equal(torch.compile(run, backend=backend)(x), run(x))
    assert len(seen) == graphs, seen
    nothing_left()
"""

ZOOS = """
for name in ("resnet18", "vit_b_16", "timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:mobilevit_xxs"):
    flops(name)
not_imported()
"""

TRAINING = """
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.GELU(), torch.nn.Flatten(1))
from modelprobe.tracing.training import record_training
assert record_training(model, torch.empty(2, 3, 8, 8)).gradients
not_imported()
import modelprobe
for optimizer in ("sgd", "adam", "rmsprop", "adagrad"):
    assert modelprobe.estimate_memory(model, torch.empty(2, 3, 8, 8), train=True, optimizer=optimizer).peak_bytes
not_imported()
"""

DETECTION = """
import torchvision
boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]])
assert torchvision.ops.nms(boxes, torch.tensor([.9, .8, .7]), .5).tolist() == [0, 2]
pooled = torchvision.ops.roi_align(torch.ones(1, 2, 32, 32), [boxes[:1]], (2, 2))
assert pooled.shape == (1, 2, 2, 2) and pooled.allclose(torch.ones(()))
import torch._dynamo.utils
assert torch._dynamo.utils.counters is importlib.import_module("torch._dynamo.utils").counters
helper = getattr(sys.modules["torchvision.ops.roi_align"], "is_compile_supported", None)
assert helper is None or helper("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
compiler_works(torchvision.models.resnet18(weights=None).eval(), torch.ones(1, 3, 32, 32), 1)
"""

DISABLED = """
with compiler_stand_in():
    @torch.compiler.disable
    def apart(x):
        return x + 1
    def run(x):
        return apart(x.sin()).cos()
    assert apart(torch.ones(())) == 2
not_imported()
compiler_works(run, torch.ones(3), 2)
"""


def run(code: str) -> None:
    """Run `code` in a fresh interpreter, where nothing is imported yet."""
    done = subprocess.run([sys.executable, "-c", START + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.zoo
def test_zoos_are_recorded_without_a_compiler_which_works_afterwards() -> None:
    run(ZOOS + TRAINING + DISABLED + DETECTION)


@pytest.mark.zoo
def test_a_compiler_that_is_there_already_stays() -> None:
    run(
        "import torch._dynamo, sympy\nbefore = sys.modules['torch._dynamo']\n"
        + ZOOS.replace("not_imported()", "assert sys.modules['torch._dynamo'] is before")
        + DETECTION
    )


ASKS = [
    "import torch._dynamo as kept; kept.reset(); assert kept is sys.modules['torch._dynamo']",
    "import torch._dynamo.exc as e; assert e.Unsupported is sys.modules['torch._dynamo.convert_frame'].Unsupported",
    "torch.cond(torch.tensor(True), lambda x: x + 1, lambda x: x - 1, (torch.ones(2),))",
    "torch._dynamo.config.verbose",
    "from torch._dynamo.utils import counters; assert counters is sys.modules['torch._dynamo.utils'].counters",
    "torch.compile(torch.sin, backend='eager')(torch.ones(2))",
    "torch.compiler.set_stance('force_eager'); torch.compiler.set_stance('default')",
    "torch.compiler.disable(torch.nn.Linear(2, 2))",
]


@pytest.mark.zoo
@pytest.mark.parametrize("asks", ASKS)
def test_whoever_asks_for_more_gets_the_real_compiler(asks: str) -> None:
    run(
        f"with compiler_stand_in():\n    {asks}\n    assert compiler_loaded()\n    nothing_left()\n"
        + "compiler_works(torch.nn.Linear(2, 2), torch.ones(2), 1)\n"
    )


SYMBOLS = """
with compiler_stand_in():
    def numbers():
        from torch.fx.experimental.symbolic_shapes import guard_or_false, sym_and, sym_eq, sym_or
        assert guard_or_false(True) is True and sym_and(True, False) is False and sym_or(True, False) is True
        assert sym_eq((1, 2), [1, 2]) is True and sym_eq((1, 2), (1, 2, 3)) is False
    numbers()
    import sympy
    torch.empty(2, device="meta").add(1.0)
    assert type(sympy) is _StandIn
    import sympy.core.numbers
    assert sympy.Integer(2) + 1 == 3 and type(sympy) is not _StandIn
    assert sympy.core.numbers is sys.modules["sympy.core.numbers"]
    assert sympy.core.numbers.__spec__.loader is not None and sympy.core.numbers.__spec__.name == "sympy.core.numbers"
    from torch.fx.experimental.symbolic_shapes import ShapeEnv, sym_eq
    assert sym_eq is sys.modules["torch.fx.experimental.symbolic_shapes"].sym_eq
    assert not compiler_loaded()
nothing_left()
"""


@pytest.mark.zoo
def test_symbols_are_real_for_whoever_computes_with_them() -> None:
    run(SYMBOLS)


def test_an_unknown_torch_imports_what_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, known in (("2.6.0+cpu", True), ("2.15.0a0", True), ("2.5.1", False), ("2.16.0", False), ("x", False)):
        monkeypatch.setattr(torch, "__version__", version)
        assert compiler_stand_in._known_torch() == known, version


@pytest.mark.zoo
def test_compiled_parts_conditions_and_flex_attention_are_recorded() -> None:
    run(
        """
from torch import nn
import modelprobe
x = torch.ones(2, 4)
plain = modelprobe.trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), x).macs
assert modelprobe.trace(nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 4))), x).macs == plain == 64

class Chooses(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda y: y @ y.T, lambda y: y, (x,))

assert not NEW or modelprobe.trace(Chooses(), x).macs == 16  # older ones refuse any mode
flex = importlib.import_module("torch.nn.attention.flex_attention")

class Flexible(nn.Module):
    def forward(self, x):
        return flex.flex_attention(x, x, x)

assert not NEW or modelprobe.trace(Flexible(), torch.ones(1, 2, 16, 8)).macs == 2 * 2 * 16 * 16 * 8
compiler_works(nn.Linear(4, 4), x, 1)
"""
    )


@pytest.mark.zoo
@pytest.mark.slow
@pytest.mark.parametrize("shard", range(8))
def test_all_of_timm(shard: int) -> None:
    run(
        f"""
from modelprobe.model.zoo.names import zoo_names
for name in zoo_names().timm[{shard}::8]:
    flops(f"timm:{{name}}")
    assert not compiler_loaded(), name
nothing_left()
"""
    )
