"""Where are the channels, rows and columns of a layer's output? Followed through the ledger, networks of every kind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modelprobe.model.inputs.example import make_inputs
from modelprobe.model.target import resolve
from modelprobe.tracing.recorder import trace
from modelprobe.vision.features.layouts import FRAMES, MAPS, MATRIX, PIECES, TOKENS, VECTOR, Layout, layouts


def of(model: nn.Module, *inputs: torch.Tensor) -> dict[str, Layout]:
    return {place.path: place.layout for place in layouts(trace(model, *inputs)) if place.index == 0}


def of_zoo(name: str) -> dict[str, Layout]:
    target = resolve(name)
    model = target.build().module
    args, _ = make_inputs(target, model=model).build("meta")
    return of(model, *args)


@pytest.mark.zoo
@pytest.mark.parametrize(
    ("name", "layer", "kind", "said", "grid", "before"),
    [
        ("resnet18", "layer4.0.conv1", MAPS, "NCHW", (7, 7), 0),
        ("resnet18", "avgpool", VECTOR, "NCHW", (), 0),
        ("vit_b_16", "encoder.layers.encoder_layer_0", TOKENS, "tokens 14x14 + 1", (14, 14), 1),
        ("swin_t", "features.1.0.attn", MAPS, "NHWC", (56, 56), 0),
        ("swin_t", "features.3.1.mlp.0", MAPS, "NHWC", (28, 28), 0),
        ("timm:test_vit", "blocks.0.attn.q_norm", TOKENS, "tokens 10x10 + 1", (10, 10), 1),
        ("timm:vit_small_patch14_reg4_dinov2", "blocks.3.mlp", TOKENS, "tokens 37x37 + 5", (37, 37), 5),
        ("timm:deit_tiny_distilled_patch16_224", "norm", TOKENS, "tokens 14x14 + 2", (14, 14), 2),
        ("timm:swin_tiny_patch4_window7_224", "layers.1.blocks.1.mlp.fc1", TOKENS, "tokens 28x28", (28, 28), 0),
        ("timm:swin_tiny_patch4_window7_224", "layers.2.downsample", MAPS, "NHWC", (14, 14), 0),
        ("timm:swin_tiny_patch4_window7_224", "layers.0.blocks.1.attn", PIECES, "64 windows of 7x7", (7, 7), 0),
        ("timm:mixer_s32_224", "blocks.2.norm1", TOKENS, "tokens 7x7", (7, 7), 0),
        ("convnext_tiny", "features.1.0.block.3", MAPS, "NHWC", (56, 56), 0),
        ("timm:test_convnext", "stages.1.blocks.0", MAPS, "NCHW", (20, 20), 0),
        ("timm:pvt_v2_b0", "stages.1.blocks.0.mlp.fc2", TOKENS, "tokens 28x28", (28, 28), 0),
        ("r3d_18", "layer2", FRAMES, "NCDHW", (8, 28, 28), 0),
        ("mvit_v1_b", "blocks.0", FRAMES, "tokens 8x56x56 + 1", (8, 56, 56), 1),
    ],
)
def test_layers_of_the_zoos(name: str, layer: str, kind: str, said: str, grid: tuple[int, ...], before: int) -> None:
    found = of_zoo(name)[layer]
    assert (found.kind, found.said, found.grid, found.before, found.how) == (kind, said, grid, before, "operators")


def test_a_small_transformer() -> None:
    found = of_zoo("timm:test_vit")
    assert {layout.how for layout in found.values()} == {"operators"}
    assert found["patch_embed.proj"].describe() == "NCHW"
    assert found["patch_embed"].describe() == "NHWC"
    assert found["blocks.1.mlp.fc1"].describe() == "tokens 10x10 + 1"
    assert found["blocks.0.attn.q_norm"].channels == (1, 3)  # heads and the channels of each
    assert found["fc_norm"].kind == found["head"].kind == VECTOR


class Odd(nn.Module):
    """Sizes that tell nothing: every dimension is 8, and rows and columns are swapped on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.last, self.turned, self.behind = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        x = self.last(self.conv(x).permute(0, 2, 3, 1))
        x = self.turned(x.transpose(1, 2))
        tokens = x.transpose(1, 2).flatten(1, 2)
        return self.behind(torch.cat([tokens, tokens.new_zeros(1, 2, 8)], 1))


def test_equal_sizes_do_not_confuse() -> None:
    found = of(Odd(), torch.zeros(1, 3, 8, 8))
    assert found["conv"].said == "NCHW"
    assert (found["last"].said, found["last"].space) == ("NHWC", (1, 2))
    assert (found["turned"].said, found["turned"].space) == ("NWHC", (2, 1))
    assert (found["behind"].said, found["behind"].before, found["behind"].after) == ("tokens 8x8 + 2", 0, 2)


class Windowed(nn.Module):
    """Cut into windows and put together again, without a residual branch that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.window, self.whole = nn.Linear(5, 5), nn.Identity()

    def forward(self, x):
        x = self.conv(x).permute(0, 2, 3, 1)
        x = x.reshape(1, 3, 4, 2, 4, 5).permute(0, 1, 3, 2, 4, 5).reshape(6, 16, 5)
        x = self.window(x).reshape(1, 3, 2, 4, 4, 5).permute(0, 1, 3, 2, 4, 5)
        return self.whole(x.reshape(1, 12, 8, 5))


def test_windows_and_back() -> None:
    found = of(Windowed(), torch.zeros(1, 3, 12, 8))
    assert (found["window"].kind, found["window"].tiles, found["window"].grid) == (PIECES, (3, 2), (4, 4))
    assert (found["whole"].kind, found["whole"].said, found["whole"].grid) == (MAPS, "NHWC", (12, 8))


class Scrambled(nn.Module):
    """Places in an order that nothing tells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mixed, self.pooled = nn.Conv2d(3, 5, 1), nn.Linear(5, 5), nn.Linear(7, 7)

    def forward(self, x):
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        return self.mixed(tokens[:, torch.randperm(64)]), self.pooled(F.pad(tokens.mean(1), (1, 1)))


def test_what_is_read_from_sizes_says_so() -> None:
    found = of(Scrambled(), torch.zeros(1, 3, 8, 8))
    assert (found["mixed"].kind, found["mixed"].how) == (TOKENS, "size")
    assert found["mixed"].describe() == "tokens 8x8 (by size)"
    assert found["pooled"].kind == VECTOR


def test_sequences_have_no_grid() -> None:
    found = of_zoo("samples/models.py:TinyAttention")
    assert {layout.kind for layout in found.values()} == {MATRIX}
