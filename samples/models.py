"""Tiny networks, one of each kind that a tool like this gets wrong. `modelprobe flops samples/models.py:TinyCNN`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class TinyCNN(nn.Module):
    """Convolution, batch norm, pooling, a linear head: the plain case."""

    def __init__(self, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class TinyAttention(nn.Module):
    """Tokens, attention that no module computes, a position table that is no parameter."""

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 3, tokens: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, width)
        self.register_buffer("positions", torch.zeros(1, tokens, width))
        self.register_buffer("mask", torch.ones(tokens, tokens).tril().bool(), persistent=False)
        self.blocks = nn.ModuleList(AttentionBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.positions
        for block in self.blocks:
            x = block(x, self.mask)
        return self.norm(x) @ self.embed.weight.T  # tied head: a product in no module


class AttentionBlock(nn.Module):
    """Pre-norm attention and a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


class Shared(nn.Module):
    """One module under two names, called three times, and a tied pair of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = self.a
        self.encoder, self.decoder = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.a(self.b(self.a(x)))) + self.encoder(x)


class Recursive(nn.Module):
    """A module that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor, depth: int = 3) -> Tensor:
        x = self.layer(x)
        return self(x, depth - 1) if depth > 1 else x


class Unused(nn.Module):
    """A branch that never runs, a parameter in no layer, and a list of them."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 4)
        self.never = nn.Sequential(nn.Linear(4, 64), nn.ReLU())
        self.scale = nn.Parameter(torch.ones(4))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) * self.scale + self.biases[0] + self.biases[1]


@dataclass
class Answer:
    """What `Structured` returns."""

    scores: Tensor
    extras: dict[str, Tensor]


class Structured(nn.Module):
    """Two inputs, one of them by keyword, and a dataclass for an output."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.score = nn.Linear(8, 2)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Answer:
        hidden = self.embed(ids)
        if mask is not None:
            hidden = hidden * mask.unsqueeze(-1)
        return Answer(self.score(hidden), {"hidden": hidden})


class Tagger(nn.Module):
    """A recurrent tagger on sequences of different lengths."""

    def __init__(self, words: int = 50, width: int = 8, tags: int = 5) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(2 * width, tags)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        if lengths is None:
            return self.tags(self.lstm(x)[0])
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.tags(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])


class TinyExperts(nn.Module):
    """A mixture of experts: each token goes to the two best of four, so what runs depends on the data."""

    def __init__(self, width: int = 8, experts: int = 4, best: int = 2) -> None:
        super().__init__()
        self.best = best
        self.modelprobe_inputs = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(0))
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)) for _ in range(experts)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        weights, chosen = self.router(tokens).softmax(-1).topk(self.best)
        mixed = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            token, place = torch.where(chosen == index)
            if len(token):
                mixed[token] += weights[token, place, None] * expert(tokens[token])
        return self.head(mixed).view(*x.shape[:-1], -1)


class DataDependent(nn.Module):
    """Asks for values: it cannot run on meta."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(4, 4), nn.Linear(4, 400)

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) if x.sum().item() > 1e9 else self.small(x)


class Lazy(nn.Module):
    """Layers that learn their sizes from the first input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.LazyConv2d(4, 3), nn.LazyLinear(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).flatten(1))


class Broken(nn.Module):
    """Raises in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Sequential(nn.Linear(9, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


DIGITS = {
    "input_size": (1, 64, 64),
    "mean": (0.0,),
    "std": (1.0,),
    "crop_pct": 1.0,
    "label_names": list("0123456789"),
}
"""How the two networks below see pictures, and what their classes are called."""


class DigitCNN(nn.Module):
    """Names the digit on a 64 x 64 canvas: four convolutions, global average pooling, a linear head."""

    default_cfg = DIGITS

    def __init__(self, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(1, width, stride=2),
            _conv(width, 2 * width, stride=2),
            _conv(2 * width, 3 * width),
            _conv(3 * width, 4 * width),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class DigitResNet(nn.Module):
    """Names the digit on a 64 x 64 canvas: residual, its sums written in `forward`, one ReLU for all of them."""

    default_cfg = DIGITS

    def __init__(self, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem, self.relu = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width)), nn.ReLU()
        sizes = [(width, width, 1), (width, 2 * width, 2), (2 * width, 3 * width, 1)]
        self.main = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
            )
            for before, after, stride in sizes
        )  # fmt: skip
        self.skip = nn.ModuleList(
            nn.Identity() if before == after else nn.Conv2d(before, after, 1, stride) for before, after, stride in sizes
        )
        self.head = nn.Linear(3 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        for main, skip in zip(self.main, self.skip, strict=True):
            x = self.relu(main(x) + skip(x))
        return self.head(x.mean((2, 3)))


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU in place: what most networks are made of."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


class DigitViT(nn.Module):
    """Names the digit on a 64 x 64 canvas: a convolutional stem, patches of 8 x 8, two blocks of fused attention.

    Each patch attends to its neighbours and has scores of its own, which a soft maximum joins: the surest one decides.
    (With attention to all patches and a class token the network is as right, but what it knows of a digit is then
    spread over patches anywhere, and no map at a layer points at the digit.)
    """

    default_cfg = DIGITS

    def __init__(self, classes: int = 10, width: int = 48, heads: int = 4, depth: int = 2, reach: int = 1) -> None:
        super().__init__()
        self.patches = nn.Sequential(
            _conv(1, width // 4, 2), _conv(width // 4, width // 2, 2), _conv(width // 2, width, 2)
        )
        self.positions = nn.Parameter(0.02 * torch.randn(1, 64, width))
        row, column = torch.arange(64) // 8, torch.arange(64) % 8
        distance = torch.maximum((row[:, None] - row).abs(), (column[:, None] - column).abs())
        self.register_buffer("near", distance <= reach, persistent=False)
        self.blocks = nn.ModuleList(EncoderBlock(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            x = block(x, self.near)
        return self.head(self.norm(x)).logsumexp(1)


class EncoderBlock(nn.Module):
    """Pre-norm attention over the patches that a mask allows, and a feed-forward part."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


def tiny_resnet(classes: int = 10) -> nn.Module:
    """A factory: torchvision's ResNet with one thin block per stage."""
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes, width_per_group=64)


def tagger_inputs() -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Inputs for `Tagger`, for `--inputs-from samples/models.py:tagger_inputs`: three sequences of 7, 4 and 2 words."""
    return (torch.zeros(3, 7, dtype=torch.int64),), {"lengths": torch.tensor([7, 4, 2])}
