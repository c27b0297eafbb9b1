"""Networks that the samples do not have."""

import torch
from torch import nn

from tests.samples import models


class ClassTokenViT(nn.Module):
    """Patches of a 64 x 64 canvas and a class token, which alone is read; three blocks of fused attention."""

    def __init__(self, classes=10, width=48, heads=4, depth=3):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 8, 8)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 65, width))
        self.blocks = nn.Sequential(*(models.EncoderBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])
