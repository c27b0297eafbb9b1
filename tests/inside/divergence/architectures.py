"""Forty small networks, with an input each: of torchvision, of timm (nothing is downloaded), and a few written here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = tuple[nn.Module, Tensor]


class CausalBlock(nn.Module):
    """A decoder block. `how` is where its mask comes from: `buffer`, `made` in forward, or given to `sdpa`."""

    def __init__(self, width: int, heads: int, how: str, longest: int = 32) -> None:
        super().__init__()
        self.heads, self.how, self.diagonal = heads, how, 1
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.register_buffer("mask", torch.ones(longest, longest, dtype=torch.bool).tril())

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.how == "sdpa":
            allowed = torch.ones(length, length, dtype=torch.bool).tril(self.diagonal - 1)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        else:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if self.how == "buffer":
                scores = scores.masked_fill(~self.mask[:length, :length], float("-inf"))
            else:
                scores = scores + torch.full((length, length), float("-inf")).triu(self.diagonal)
            out = scores.softmax(-1) @ v
        x = x + self.proj(out.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """A language model."""

    def __init__(self, how: str, width: int = 32, heads: int = 4, depth: int = 3) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(64, width), nn.Embedding(32, width)
        self.blocks = nn.ModuleList(CausalBlock(width, heads, how) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 64)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Unet(nn.Module):
    """An encoder and a decoder with connections across."""

    def __init__(self) -> None:
        super().__init__()

        def step(given: int, made: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(given, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU(inplace=True))

        self.down1, self.down2, self.middle = step(3, 8), step(8, 16), step(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)
        self.join2, self.join1, self.out = step(32, 16), step(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        low = self.middle(F.max_pool2d(second, 2))
        up = self.join2(torch.cat([self.up2(low), second], 1))
        return self.out(self.join1(torch.cat([self.up1(up), first], 1)))


class Waves(nn.Module):
    """Convolutions over time, then a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 16, 5, stride=2, padding=2), nn.GroupNorm(4, 16), nn.SiLU(),
            nn.Conv1d(16, 32, 3, padding=1), nn.BatchNorm1d(32), nn.GELU(),
        )  # fmt: skip
        self.rnn, self.head = nn.GRU(32, 24, batch_first=True), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.body(x).transpose(1, 2))[0][:, -1])


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def _timm(name: str, **settings: Any) -> nn.Module:
    import timm

    found: nn.Module = timm.create_model(name, pretrained=False, num_classes=10, **settings)
    return found


def _torchvision(name: str, **settings: Any) -> nn.Module:
    import torchvision

    found: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=10, **settings)
    return found


def _small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 3, 4, 48, 96, num_classes=10)


def _small_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([2, 2], 24, [2, 2], [2, 4], [4, 4], num_classes=10)


Built = tuple[Callable[[], nn.Module], tuple[int, ...]]

NETWORKS: dict[str, Built] = {
    "decoder with a buffer": (partial(Decoder, "buffer"), (2, 12)),
    "decoder with a mask made": (partial(Decoder, "made"), (2, 12)),
    "decoder with sdpa": (partial(Decoder, "sdpa"), (2, 12)),
    "unet": (Unet, (2, 3, 32, 32)),
    "waves": (Waves, (2, 2, 64)),
    "encoder": (_encoder, (2, 10, 32)),
    "vit": (_small_vit, (2, 3, 32, 32)),
    "swin": (_small_swin, (2, 3, 64, 64)),
    **{
        name: (partial(_torchvision, name), (2, 3, 64, 64))
        for name in (
            "resnet18 mobilenet_v2 mobilenet_v3_small squeezenet1_1 shufflenet_v2_x0_5 regnet_y_400mf mnasnet0_5"
        ).split()
    },
    "googlenet": (partial(_torchvision, "googlenet", init_weights=False, aux_logits=False), (2, 3, 64, 64)),
    **{
        f"timm:{name}": (partial(_timm, name), (2, 3, 64, 64))
        for name in (
            "test_byobnet test_convnext test_convnext2 test_convnext3 test_efficientnet test_efficientnet_gn "
            "test_efficientnet_ln test_mambaout test_nfnet test_resnet lcnet_035 tinynet_e mobilenetv3_small_050 "
            "resnet10t repvgg_a0 ghostnet_050 poolformerv2_s12 pvt_v2_b0"
        ).split()
    },
    **{
        f"timm:{name}": (partial(_timm, name, img_size=64), (2, 3, 64, 64))
        for name in "test_vit test_vit2 test_vit3 test_vit4 deit_tiny_patch16_224 mixer_s32_224".split()
    },
}


def network(name: str, seed: int) -> Network:
    """The network in eval mode with weights of its own, none of which is zero or one, and an input for it."""
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = make().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or (tensor.dim() != 1 and tensor.any()):
                continue
            if "var" in key or "weight" in key or "gamma" in key:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    if "decoder" in name:
        return model, torch.randint(0, 64, shape, generator=generator)
    return model, torch.randn(shape, generator=generator)
