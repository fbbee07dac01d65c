"""Augment: images changed by chance, the same way whenever an epoch is gone through again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.loading import Table
from ..core.protocols.seeding import generator_at


class Augment(nn.Module):
    """Random crops, mirror images and changes of colour, by torchvision: what most photographs can take.

    Args:
        crop: least share of the area that is left of an image; 1: no crops.
        flip: chance of a mirror image; 0 where left and right matter, as in writing.
        colour: strength of the changes of brightness, contrast and saturation; 0: none. Grey images have no saturation.

    >>> Augment()(torch.zeros(3, 8, 8, dtype=torch.uint8)).shape
    torch.Size([3, 8, 8])
    """

    def __init__(self, crop: float = 0.5, flip: float = 0.5, colour: float = 0.2) -> None:
        super().__init__()
        for name, value in (("crop", crop), ("flip", flip), ("colour", colour)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; expected a number from 0 to 1")
        if crop == 0:
            raise ValueError("crop is 0; expected a share of the area above 0")
        self.crop = crop
        self.flip = flip
        self.colour = colour

    def forward(self, image: Tensor) -> Tensor:
        """An image (C, H, W) of the same size and dtype; the global generator decides."""
        from torchvision.transforms import v2

        if self.crop < 1:
            side = (image.shape[-2], image.shape[-1])
            image = v2.RandomResizedCrop(side, scale=(self.crop, 1.0), antialias=True)(image)
        if self.flip:
            image = v2.RandomHorizontalFlip(self.flip)(image)
        if self.colour:
            saturation = self.colour if image.shape[0] == 3 else 0.0
            image = v2.ColorJitter(self.colour, self.colour, saturation)(image)
        return image


class Augmented(Table):
    """Rows whose ``input`` is changed by chance. What comes out depends on ``seed``, the epoch and the row alone, so
    that a run that was stopped goes on with the same images, and several processes see those of one.

    Args:
        rows: with ``input``, images (N, C, H, W).
        change: from an image (C, H, W) to one of the same shape, such as `Augment` or a transform of torchvision. It
            may draw from the global generator of torch, which is as it was afterwards.
        seed: of the changes.
    """

    def __init__(self, rows: Mapping[str, Tensor], change: nn.Module, seed: int = 0) -> None:
        super().__init__(rows)
        self.change = change
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next rows are those of ``epoch``."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, index: Sequence[int]) -> Batch:
        batch = super().__getitems__(index)
        images = []
        with torch.random.fork_rng(devices=[]):
            for row, image in zip(index, batch["input"], strict=True):
                torch.manual_seed(generator_at(self.seed, "augment", self.epoch, int(row)).initial_seed())
                images.append(self.change(image))
        return {**batch, "input": torch.stack(images)}
