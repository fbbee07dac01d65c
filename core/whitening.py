"""Whitening: what a memory of class statistics knows of how rows of a class differ, taken out of vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .stores import GaussianStore


@dataclass(frozen=True)
class Whitening:
    """Vectors in which the rows of a class differ alike in every direction, brought to length 1:

        ``S^-1/2 (x - m)``, with ``S`` the covariance within classes, moved by ``shrinkage`` towards the identity of the
        same trace, and ``m`` the mean of the class means

    (within-class covariance normalisation: Hatch, Kajarekar and Stolcke, Interspeech 2006). The statistics are those of
    classes with many examples; classes with few are then told apart by what does differ between classes.

    Args:
        root: ``S^-1/2``, float64 (D, D).
        centre: ``m``, float64 (D,).
    """

    root: Tensor
    centre: Tensor

    @staticmethod
    def of_memory(memory: GaussianStore, shrinkage: float) -> Whitening:
        """From the statistics of a memory with the covariance ``"shared"``.

        Args:
            memory: of at least one class.
            shrinkage: above 0 and at most 1.

        Raises:
            ValueError: a shrinkage out of range.

        >>> memory = GaussianStore(covariance="shared")
        >>> rows = torch.tensor([[2.0, 4.0], [2.0, 6.0], [0.0, 4.0], [0.0, 6.0]])
        >>> _ = memory.add({"feature": rows, "label": torch.zeros(4, dtype=torch.int64)})
        >>> Whitening.of_memory(memory, 1.0)(torch.tensor([[4.0, 9.0]]))
        tensor([[0.6000, 0.8000]])
        """
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage is {shrinkage}; expected a number above 0 and at most 1")
        within = memory.covariance(int(memory.classes[0])).double().cpu()
        identity = torch.eye(len(within), dtype=torch.float64)
        values, vectors = torch.linalg.eigh(torch.lerp(within, identity * within.diag().mean(), shrinkage))
        return Whitening((vectors * values.rsqrt()) @ vectors.T, memory.means.double().cpu().mean(0))

    def __call__(self, feature: Tensor) -> Tensor:
        """Vectors (B, D) of length 1, in the dtype they had."""
        return F.normalize((feature.double() - self.centre) @ self.root, dim=1).to(feature.dtype)
