"""ResNet20: the residual network of small images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .classifier import Classifier
from .weights import load_weights


class ResNet20(Classifier):
    """The network of few-shot class-incremental CIFAR-100 tables (He et al., Deep Residual Learning for Image
    Recognition, CVPR 2016; Zhang et al., CEC, CVPR 2021): a 3x3 convolution, three stages of three residual blocks with
    16, 32 and 64 channels, each stage after the first at half the size, then the mean over all places. Where a block
    changes the size, its shortcut is a 1x1 convolution, as in CEC's code; He et al. fill up with zeros.

    Args:
        channels: of the images.
        size: side of the images in pixels; any.
        classes: rows of the head.
        width: channels of the first stage.
        depth: blocks of each stage: 3 for ResNet-20, 5 for ResNet-32.
        weights: a local state dict, see `load_weights`. The names are those of CEC's code.

    >>> ResNet20(3, 32, 60).features(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 64])
    """

    def __init__(
        self,
        channels: int,
        size: int,
        classes: int,
        width: int = 16,
        depth: int = 3,
        weights: str | Path | None = None,
    ) -> None:
        body = _Body(channels, width, depth)
        super().__init__(body, nn.Linear(4 * width, classes))
        for layer in body.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if weights is not None:
            load_weights(body, weights, ignore="fc.")


class _Body(nn.Module):
    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        stages = []
        for number in range(3):
            before, after = width << max(0, number - 1), width << number
            first = _Block(before, after, 2 if number else 1)
            stages.append(nn.Sequential(first, *(_Block(after, after, 1) for _ in range(depth - 1))))
        self.layer1, self.layer2, self.layer3 = stages

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean((2, 3))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
            if stride > 1 or channels != width
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(torch.add(self.bn2(self.conv2(y)), shortcut))
