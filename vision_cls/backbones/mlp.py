"""MLP: the perceptron of the class-incremental MNIST tables."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from .classifier import Classifier


class MLP(Classifier):
    """Fully connected layers with ReLU, all weights Xavier-uniform and all biases zero: the network of the
    class-incremental MNIST tables (Buzzega et al., "Dark Experience for General Continual Learning", 2020).

    Args:
        channels: of the images.
        size: side of the images in pixels.
        classes: rows of the head.
        hidden: widths of the hidden layers.

    >>> import torch
    >>> MLP(1, 28, 10).features(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 100])
    """

    def __init__(self, channels: int, size: int, classes: int, hidden: Sequence[int] = (100, 100)) -> None:
        input_size = channels * size * size
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise((input_size, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(nn.Sequential(*layers), nn.Linear((input_size, *hidden)[-1], classes))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
