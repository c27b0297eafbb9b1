"""`memory --plan` on networks of the zoos and a stack of transformer blocks: every row against torch's profiler."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

from modelprobe.cost.memory.of_target import MemoryRequest, memory_of_target
from modelprobe.cost.memory.plan import PlanOption, memory_plan
from modelprobe.model.build import TargetRequest, load_model

STACK = """
import torch
from torch import nn

class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(200, 64)
        layer = lambda: nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.ModuleList(layer() for _ in range(6))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 200, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
"""

NETWORKS = {
    "resnet18": "3x64x64", "vgg11_bn": "3x32x32", "mobilenet_v2": "3x64x64", "swin_t": "3x64x64",
    "timm:vit_tiny_patch16_224": "3x224x224", "timm:convnext_atto": "3x64x64", "timm:mixer_s32_224": "3x224x224",
    "STACK": "32:int64",
}  # fmt: skip
OPTIMIZERS = {"sgd": torch.optim.SGD, "sgd-momentum": partial(torch.optim.SGD, momentum=0.9), "adam": torch.optim.Adam}


def changed_by_hand(option: PlanOption, net: Any, batch: int) -> dict[str, Any]:
    """Make the changes of a row on the network itself; returns how it is run then."""
    how: dict[str, Any] = {"batch": batch, "parts": 1, "amp": False, "optimizer": "adam", "dtype": torch.float32}
    for change in option.changes:
        words = change.replace(",", "").split()
        if words[0] == "checkpoint":
            for name in option.modules:
                block = net.get_submodule(name)
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        elif words[0] == "--freeze":
            for name in option.modules:
                net.get_submodule(name).requires_grad_(False)
        elif words[0] == "--dtype":
            net.to(torch.bfloat16)
            how["dtype"] = torch.bfloat16
        elif words[0] == "--amp":
            how["amp"] = True
        elif words[0] == "--optimizer":
            how["optimizer"] = words[1]
        elif words[0] == "--batch":
            how["batch"], how["parts"] = int(words[1]), int(words[2]) if "accumulated" in words else 1
        else:
            raise AssertionError(change)
    return how


def peak_of(net: nn.Module, shape: tuple[int, ...], how: dict[str, Any]) -> int:
    """Bytes at the peak of the second step, all that lies there counted."""
    whole = (how["batch"], *shape)
    given = torch.rand(whole).to(how["dtype"]) if len(shape) > 1 else torch.zeros(whole, dtype=torch.int64)
    made: Any = OPTIMIZERS[how["optimizer"]]
    optimizer = made([one for one in net.parameters() if one.requires_grad], foreach=False)
    net.train()
    for _ in range(2):
        held = sum(one.nbytes for one in (*net.parameters(), *net.buffers(), given))
        held += sum(v.nbytes for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            for _ in range(how["parts"]):
                loss = None
                with torch.autocast("cpu") if how["amp"] else nullcontext():
                    out = net(given)
                    loss = out.sum()
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            del out, loss
    now = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    return held + peak


FEW = ("resnet18", "STACK")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.zoo if name in FEW else pytest.mark.slow) for name in NETWORKS]
)
def test_every_row_is_what_the_changed_network_takes(name: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(STACK)
    target = f"{tmp_path}/net.py:Language" if name == "STACK" else name
    shape, _, dtype = NETWORKS[name].partition(":")
    request = TargetRequest(target, inputs=(f"1x{shape}" + (f":{dtype}" if dtype else ""),), batch=8)
    loaded, asked = load_model(request), MemoryRequest(train=True, optimizer="adam")
    limit = int(memory_of_target(loaded, asked).peak_bytes * 0.8)
    plan = memory_plan(loaded, limit, asked)
    assert len(plan.options) >= 4
    off = {}
    for option in plan.options:
        torch.manual_seed(0)
        net: Any = load_model(request).target.build("cpu").module
        how = changed_by_hand(option, net, 8)
        real = peak_of(net, tuple(map(int, shape.split("x"))), how)
        off[" + ".join(option.changes)] = option.needed_bytes / real - 1
    print(name, {change: f"{error:+.2%}" for change, error in off.items()})
    assert max(map(abs, off.values())) <= 0.02
