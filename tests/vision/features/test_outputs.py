"""Where are the channels, rows and columns of a layer's output? Followed through networks of every kind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelprobe.model.inputs.example import make_inputs
from modelprobe.model.target import resolve
from modelprobe.tracing.recorder import trace
from modelprobe.vision.features.maps import layer_maps
from modelprobe.vision.features.outputs import (
    FRAMES,
    MAPS,
    MATRIX,
    NOTHING,
    TOKENS,
    VECTOR,
    LayerOutputs,
    Layout,
    guessed_layout,
)


def of(model: nn.Module, *inputs: torch.Tensor) -> dict[str, Layout]:
    outputs = LayerOutputs()
    trace(model, *inputs, follow=outputs)
    return {output.path: output.layout for output in outputs.layouts() if output.index == 0}


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
        (
            "timm:swin_tiny_patch4_window7_224",
            "layers.0.blocks.1.attn",
            MAPS,
            "56x56 in 64 windows of 7x7",
            (56, 56),
            0,
        ),
        ("timm:mixer_s32_224", "blocks.2.norm1", TOKENS, "tokens 7x7", (7, 7), 0),
        ("timm:mobilevit_xxs", "stages.2.1.transformer.0.norm1", MAPS, "32x32 over dimensions 0, 1", (32, 32), 0),
        ("convnext_tiny", "features.1.0.block.3", MAPS, "NHWC", (56, 56), 0),
        ("timm:test_convnext", "stages.1.blocks.0", MAPS, "NCHW", (20, 20), 0),
        ("timm:pvt_v2_b0", "stages.1.blocks.0.mlp.fc2", TOKENS, "tokens 28x28", (28, 28), 0),
        ("r3d_18", "layer2", FRAMES, "NCDHW", (8, 28, 28), 0),
        ("mvit_v1_b", "blocks.0", FRAMES, "tokens 8x56x56 + 1", (8, 56, 56), 1),
    ],
)
def test_layers_of_the_zoos(name: str, layer: str, kind: str, said: str, grid: tuple[int, ...], before: int) -> None:
    found = of_zoo(name)[layer]
    assert (found.kind, found.said, found.grid, found.how) == (kind, said, grid, "operators")
    assert (found.places.before if found.places else 0) == before


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
    assert (found["last"].said, found["last"].channels) == ("NHWC", (3,))
    assert (found["turned"].said, found["turned"].channels) == ("NWHC", (3,))
    behind = found["behind"]
    assert (behind.said, behind.places.before, behind.places.after) == ("tokens 8x8 + 2", 0, 2)


class Moved(nn.Module):
    """A layer that moves the values of an image, and nothing else."""

    def __init__(self, move):
        super().__init__()
        self.move = move

    def forward(self, x):
        return self.move(x)


def windows(x):
    """Shifted windows of 4x4, each a sequence."""
    x = torch.roll(x, (-2, -2), (2, 3)).permute(0, 2, 3, 1)
    return x.reshape(1, 3, 4, 2, 4, -1).permute(0, 1, 3, 2, 4, 5).reshape(6, 16, -1)


def strided(x):
    """Every second row and column together: four parts, as mobilevit makes them."""
    return x.reshape(-1, 6, 2, 4, 2).transpose(2, 3).reshape(x.shape[1], 24, 4).permute(2, 1, 0)


@pytest.mark.parametrize(
    ("move", "said"),
    [
        (lambda x: x, "NCHW"),
        (lambda x: x.permute(0, 3, 1, 2), "NWCH"),
        (lambda x: x.flatten(2).mT, "tokens 12x8"),
        (lambda x: torch.cat([torch.ones(1, 5, 3), x.flatten(2).mT, torch.ones(1, 1, 3)], 1), "tokens 12x8 + 6"),
        (lambda x: x.flatten(2).mT[:, torch.arange(96).roll(7).flip(0)], "tokens 12x8"),
        (windows, "12x8 in 6 windows of 4x4"),
        (strided, "12x8 over dimensions 0, 1"),
        (lambda x: F.unfold(x, 4, stride=4).reshape(1, 3, 16, 6), "12x8 over dimensions 2, 3"),
        (lambda x: F.pad(x, (1, 2, 0, 3)), "NCHW"),
        (lambda x: F.pad(x, (2, 2, 2, 2), mode="reflect"), "NCHW"),
        (lambda x: x[None].expand(2, -1, -1, -1, -1).flatten(0, 1)[:1], "NCHW"),
    ],
)
def test_values_that_were_only_moved_come_back_in_their_places(move, said: str) -> None:
    image, model = torch.rand(1, 3, 12, 8), nn.Sequential(Moved(move))
    layout = of(model, image)["0"]
    assert (layout.said, layout.how, layout.covers) == (said, "operators", True)
    assert torch.equal(torch.from_numpy(layer_maps(model(image), layout).channels), image[0])


class Volume(nn.Module):
    """Frames, as maps and as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.tokens = nn.Conv3d(3, 5, 3, padding=1), nn.AvgPool3d(2), nn.Identity()

    def forward(self, x):
        x = self.pool(self.conv(x))
        return self.tokens(torch.cat([x.new_zeros(1, 1, 5), x.flatten(2).mT], 1))


