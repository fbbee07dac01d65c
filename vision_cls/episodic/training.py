"""Training: how a network learns from base classes what serves for novel ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...core.batch import Batch
from ...core.memory import ReplayMemory
from ...core.mixers import Term
from ...core.readout import Readout
from ...core.training import fit
from ..backbones import Classifier
from ..data import ImageSet


class Training(ABC):
    """How a network learns from base classes what serves for novel ones, as a choice that can be written down."""

    @abstractmethod
    def train(self, model: Classifier, base: ImageSet, *, seed: int = 0, **options: Any) -> Readout:
        """Trains the features of ``model``.

        Args:
            model: its head is not used.
            base: images of the base classes.
            seed: of the episodes or batches, and of the augmentation.
            options: for `memreplay.fit`, such as ``out`` and ``resume``.

        Returns:
            How novel classes are told from their shots with these features, as in the paper.
        """


def features(model: Classifier, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The forward of meta-training: features, of images laid out as convolutions on a processor like it."""
    return {"feature": model.features(batch["input"].contiguous(memory_format=torch.channels_last))}


def train_steps(
    network: nn.Module,
    parameters: Iterable[nn.Parameter],
    loader: Iterable[Batch],
    term: Term,
    *,
    steps: int,
    lr: float,
    **options: Any,
) -> None:
    """Adam with a learning rate that falls to 0 along a cosine, on the loss ``term``."""
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(parameters, lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    fit(
        network,
        optimizer,
        loader,
        ReplayMemory(mix=term, replay=0),
        steps=steps,
        scheduler=scheduler,
        **{"remember": (), "forward": features, **options},
    )
