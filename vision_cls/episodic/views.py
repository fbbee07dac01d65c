"""Views: the features of an image as the mean over slightly changed copies of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.mixers import RandomAffine, Transform
from ...core.protocols.seeding import generator_at
from ..backbones import Classifier
from ..data import ImageSet


@dataclass(frozen=True)
class Views:
    """Means of the features of images and of ``copies`` of each that a transform made: what a network trained with
    augmentation says of an image varies less then.

    Args:
        copies: besides the image itself; 0 gives plain features.
        transform: makes them; None: `RandomAffine` as it comes.
        batch_size: images at a time.
        seed: of the transform.
    """

    copies: int = 0
    transform: Transform | None = None
    batch_size: int = 128
    seed: int = 0

    def __call__(self, model: Classifier, images: ImageSet) -> Tensor:
        """Features (N, D), float32 on the CPU; batch statistics as they are.

        >>> from memreplay.vision_cls import MLP, digits
        >>> Views(copies=1)(MLP(1, 8, 10), digits("test")).shape
        torch.Size([539, 100])
        """
        device = next(model.parameters()).device
        transform = RandomAffine() if self.transform is None else self.transform
        was_training = model.training
        model.eval()
        parts = []
        with torch.no_grad():
            for number, index in enumerate(torch.arange(len(images)).split(self.batch_size)):
                batch = images.batch(index)
                generator = generator_at(self.seed, "views", number)
                total = model.features(batch["input"].to(device)).float()
                for _ in range(self.copies):
                    total = total + model.features(transform(batch, generator)["input"].to(device)).float()
                parts.append(total.cpu() / (1 + self.copies))
        model.train(was_training)
        return torch.cat(parts) if parts else torch.empty(0, model.head.in_features)
