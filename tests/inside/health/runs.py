"""Small training runs, healthy or with one fault, each saved as a checkpoint: what `health` is to say of it.

`python -m tests.inside.health.runs 20 100` makes 20 runs of each fault and 100 healthy ones, and prints how many were
right.
"""

from __future__ import annotations

import copy
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 6


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(),
        nn.Linear(32, CLASSES),
    )  # fmt: skip


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """Blocks with a connection around them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 40)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(40), nn.Linear(40, 64), nn.GELU(), nn.Linear(64, 40)) for _ in range(3)
        )
        self.norm, self.head = nn.LayerNorm(40), nn.Linear(40, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.norm(x))


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": _mlp, "cnn": _cnn, "residual": Residual}


@dataclass
class Run:
    """A run in the making: what a fault changes before, during and after it."""

    model: nn.Module
    rng: random.Random
    optimizer: str = "adam"
    lr: float = 2e-3
    steps: int = 220
    frozen: tuple[str, ...] = ()
    twice: bool = False
    average: bool = False
    update_average: bool = True
    eval_mode: bool = False
    where: tuple[str, ...] = ()
    during: Callable[[nn.Module, int], None] = lambda model, step: None
    after: Callable[[nn.Module], None] = lambda model: None
    saved: dict[str, Any] = field(default_factory=dict)


def data(rng: random.Random) -> tuple[Tensor, Tensor]:
    """Six clusters in 64 dimensions, with some overlap."""
    generator = torch.Generator().manual_seed(rng.randrange(1 << 30))
    centres = torch.randn(CLASSES, 64, generator=generator)
    labels = torch.randint(0, CLASSES, (1024,), generator=generator)
    return centres[labels] + 1.3 * torch.randn(1024, 64, generator=generator), labels


def train(run: Run) -> dict[str, Any]:
    """Train it; the checkpoint as a training script would save it."""
    model = run.model
    for name, parameter in model.named_parameters():
        if any(name.startswith(f"{path}.") for path in run.frozen):
            parameter.requires_grad_(False)
    make = {
        "adam": lambda p: torch.optim.Adam(p, run.lr),
        "adamw": lambda p: torch.optim.AdamW(p, run.lr, weight_decay=0.02),
        "sgd": lambda p: torch.optim.SGD(p, run.lr * 10, momentum=0.9, weight_decay=1e-4),
    }[run.optimizer]
    all_of_them = run.rng.random() < 0.5  # or those alone that train
    optimizer = make([p for p in model.parameters() if p.requires_grad or all_of_them])
    averaged = copy.deepcopy(model)
    x, y = data(run.rng)
    model.train(not run.eval_mode)
    loss = torch.zeros(())
    for step in range(run.steps):
        picked = torch.randint(0, len(x), (64,))
        out = model(x[picked])
        loss = F.cross_entropy(out.softmax(-1) if run.twice else out, y[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.during(model, step)
        if run.update_average:
            with torch.no_grad():
                for mine, theirs in zip(averaged.parameters(), model.parameters(), strict=True):
                    mine.lerp_(theirs, 0.05)
    run.after(model)
    model.eval()
    with torch.no_grad():
        out = model(x)
        final = F.cross_entropy(out.softmax(-1) if run.twice else out, y)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "loss": float(final)}
    if run.average:
        saved["ema"] = averaged.state_dict()
    return saved


def _layers(model: nn.Module) -> list[str]:
    return [path for path, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]


def _head(run: Run) -> None:
    run.frozen = run.where = (_layers(run.model)[-1],)


def _block(run: Run) -> None:
    inner = _layers(run.model)[1:-1]
    run.frozen = run.where = (
        run.rng.choice([path for path in inner if run.model.get_submodule(path).weight.numel() > 300]),
    )


def _dead(run: Run) -> None:
    if isinstance(run.model, Residual):
        run.model = NETWORKS[run.rng.choice(["mlp", "cnn"])]()
    paths = [p for p in _layers(run.model)[:-1] if not _before_norm(run.model, p)]
    path = run.rng.choice(paths)
    layer = run.model.get_submodule(path)
    with torch.no_grad():
        layer.bias[: run.rng.randrange(len(layer.bias) * 6 // 10, len(layer.bias))] = -60.0
    run.where = (path,)


def _before_norm(model: nn.Module, path: str) -> bool:
    children = dict(model.named_children())
    following = children.get(str(int(path) + 1)) if path.isdigit() else None
    return isinstance(following, nn.BatchNorm2d)


def _exploding(run: Run) -> None:
    run.lr = run.rng.choice([0.5, 1.0, 3.0])
    run.optimizer = run.rng.choice(["adam", "adamw"])


def _average(run: Run) -> None:
    run.average, run.update_average = True, False


def _nan(run: Run) -> None:
    name = run.rng.choice([n for n, p in run.model.named_parameters() if p.dim() > 1])

    def after(model: nn.Module) -> None:
        with torch.no_grad():
            dict(model.named_parameters())[name].view(-1)[3] = run.rng.choice([float("nan"), float("inf")])

    run.after, run.where = after, (name,)


def _twice(run: Run) -> None:
    run.twice, run.steps, run.optimizer = True, 400, "adam"


def _zero(run: Run) -> None:
    run.lr, run.optimizer = 0.0, run.rng.choice(["adam", "sgd"])


def _statistics(run: Run) -> None:
    run.model, run.eval_mode = _cnn(), True


def _collapsed(run: Run) -> None:
    run.model, run.steps = _cnn(), 300
    with torch.no_grad():
        run.model[1].weight[2:5] = 0
        run.model[1].bias[2:5] = 0
    mask = torch.ones(16)
    mask[2:5] = 0

    def during(model: nn.Module, step: int) -> None:
        with torch.no_grad():
            model[1].weight.mul_(mask.view(-1, 1, 1, 1))
            model[1].bias.mul_(mask)

    run.during, run.where = during, ("2",)


def _pruned(run: Run) -> None:
    path = run.rng.choice(_layers(run.model)[:-1])

    def after(model: nn.Module) -> None:
        layer = model.get_submodule(path)
        with torch.no_grad():
            layer.weight[1:4] = 0
            layer.bias[1:4] = 0

    run.after, run.where = after, (path,)


class Detached(nn.Module):
    """A layer whose output counts for nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * self.inner(x)


