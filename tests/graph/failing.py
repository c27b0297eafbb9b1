"""Models that fail in a dozen ways, each with something that ran before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        return self.stem(x).relu()


class WrongChannels(_Stem):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(16, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.features(x))


class WrongFeatures(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


class WrongView(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).view(3, -1, 7)


class WrongAdd(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) + x


class WrongCat(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.features(x), x[:, :, 1:]], 1)


class WrongDtype(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.features(x).mean((2, 3)), self.head.weight.double())


class WrongMatmul(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) @ x


class MissingKey(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return {"features": self.features(x)}["logits"]


class MissingAttribute(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.neck(x)


class NotFinite(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x) * float("nan")
        assert not torch.isnan(x).any(), "NaN in the features"
        return x


class OutOfRange(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return [self.features(x)][1]


class Raises(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError(f"<b>{tuple(self.features(x).shape)}</b>")


class DivisionByZero(_Stem):
    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) * (1 / (x.shape[0] - 1))
