"""The largest batch within a limit."""

from __future__ import annotations

import pytest
import torch

from modelprobe.cost.memory.fits import largest_batch
from modelprobe.cost.memory.of_target import MemoryRequest, memory_that_fits
from modelprobe.errors import BadInput
from modelprobe.model.build import TargetRequest, load_model
from modelprobe.model.target import resolve
from tests.cost.memory.test_blocks import real_peak


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
    "timm:vit_tiny_patch16_224", "timm:convnext_atto", "timm:mixer_s32_224",
)  # fmt: skip


@pytest.mark.zoo
@pytest.mark.parametrize("name", NETWORKS)
def test_the_batch_runs_within_the_limit_and_the_next_does_not(name: str) -> None:
    """Real inference on the CPU: the limit is what eight and a half examples take above the weights."""
    net = resolve(name).build("cpu").module.eval()
    side = 224 if name.startswith("timm") else 64
    state = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))

    def real(batch: int) -> int:
        images = torch.rand(batch, 3, side, side)
        return state + images.nbytes + real_peak(net, images, None)

    limit = (real(8) + real(9)) // 2
    loaded = load_model(TargetRequest(name, inputs=(str(side),)))
    assert memory_that_fits(loaded, limit, MemoryRequest()).largest_batch == 8