def _no_gradient(run: Run) -> None:
    run.model, run.optimizer = Residual(), run.rng.choice(["adam", "adamw"])
    block = run.rng.randrange(3)
    run.model.blocks[block] = Detached(run.model.blocks[block])
    run.where = (f"blocks.{block}.inner",)


FAULTS: dict[str, tuple[Callable[[Run], None], tuple[str, ...]]] = {
    # fault -> what makes it, and the kinds of finding that name it
    "head never trained": (_head, ("never trained", "no gradient")),
    "block frozen by mistake": (_block, ("never trained", "no gradient")),
    "dead ReLUs": (_dead, ("dead units",)),
    "exploding step": (_exploding, ("exploding step", "diverged")),
    "EMA forgotten": (_average, ("average never updated",)),
    "NaN in one tensor": (_nan, ("not finite",)),
    "double softmax": (_twice, ("double softmax",)),
    "lr zero": (_zero, ("learning rate zero",)),
    "batch norm in eval mode": (_statistics, ("batch norm never trained",)),
    "variance collapsed": (_collapsed, ("variance collapsed",)),
    "filters pruned away": (_pruned, ("dead filters",)),
    "no gradient": (_no_gradient, ("no gradient",)),
}


def checkpoint(fault: str, seed: int) -> tuple[dict[str, Any], Run]:
    """A run with that fault, or a healthy one for an empty name."""
    rng = random.Random(f"{fault}{seed}")
    torch.manual_seed(rng.randrange(1 << 30))
    run = Run(NETWORKS[rng.choice(list(NETWORKS))](), rng)
    run.optimizer, run.average = rng.choice(["adam", "adamw", "sgd"]), rng.random() < 0.3
    run.steps += rng.randrange(200)
    if fault:
        FAULTS[fault][0](run)
    return train(run), run


def said_of(fault: str, seed: int, directory: Path) -> str:
    """What `health` says of a run where that is not right; empty where it is."""
    from modelprobe.inside.health.file_health import check_file_health

    saved, run = checkpoint(fault, seed)
    path = directory / "run.pth"
    torch.save(saved, path)
    found = check_file_health(str(path)).findings
    if not fault:
        return "; ".join(item.text for item in found)
    if not found:
        return "nothing"
    first = found[0]
    named = not run.where or any(place in where for place in run.where for where in first.where)
    only = all(any(place in where for place in run.where) for where in first.where) if run.where else True
    return "" if first.kind in FAULTS[fault][1] and named and only else f"{first.kind}: {first.text} ({first.evidence})"


def main(each: int, healthy: int) -> None:
    """Print how many were right."""
    wrong: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        for fault in FAULTS:
            for seed in range(each):
                said = said_of(fault, seed, Path(place))
                if said:
                    wrong[fault] += 1
                    print(f"{fault} {seed}: {said}", file=sys.stderr, flush=True)
        alarms = [said for seed in range(healthy) if (said := said_of("", seed, Path(place)))]
        for said in alarms:
            print(f"healthy: {said}", file=sys.stderr, flush=True)
    total = each * len(FAULTS)
    print(f"{total - sum(wrong.values())} of {total} faults right; {len(alarms)} alarms in {healthy} healthy runs")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
