"""ResNet12: the residual network of few-shot learning."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from .classifier import Classifier
from .weights import load_weights


class ResNet12(Classifier):
    """Four residual blocks of three 3x3 convolutions, each halved by max pooling, then the mean over all places
    (Oreshkin et al., TADAM, NeurIPS 2018; in this form Lee et al., Meta-Learning with Differentiable Convex
    Optimization, CVPR 2019): leaky ReLU of slope 0.1 and DropBlock, in the last two blocks with squares of 5. Lee et
    al. let the share of what is dropped grow over the first 40,000 steps; here it is the same from the start.

    Args:
        channels: of the images.
        size: side of the images in pixels; any.
        classes: rows of the head.
        widths: channels of the blocks.
        drop: share of the places that are dropped in training; 0: none.
        weights: a local state dict, see `load_weights`. The names are those of Lee et al.'s code.

    >>> import torch
    >>> ResNet12(3, 84, 5).features(torch.zeros(2, 3, 84, 84)).shape
    torch.Size([2, 640])
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        widths: Sequence[int] = (64, 160, 320, 640),
        drop: float = 0.1,
        weights: str | Path | None = None,
    ) -> None:
        body = _Body(channels, size, widths, drop)
        super().__init__(body, nn.Linear(widths[-1], classes))
        for layer in self.body.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")
        if weights is not None:
            load_weights(body, weights, ignore=("fc.", "classifier."))


class _Body(nn.Module):
    def __init__(self, channels: int, size: int, widths: Sequence[int], drop: float) -> None:
        super().__init__()
        self.layers = len(widths)
        for i, (before, after) in enumerate(pairwise((channels, *widths))):
            square = 5 if i >= self.layers - 2 else 1
            self.add_module(f"layer{i + 1}", nn.Sequential(_Block(before, after, drop, square, halve=size >> i > 1)))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.layers):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return x.mean((2, 3))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, drop: float, square: int, halve: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.downsample = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.drop, self.square, self.halve = drop, square, halve

    def forward(self, x: Tensor) -> Tensor:
        from torchvision.ops import drop_block2d

        y = functional.leaky_relu(self.bn1(self.conv1(x)), 0.1)
        y = functional.leaky_relu(self.bn2(self.conv2(y)), 0.1)
        y = functional.leaky_relu(self.bn3(self.conv3(y)) + self.downsample(x), 0.1)
        y = functional.max_pool2d(y, 2) if self.halve else y
        if not self.training or not self.drop:
            return y
        square = min(self.square, y.shape[-1], y.shape[-2])
        square -= 1 - square % 2  # torchvision takes odd squares only
        dropped: Tensor = drop_block2d(y, self.drop, square) if square > 1 else functional.dropout(y, self.drop)
        return dropped
