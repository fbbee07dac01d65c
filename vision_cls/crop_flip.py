"""CropFlip: a batch of images, each shifted by some pixels and mirrored by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.batch import Batch


@dataclass(frozen=True)
class CropFlip:
    """Every image is filled up with zeros by ``pad`` pixels on all sides, a window of its old size is cut out at a
    place of its own, and one in two is mirrored: the augmentation of small images since He et al. (2016). A
    `memreplay.core.mixers.Transform`, for whole batches at once.

    Args:
        pad: largest shift in pixels, either way.
        flip: chance of a mirror image.
        column: images (B, C, H, W).

    >>> rows = {"input": torch.arange(4.0).view(1, 1, 2, 2)}
    >>> CropFlip(pad=0, flip=1.0)(rows, torch.Generator())["input"].flatten()
    tensor([1., 0., 3., 2.])
    """

    pad: int = 8
    flip: float = 0.5
    column: str = "input"

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad is {self.pad}; expected a number of pixels of at least 0")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}; expected a number from 0 to 1")

    def __call__(self, rows: Mapping[str, Tensor], generator: torch.Generator) -> Batch:
        images = rows[self.column]
        count, _, height, width = images.shape
        down, right = torch.randint(0, 2 * self.pad + 1, (2, count), generator=generator)
        across = right[:, None] + torch.arange(width)
        mirrored = torch.rand(count, generator=generator) < self.flip
        across = torch.where(mirrored[:, None], across.flip(1), across)
        along = down[:, None] + torch.arange(height)
        padded = F.pad(images, (self.pad,) * 4)
        row = torch.arange(count)[:, None, None]
        cut = padded.permute(0, 2, 3, 1)[row, along[:, :, None], across[:, None, :]]  # (B, H, W, C)
        return {**rows, self.column: cut.permute(0, 3, 1, 2)}
