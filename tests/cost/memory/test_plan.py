"""`memory --plan`: every row against torch's profiler on the network with that change made by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from modelprobe.cost.memory.of_target import MemoryRequest
from modelprobe.cost.memory.plan import MemoryPlan, PlanOption, memory_plan, sibling_blocks
from modelprobe.errors import BadInput
from modelprobe.model.build import TargetRequest, load_model
from modelprobe.tracing.module_tree import read_tree
from tests.cost.memory.test_blocks import real_peak

FILE = """
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x):
        return x + self.b(self.a(x).tanh().sin())

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(16, 64)
        self.blocks = nn.ModuleList(Block() for _ in range(6))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)
"""


@pytest.fixture
def planned(tmp_path: Path) -> Any:
    (tmp_path / "net.py").write_text(FILE)

    def plan(limit: int, rows: int = 64, **asked: Any) -> MemoryPlan:
        loaded = load_model(TargetRequest(f"{tmp_path}/net.py:Net", inputs=(f"{rows}x16",)))
        return memory_plan(loaded, limit, MemoryRequest(**asked))

    return plan


def built(tmp_path: Path) -> nn.Module:
    space: dict[str, Any] = {}
    exec(FILE, space)
    net: nn.Module = space["Net"]()
    return net


def by_change(plan: MemoryPlan) -> dict[str, PlanOption]:
    return {" + ".join(option.changes): option for option in plan.options}


def really(net: nn.Module, images: torch.Tensor, optimizer: Any) -> int:
    """Bytes at the peak of the second step, everything counted."""
    held = sum(t.nbytes for t in (*net.parameters(), *net.buffers(), images))
    made = optimizer(parameter for parameter in net.parameters() if parameter.requires_grad)
    real_peak(net, images, made)
    net.zero_grad()
    held += sum(v.nbytes for state in made.state.values() for v in state.values() if isinstance(v, torch.Tensor))
    return held + real_peak(net, images, made)


@pytest.mark.zoo
def test_every_row_is_what_the_changed_step_takes(planned: Any, tmp_path: Path) -> None:
    found = by_change(planned(1_700_000, train=True, optimizer="adam"))
    images = torch.rand(64, 16)

    half = built(tmp_path).bfloat16()
    assert found["--dtype bfloat16"].needed_bytes == pytest.approx(
        really(half, images.bfloat16(), partial(torch.optim.Adam, foreach=False)), rel=2e-3
    )
    assert found["--optimizer sgd"].needed_bytes == pytest.approx(
        really(built(tmp_path), images, partial(torch.optim.SGD, foreach=False)), rel=2e-3
    )
    (checkpointed,) = (option for name, option in found.items() if name.startswith("checkpoint"))
    net: Any = built(tmp_path)
    for name in checkpointed.modules:
        block = net.get_submodule(name)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    assert checkpointed.needed_bytes == pytest.approx(
        really(net, images, partial(torch.optim.Adam, foreach=False)), rel=2e-3
    )
    assert checkpointed.recomputed_macs == len(checkpointed.modules) * 2 * 64 * 64 * 256
    (frozen,) = (option for name, option in found.items() if name.startswith("--freeze"))
    net = built(tmp_path)
    for name in frozen.modules:
        net.get_submodule(name).requires_grad_(False)
    assert frozen.needed_bytes == pytest.approx(really(net, images, partial(torch.optim.Adam, foreach=False)), rel=2e-3)


@pytest.mark.zoo
def test_the_fewest_blocks_that_do(planned: Any) -> None:
    needs = planned(2**30, 2048, train=True).needed_bytes
    plan = planned(needs * 2 // 3, 2048, train=True)
    (found,) = (option for option in plan.options if option.changes[0].startswith("checkpoint"))
    count = len(found.modules)
    assert found.fits
    assert 0 < count < 6
    tighter = planned(found.needed_bytes - 1, 2048, train=True)
    (more,) = (option for option in tighter.options if option.changes[0].startswith("checkpoint"))
    assert len(more.modules) == count + 1


def test_what_fits_as_it_is_needs_no_change(planned: Any) -> None:
    plan = planned(2**30, train=True)
    assert plan.fits
    assert not plan.options


def test_inference_is_changed_by_dtype_alone(planned: Any) -> None:
    assert {change for option in planned(1000).options for change in option.changes} == {"--dtype bfloat16"}


@pytest.mark.zoo
def test_cheapest_first(planned: Any) -> None:
    options = planned(1_700_000, train=True, optimizer="adam").options
    keys = [(not one.fits, one.training_changes, one.recomputed_macs) for one in options]
    assert keys == sorted(keys)


def test_blocks_are_the_outermost_neighbours_of_one_class() -> None:
    class Block(nn.Sequential):
        pass

    def stage() -> nn.Sequential:
        return nn.Sequential(*(Block(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2)))

    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), stage(), stage(), nn.Linear(2, 2))
    assert sibling_blocks(read_tree(net)) == ("2.0", "2.1", "3.0", "3.1")


def test_a_loss_that_is_no_number(planned: Any) -> None:
    with pytest.raises(BadInput, match=r"shape \(64, 10\), not a tensor of one number"):
        planned(1, train=True, loss=lambda out: out)
    with pytest.raises(BadInput, match="does not depend"):
        planned(1, train=True, loss=lambda out: out.detach().sum())
