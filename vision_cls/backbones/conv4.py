"""Conv4: the small convolutional network of few-shot learning."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .classifier import Classifier


class Conv4(Classifier):
    """Four blocks of 3x3 convolution, batch normalisation, ReLU and 2x2 max pooling: the small network of few-shot
    learning (Vinyals et al., "Matching Networks for One Shot Learning", 2016; Snell et al., "Prototypical Networks
    for Few-shot Learning", 2017). Images too small to be halved four times are halved as often as they can be.

    Args:
        channels: of the images.
        size: side of the images in pixels.
        classes: rows of the head.
        width: channels of every block.

    >>> Conv4(3, 84, 5).head.in_features, Conv4(1, 8, 10).head.in_features
    (1600, 64)
    """

    def __init__(self, channels: int, size: int, classes: int, width: int = 64) -> None:
        blocks = nn.Sequential(*(_Block(channels if i == 0 else width, width) for i in range(4)))
        side = size
        for _ in range(4):
            side = max(1, side // 2)
        super().__init__(blocks, nn.Linear(width * side * side, classes))


class _Block(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.convolution(x))
        if x.shape[-1] > 1:  # ReLU of a maximum is the maximum of ReLUs, and a quarter of the work
            x = functional.max_pool2d(x, 2)
        return functional.relu(x)
