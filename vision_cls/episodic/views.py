"""Views: the features of an image as the mean over slightly changed copies of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...core.mixers import RandomAffine, Transform
from ...core.protocols.seeding import generator_at
from ..backbones import Classifier
from ..data import ImageSet
from ..features import features_of


@dataclass(frozen=True)
class Views:
    """Means of the features of images and of ``copies`` of each that a transform made: what a network trained with
    augmentation says of an image varies less then.

    Args:
        copies: besides the image itself; 0 gives plain features.
        transform: makes them; None: `RandomAffine` as it comes.
        size: side in pixels that the network sees; None: that of the images.
        seed: of the transform.
    """

    copies: int = 0
    transform: Transform | None = None
    size: int | None = None
    seed: int = 0

    def __call__(self, model: Classifier, images: ImageSet, cache: str | Path | None = None) -> Tensor:
        """Features (N, D), as `features_of` makes them.

        >>> from memreplay.vision_cls import MLP, digits
        >>> Views(copies=1)(MLP(1, 8, 10), digits("test")).shape
        torch.Size([539, 100])
        """
        transform = RandomAffine() if self.transform is None else self.transform
        total = features_of(model, images, size=self.size, cache=cache)
        for copy in range(self.copies):
            changed = transform({"input": images.images}, generator_at(self.seed, "views", copy))["input"]
            total = total + features_of(model, changed, size=self.size, cache=cache)
        return total / (1 + self.copies)
