"""BaselinePlusPlus: a cosine head trained on the shots alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..protocols.seeding import generator_at
from .linear import LinearHead


@dataclass(frozen=True)
class BaselinePlusPlus:
    """The second stage of Baseline++ (Chen et al., A Closer Look at Few-shot Classification, ICLR 2019): on frozen
    features a new classifier ``scale * cos(W_c, x)`` is trained from random weights by stochastic gradient descent, in
    batches of 4, momentum and dampening 0.9. In its first stage the features were trained with such a classifier on the
    base classes. The authors' code also learns a length per class, the paper does not tell of it; neither is done here.

    Args:
        epochs: passes over the shots.
        batch_size: shots per step.
        lr: learning rate.
        weight_decay: likewise.
        scale: of the cosine.
        seed: of the first weights and of the order of the shots.
    """

    epochs: int = 100
    batch_size: int = 4
    lr: float = 0.01
    weight_decay: float = 0.001
    scale: float = 2.0
    seed: int = 0

    def fit(self, rows: Mapping[str, Tensor], classes: int) -> LinearHead:
        """The head for ``feature`` (N, D) and ``label`` int64 (N,).

        >>> rows = {"feature": torch.eye(2), "label": torch.tensor([0, 1])}
        >>> BaselinePlusPlus(lr=1.0).fit(rows, 2)(torch.eye(2)).argmax(1).tolist()
        [0, 1]
        """
        feature, label = F.normalize(rows["feature"].float(), dim=1), rows["label"]
        generator = generator_at(self.seed, "baseline++")
        bound = feature.shape[1] ** -0.5
        weight = torch.empty(classes, feature.shape[1]).uniform_(-bound, bound, generator=generator)
        weight, momentum = weight.to(feature), None
        for _ in range(self.epochs):
            for index in torch.randperm(len(label), generator=generator).split(self.batch_size):
                slope = self._slope(weight, feature[index], label[index])
                momentum = slope if momentum is None else 0.9 * momentum + 0.1 * slope
                weight = weight - self.lr * momentum
        return LinearHead(weight, scale=self.scale)

    def _slope(self, weight: Tensor, feature: Tensor, label: Tensor) -> Tensor:
        """The gradient of the mean cross-entropy and of the decay, written out, which saves most of the time."""
        length: Tensor = weight.norm(dim=1, keepdim=True)
        unit = weight / length
        error = (self.scale * feature @ unit.T).softmax(1)
        error[torch.arange(len(label), device=label.device), label] -= 1
        towards = self.scale / len(label) * error.T @ feature
        across = towards - (towards * unit).sum(1, keepdim=True) * unit
        return across / length + self.weight_decay * weight
