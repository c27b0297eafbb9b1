"""Three networks under the names, and in the order, in which transformers saves them; written anew for these tests.

A file of theirs is what one downloads from the Hub; `--from hugging.py:vit` is the network that it was saved from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def named(**children: nn.Module) -> nn.ModuleDict:
    """Children under these names, in this order."""
    return nn.ModuleDict(children)


class ViT(nn.Module):
    """`vit.encoder.layer.0.attention.attention.query`: the norms of a block stand after its projections."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, side: int, classes: int) -> None:
        super().__init__()
        cells = (side // patch) ** 2
        embeddings = nn.Module()
        embeddings.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        embeddings.position_embeddings = nn.Parameter(torch.zeros(1, cells + 1, width))
        embeddings.patch_embeddings = named(projection=nn.Conv2d(3, width, patch, patch))
        layers = nn.ModuleList(self.block(width) for _ in range(depth))
        norm = nn.LayerNorm(width, eps=1e-6)
        self.vit = named(embeddings=embeddings, encoder=named(layer=layers), layernorm=norm)
        self.classifier = nn.Linear(width, classes)
        self.heads = heads

    @staticmethod
    def block(width: int) -> nn.ModuleDict:
        attention = named(query=nn.Linear(width, width), key=nn.Linear(width, width), value=nn.Linear(width, width))
        return named(
            attention=named(attention=attention, output=named(dense=nn.Linear(width, width))),
            intermediate=named(dense=nn.Linear(width, 4 * width)),
            output=named(dense=nn.Linear(4 * width, width)),
            layernorm_before=nn.LayerNorm(width, eps=1e-6),
            layernorm_after=nn.LayerNorm(width, eps=1e-6),
        )

    def forward(self, x: Tensor) -> Tensor:
        start = self.vit["embeddings"]
        x = start.patch_embeddings["projection"](x).flatten(2).transpose(1, 2)
        x = torch.cat([start.cls_token.expand(len(x), -1, -1), x], 1) + start.position_embeddings
        for block in self.vit["encoder"]["layer"]:
            x = x + self.attend(block["attention"], block["layernorm_before"](x))
            inner = F.gelu(block["intermediate"]["dense"](block["layernorm_after"](x)))
            x = x + block["output"]["dense"](inner)
        return self.classifier(self.vit["layernorm"](x)[:, 0])

    def attend(self, attention: nn.ModuleDict, x: Tensor) -> Tensor:
        three = attention["attention"]
        q, k, v = (three[name](x).unflatten(2, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
        return attention["output"]["dense"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ResNet(nn.Module):
    """`resnet.encoder.stages.0.layers.0.shortcut.convolution`: a shortcut stands before what it passes by."""

    def __init__(self, depths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        start = named(embedder=self.layer(3, 64, 7, 2))
        stages, width = nn.ModuleList(), 64
        for index, depth in enumerate(depths):
            layers = nn.ModuleList()
            for place in range(depth):
                inner, stride = 64 << index, 2 if index and not place else 1
                layers.append(self.bottleneck(width, inner, stride))
                width = 4 * inner
            stages.append(named(layers=layers))
        self.resnet = named(embedder=start, encoder=named(stages=stages))
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(width, classes))

    @staticmethod
    def layer(ins: int, outs: int, kernel: int, stride: int = 1) -> nn.ModuleDict:
        convolution = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, bias=False)
        return named(convolution=convolution, normalization=nn.BatchNorm2d(outs))

    def bottleneck(self, ins: int, inner: int, stride: int) -> nn.ModuleDict:
        block = named()
        if stride > 1 or ins != 4 * inner:
            block["shortcut"] = self.layer(ins, 4 * inner, 1, stride)
        layers = [self.layer(ins, inner, 1), self.layer(inner, inner, 3, stride), self.layer(inner, 4 * inner, 1)]
        block["layer"] = nn.Sequential(*layers)
        return block

    def forward(self, x: Tensor) -> Tensor:
        run = lambda layer, x: layer["normalization"](layer["convolution"](x))  # noqa: E731
        x = F.max_pool2d(run(self.resnet["embedder"]["embedder"], x).relu(), 3, 2, 1)
        for stage in self.resnet["encoder"]["stages"]:
            for block in stage["layers"]:
                first, second, third = block["layer"]
                y = run(third, run(second, run(first, x).relu()).relu())
                x = (y + (run(block["shortcut"], x) if "shortcut" in block else x)).relu()
        return self.classifier(x.mean((2, 3)))


class ConvNext(nn.Module):
    """`convnext.encoder.stages.0.layers.0.pwconv1`: linear layers where timm may have 1x1 convolutions."""

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        start = named(patch_embeddings=nn.Conv2d(3, widths[0], 4, 4), layernorm=nn.LayerNorm(widths[0], eps=1e-6))
        stages = nn.ModuleList()
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            stage = named()
            if index:
                before = nn.LayerNorm(widths[index - 1], eps=1e-6)
                stage["downsampling_layer"] = nn.Sequential(before, nn.Conv2d(widths[index - 1], width, 2, 2))
            stage["layers"] = nn.ModuleList(self.block(width) for _ in range(depth))
            stages.append(stage)
        norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.convnext = named(embeddings=start, encoder=named(stages=stages), layernorm=norm)
        self.classifier = nn.Linear(widths[-1], classes)

    @staticmethod
    def block(width: int) -> nn.Module:
        block = nn.Module()
        block.layer_scale_parameter = nn.Parameter(torch.ones(width))
        block.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        block.layernorm = nn.LayerNorm(width, eps=1e-6)
        block.pwconv1, block.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        return block

    def forward(self, x: Tensor) -> Tensor:
        across = lambda norm, x: norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # noqa: E731
        start = self.convnext["embeddings"]
        x = across(start["layernorm"], start["patch_embeddings"](x))
        for stage in self.convnext["encoder"]["stages"]:
            if "downsampling_layer" in stage:
                norm, convolution = stage["downsampling_layer"]
                x = convolution(across(norm, x))
            for block in stage["layers"]:
                y = block.layernorm(block.dwconv(x).permute(0, 2, 3, 1))
                y = block.pwconv2(F.gelu(block.pwconv1(y))) * block.layer_scale_parameter
                x = x + y.permute(0, 3, 1, 2)
        return self.classifier(self.convnext["layernorm"](x.mean((2, 3))))


def vit(classes: int = 1000) -> nn.Module:
    """timm's vit_tiny_patch16_224."""
    return ViT(192, 12, 3, 16, 224, classes)


def resnet50(classes: int = 1000) -> nn.Module:
    """torchvision's and timm's resnet50."""
    return ResNet((3, 4, 6, 3), classes)


def convnext_atto(classes: int = 1000) -> nn.Module:
    """timm's convnext_atto."""
    return ConvNext((2, 2, 6, 2), (40, 80, 160, 320), classes)
