"""CosineTraining: features of a cosine classifier of all base classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...core.batch import Batch
from ...core.heads import BaselinePlusPlus, Fitted, LinearHead
from ...core.loading import EpochSampler
from ...core.mixers import CrossEntropy, Transform
from ...core.protocols.seeding import generator_at
from ...core.readout import Readout
from ..backbones import Classifier
from ..data import ImageSet
from .training import Training, features, train_steps


@dataclass(frozen=True)
class CosineTraining(Training):
    """The first stage of Baseline++ (Chen et al., A Closer Look at Few-shot Classification, ICLR 2019; Gidaris and
    Komodakis, Dynamic Few-Shot Visual Learning without Forgetting, CVPR 2018): cross-entropy over all base classes at
    once, of logits ``scale * cos(W_c, f(x))``. The scale is learned.

    Args:
        steps: optimizer steps.
        batch_size: images per step.
        scale: of the cosine at the start.
        lr: learning rate of Adam at the start.
        augment: changes the images of a batch.
    """

    steps: int = 2000
    batch_size: int = 120
    scale: float = 15.0
    lr: float = 0.001
    augment: Transform | None = None

    def train(self, model: Classifier, base: ImageSet, *, seed: int = 0, **options: Any) -> Readout:
        """See `Training`; novel classes get a cosine head that is trained on their shots."""
        start = torch.randn(len(base.classes), model.head.in_features, generator=generator_at(seed, "cosine"))
        network = _Cosine(model.body, LinearHead(start / model.head.in_features**0.5, scale=self.scale))
        train_steps(
            network,
            network.parameters(),
            _Batches(base, self.batch_size, self.augment, seed),
            CrossEntropy(),
            steps=self.steps,
            lr=self.lr,
            **{"forward": _Cosine.outputs, **options},
        )
        return Fitted(BaselinePlusPlus())


class _Cosine(Classifier):
    """A body under a cosine head."""

    def __init__(self, body: nn.Module, head: LinearHead) -> None:
        nn.Module.__init__(self)
        self.body = body
        self.cosine = head

    def outputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits of a batch of images."""
        return {"logits": self.cosine(features(self, batch)["feature"])}


class _Batches:
    """Augmented batches of images in an order of every epoch's own; the rest of an epoch is left out."""

    def __init__(self, images: ImageSet, size: int, augment: Transform | None, seed: int) -> None:
        self.images, self.size, self.augment, self.seed = images, min(size, len(images)), augment, seed
        self.sampler = EpochSampler(len(images), seed)

    def __len__(self) -> int:
        return len(self.images) // self.size

    def __iter__(self) -> Iterator[Batch]:
        order = torch.tensor(list(self.sampler))[: len(self) * self.size]
        for number, index in enumerate(order.split(self.size)):
            batch = self.images.batch(index)
            if self.augment is not None:
                batch = self.augment(batch, generator_at(self.seed, "augment", self.sampler.epoch, number))
            yield batch
