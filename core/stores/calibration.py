"""Calibration: what a novel class may look like, given few shots of it and the classes it resembles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .scatter import normal, square_root


@dataclass(frozen=True, eq=False)
class Calibrated:
    """One Gaussian per shot of a novel class, see `GaussianStore.calibrate`.

    Attributes:
        mean: float64 (S, D).
        covariance: float64 (S, D, D).
        dtype: of the features drawn.
    """

    mean: Tensor
    covariance: Tensor
    dtype: torch.dtype

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` pseudo-features (n, D), the shots taking turns; the numbers come from a CPU generator."""
        shot = torch.arange(n) % len(self.mean)
        features = normal((n, self.mean.shape[1]), self.mean.device, generator)
        for i, covariance in enumerate(self.covariance[:n]):
            features[shot == i] = self.mean[i] + features[shot == i] @ square_root(covariance).T
        return features.to(self.dtype)


def tukey(feature: Tensor, power: float = 0.5) -> Tensor:
    """Tukey's ladder of powers, which makes skewed features more Gaussian: ``x ** power``, or ``log(x)`` for power 0.

    Raises:
        ValueError: a negative feature, or a zero with power at most 0.

    >>> tukey(torch.tensor([0.0, 4.0]))
    tensor([0., 2.])
    """
    least = float(feature.min()) if feature.numel() else 1.0
    if least < 0 or (least == 0 and power <= 0):
        raise ValueError(f"feature has {least:g}; expected {'positive' if power <= 0 else 'non-negative'} numbers")
    return feature.log() if power == 0 else feature.pow(power)