def test_frames() -> None:
    found = of(Volume(), torch.zeros(1, 3, 8, 12, 16))
    assert (found["conv"].said, found["conv"].kind, found["conv"].grid) == ("NCDHW", FRAMES, (8, 12, 16))
    assert (found["pool"].said, found["pool"].grid) == ("NCDHW", (4, 6, 8))
    assert (found["tokens"].said, found["tokens"].kind) == ("tokens 4x6x8 + 1", FRAMES)


class Enlarged(nn.Module):
    """Maps of more places than the image has, and of a single row."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up, self.strip = nn.Conv2d(3, 4, 1), nn.Upsample(scale_factor=4), nn.AvgPool2d((8, 1))
        self.transposed, self.pooled = nn.ConvTranspose2d(4, 2, 2, 2), nn.AdaptiveAvgPool2d(1)
        self.spread, self.shuffle = nn.Upsample((5, 5)), nn.PixelShuffle(2)

    def forward(self, x):
        x = self.conv(x)
        return self.up(x), self.strip(x), self.transposed(x), self.spread(self.pooled(x)), self.shuffle(x)


def test_larger_than_the_image_and_a_single_row() -> None:
    found = of(Enlarged(), torch.zeros(1, 3, 8, 8))
    sizes = {"up": (32, 32), "strip": (1, 8), "transposed": (16, 16), "shuffle": (16, 16)}
    assert {path: found[path].grid for path in sizes} == sizes
    assert all(found[path].covers and found[path].said == "NCHW" for path in sizes)
    assert found["pooled"].kind == VECTOR
    assert (found["spread"].grid, found["spread"].covers) == ((5, 5), False)  # no place of the image any more


class Generator(nn.Module):
    """Maps that come from no image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Linear(7, 4 * 16), nn.Conv2d(4, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(self.first(x).reshape(1, 4, 4, 4))


def test_a_convolution_makes_a_map_of_anything() -> None:
    found = of(Generator(), torch.zeros(1, 7))
    assert found["first"].kind == VECTOR
    assert (found["conv"].said, found["conv"].grid, found["conv"].how) == ("NCHW", (4, 4), "operators")
    assert not found["conv"].covers


class Mixer(nn.Module):
    """A linear layer over positions: whether what it puts out has any, the operator does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mixed, self.pooled = nn.Conv2d(3, 5, 1), nn.Linear(64, 64), nn.Linear(5, 7)

    def forward(self, x):
        tokens = self.conv(x).flatten(2)
        return self.mixed(tokens), self.pooled(tokens.mean(2))


def test_what_is_read_from_sizes_says_so() -> None:
    found = of(Mixer(), torch.zeros(1, 3, 8, 8))
    assert (found["mixed"].kind, found["mixed"].how) == (TOKENS, "size")
    assert found["mixed"].describe() == "tokens 8x8 (by size)"
    assert (found["pooled"].kind, found["pooled"].how) == (VECTOR, "operators")


class Recurrent(nn.Module):
    """A sequence of feature vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.lstm, self.head = nn.LayerNorm(6), nn.LSTM(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.lstm(self.norm(x))[0])


def test_sequences_have_no_grid() -> None:
    found = of_zoo("samples/models.py:TinyAttention")
    assert {(layout.kind, layout.how) for layout in found.values()} == {(MATRIX, "operators")}
    found = of(Recurrent(), torch.zeros(1, 9, 6))
    assert {(layout.kind, layout.positions, layout.how) for layout in found.values()} == {(MATRIX, (1,), "operators")}


def test_calls_are_numbered_over_all_names_of_a_module() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    model.append(model[0])
    outputs = LayerOutputs()
    trace(model, torch.zeros(1, 3, 4, 4), follow=outputs)
    assert [(one.path, one.call) for one in outputs.layouts()] == [("0", 1), ("1", 1), ("0", 2)]


class Branches(nn.Module):
    """Values decide the way: it cannot be followed on `meta`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lazy = nn.Conv2d(3, 4, 1), nn.LazyConv2d(2, 1)

    def forward(self, x):
        x = self.conv(x)
        return self.lazy(x if x.sum() > 0 else -x)


def test_a_network_that_needs_values_and_has_lazy_layers() -> None:
    found = of(Branches(), torch.zeros(1, 3, 4, 4))
    assert {path: layout.describe() for path, layout in found.items()} == {"conv": "NCHW", "lazy": "NCHW"}


SIZES = st.sampled_from([1, 1, 2, 3, 4, 6, 9, 12, 13])
GRIDS = st.lists(st.sampled_from([(2, 3), (3, 3), (3, 4), (2, 6), (1, 4), (6, 2)]))


@pytest.mark.zoo
@settings(max_examples=100, deadline=None)
@given(st.lists(SIZES, max_size=6), GRIDS)
def test_whatever_is_guessed_nothing_is_lost(sizes, grids) -> None:
    tensor = torch.arange(torch.Size(sizes).numel(), dtype=torch.float32).reshape(sizes)
    layout = guessed_layout(tuple(sizes), grids)
    assert layout.kind != NOTHING
    maps = layer_maps(tensor, layout)
    held = maps.row if maps.row.size else maps.channels
    beside = len(maps.channels) * (layout.places.beside if layout.places is not None else 0)
    assert held.size + beside == tensor.numel() or maps.thinned > 1
    assert len(set(held.reshape(-1).tolist())) == held.size  # every value once
