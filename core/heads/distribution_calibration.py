"""DistributionCalibration: a head for few shots, trained on what their classes may look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..protocols.seeding import generator_at
from ..stores import GaussianStore
from .linear import LinearHead
from .logistic import LogisticRegression


@dataclass(frozen=True)
class DistributionCalibration:
    """Distribution calibration (Yang, Liu and Xu, Free Lunch for Few-shot Learning, ICLR 2021): for every shot the
    statistics of the base classes nearest to it are recalled, features are drawn from the Gaussian that they and the
    shot make (see `GaussianStore.calibrate`), and a head is trained on the shots and on what was drawn.

    In the paper shots and queries are transformed by `tukey` and the statistics are those of features as they are;
    here all are whatever the caller gives, so statistics of transformed features are possible too.

    Args:
        memory: statistics of the base classes, covariance ``"full"``.
        k: base classes to recall for a shot.
        alpha: spread added to every entry of the covariance.
        draws: features drawn per class, shared out among its shots.
        how: fits the head.
        seed: of the draws.
    """

    memory: GaussianStore
    k: int = 2
    alpha: float = 0.21
    draws: int = 100
    how: LogisticRegression = LogisticRegression(1.0, tolerance=1e-5)  # noqa: RUF009 (immutable)
    seed: int = 0

    def fit(self, rows: Mapping[str, Tensor], classes: int) -> LinearHead:
        """The head for ``feature`` (N, D) and ``label`` int64 (N,)."""
        feature, label = rows["feature"], rows["label"]
        drawn = [
            self.memory.calibrate(feature[label == number], k=self.k, alpha=self.alpha).draw(
                self.draws, generator_at(self.seed, "calibration", number)
            )
            for number in range(classes)
        ]
        numbers = torch.arange(classes).repeat_interleave(self.draws)
        return self.how.fit({"feature": torch.cat([feature, *drawn]), "label": torch.cat([label, numbers])}, classes)
