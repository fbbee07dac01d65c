"""Digits: the handwritten digits that come with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .image_set import ImageSet, Split, checked, stratified_split
from .source import Data


def digits(split: Split = "train") -> ImageSet:
    """The 1,797 handwritten digits that come with scikit-learn: 8x8, one channel, float32 in [0, 1].

    A fixed 70 : 30 split, the same shares of every class.

    >>> digits("train").images.shape, digits("test").images.shape
    (torch.Size([1258, 1, 8, 8]), torch.Size([539, 1, 8, 8]))
    """
    from sklearn.datasets import load_digits

    source = load_digits()
    labels = torch.from_numpy(source.target).long()
    index = stratified_split(labels, test_fraction=0.3, generator=torch.Generator().manual_seed(0))[checked(split)]
    images = torch.from_numpy(source.images).float().div(16).unsqueeze(1)
    return ImageSet(images[index], labels[index], tuple(str(digit) for digit in range(10)), split)


@dataclass(frozen=True)
class Digits(Data):
    """See `digits`."""

    def load(self, split: Split) -> ImageSet:
        return digits(split)
