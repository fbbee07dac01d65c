"""Centring: vectors seen from the middle of those known before, all of one length."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Centring:
    """``(x - m) / |x - m|``, with ``m`` the mean of the base classes' vectors: CL2N, which with the nearest class mean
    is SimpleShot (Wang et al., SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning, 2019).

    Args:
        centre: ``m``, (D,).

    >>> import torch
    >>> Centring(torch.tensor([1.0, 1.0]))(torch.tensor([[4.0, 5.0]]))
    tensor([[0.6000, 0.8000]])
    """

    centre: Tensor

    @staticmethod
    def of(feature: Tensor) -> Centring:
        """About the mean of base vectors (N, D)."""
        if not len(feature):
            raise ValueError("feature is empty; expected vectors of base classes to centre by")
        return Centring(feature.mean(0))

    def __call__(self, feature: Tensor) -> Tensor:
        """Vectors (B, D) of length 1."""
        return F.normalize(feature - self.centre.to(feature), dim=1)
