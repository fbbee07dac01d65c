"""LinearDiscriminant: the linear head of Gaussians that share a covariance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..stores import GaussianStore
from .linear import LinearHead


@dataclass(frozen=True)
class LinearDiscriminant:
    """Fisher's linear discriminant from the statistics of a memory, in closed form (Hayes and Kanan, Lifelong Machine
    Learning with Deep Streaming Linear Discriminant Analysis, CLVision 2020):

        ``logit_c = mean_c^T S^-1 x - mean_c^T S^-1 mean_c / 2``,  ``S`` the covariance within classes, moved by
        ``shrinkage`` towards the identity of the same trace.

    Nothing is trained, and the order in which classes arrive does not matter.

    Args:
        shrinkage: above 0 and at most 1.
    """

    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.shrinkage <= 1:
            raise ValueError(f"shrinkage is {self.shrinkage}; expected a number above 0 and at most 1")

    def fit(self, memory: GaussianStore) -> LinearHead:
        """The head over ``memory.classes``, in that order; the memory has the covariance ``"shared"``."""
        means = memory.means
        within = memory.covariance(int(memory.classes[0]))
        return self.of_statistics(means, within)

    def of_statistics(self, means: Tensor, within: Tensor) -> LinearHead:
        """The head of class means (C, D) and a covariance (D, D).

        >>> head = LinearDiscriminant(1.0).of_statistics(torch.eye(2), torch.eye(2))
        >>> head(torch.tensor([[1.0, 0.0]])).tolist()
        [[0.5, -0.5]]
        """
        means, within = means.double().cpu(), within.double().cpu()
        spread = torch.lerp(within, torch.eye(len(within)).double() * within.diag().mean(), self.shrinkage)
        weight = torch.linalg.solve(spread, means.T).T
        return LinearHead(weight.float(), (-0.5 * (weight * means).sum(1)).float())
