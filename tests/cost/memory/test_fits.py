"""The largest batch within a limit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from modelprobe.cost.memory.fits import largest_batch
from modelprobe.cost.memory.of_target import MemoryRequest, memory_that_fits, of_batch
from modelprobe.errors import BadInput
from modelprobe.model.build import TargetRequest, load_model
from tests.sampling import sampled


@pytest.mark.parametrize("limit", [150, 1_099, 1_100, 123_456])
def test_it_fits_and_the_next_larger_does_not(limit: int) -> None:
    asked: dict[int, int] = {}

    def needed(batch: int) -> int:
        asked[batch] = 50 + 10 * batch + (7 if batch > 20 else 0)
        return asked[batch]

    found = largest_batch(needed, limit)
    assert asked[found] <= limit < asked[found + 1]
    assert len(asked) < 10


def test_what_is_missing_is_said() -> None:
    with pytest.raises(BadInput, match="24 B more than 100 B"):
        largest_batch(lambda batch: 124 * batch, 100)


NETWORKS = (
    "resnet18", "mobilenet_v2", "squeezenet1_0", "densenet121", "shufflenet_v2_x1_0", "efficientnet_b0", "vgg11",
    "timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:mixer_s16_224",
)  # fmt: skip

CAPPED = """
import resource, sys
import torch
from modelprobe.model.target import resolve

name, side, room = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
net = resolve(name).build("cpu").module.eval()

def run(batch):
    with torch.no_grad():
        net(torch.rand(batch, 3, side, side))

for batch in (1, 2, 3):  # oneDNN's kernels are made
    run(batch)
with open("/proc/self/status") as status:
    now = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (now + room, now + room))
for batch in (8, 9):
    try:
        run(batch)
        print("ran")
    except RuntimeError:
        print("out of memory")
"""


@pytest.mark.zoo
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the cap is Linux's RLIMIT_DATA")
@pytest.mark.parametrize("name", sampled(NETWORKS, 3))
def test_under_a_cap_the_batch_runs_and_the_next_larger_does_not(name: str) -> None:
    """Real inference in a child process that may have no more than what is said for eight and a half examples."""
    side = 224 if name.startswith("timm") else 256
    loaded = load_model(TargetRequest(name, inputs=(str(side),)))
    eight, nine = (of_batch(loaded, batch, MemoryRequest()) for batch in (8, 9))
    limit = (eight.peak_bytes + nine.peak_bytes) // 2
    assert memory_that_fits(loaded, limit, MemoryRequest()).largest_batch == 8
    room = limit - eight.parts["weights"] - eight.parts["buffers"]
    steady = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", CAPPED, name, str(side), str(room)]
    done = subprocess.run(command, env={**os.environ, **steady}, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["ran", "out of memory"], done.stderr
