"""Probabilistic: how the first classes differ is the prior for the mean of a class of few shots."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..stores import GaussianStore


@dataclass
class Probabilistic:
    """Probabilistic linear discriminant analysis (Ioffe, ECCV 2006; Prince and Elder, ICCV 2007) from the statistics of
    a memory: rows of a class are ``N(mean_c, W)``, the means of classes ``N(m, B)``. With W, B and m learned from the
    first session, in the basis where ``W = I`` and ``B = diag(b)``, n rows of the mean ``x_c`` leave about a class

        ``mean_c ~ N(n b / (1 + n b) (x_c - m), b / (1 + n b))``

    and a vector is given the class under whose predictive density, of the variance ``1 + b / (1 + n b)``, it is
    likeliest. So the mean of few shots moves towards what classes have in common where they differ little, and an
    uncertain class has a wider density. No row is stored, nothing is trained. Vectors are brought to length 1 first.

    Args:
        shrinkage: of W towards the identity of the same trace, above 0 and at most 1.
        spread: of b towards its mean, from 0 to 1: a few classes do not show in how many directions classes may differ.

        offset: added to the logarithms of the densities of classes that came after the first session. In many
            dimensions the model is surer than it should be; the offset trades accuracy on these classes for that on the
            first ones.

    Raises:
        ValueError: a number out of range.
    """

    shrinkage: float = 0.3
    spread: float = 0.5
    offset: float = 0.0
    head: PredictiveHead | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not 0 < self.shrinkage <= 1:
            raise ValueError(f"shrinkage is {self.shrinkage}; expected a number above 0 and at most 1")
        if not 0 <= self.spread <= 1:
            raise ValueError(f"spread is {self.spread}; expected a number from 0 to 1")
        self.memory = GaussianStore(covariance="shared")
        self.first = 0

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`; what is known of the classes beforehand is not used."""
        self.memory.add({"feature": F.normalize(rows["feature"], dim=1), "label": rows["label"]})
        if self.head is None:
            self._learn_prior()
            self.first = classes
        order = self.memory.classes.argsort()
        means = (self.memory.means[order] - self.centre) @ self.basis
        n = self.memory.counts[order].double()[:, None]
        left = self.between / (1 + n * self.between)
        prior = self.offset * (torch.arange(len(means)) >= self.first).double()
        self.head = PredictiveHead(self.basis.float(), self.centre.float(), n * left * means, 1 + left, prior)

    def _learn_prior(self) -> None:
        within = self.memory.covariance(int(self.memory.classes[0]))
        identity = torch.eye(len(within), dtype=torch.float64)
        root = torch.linalg.cholesky(torch.lerp(within, identity * within.diag().mean(), self.shrinkage))
        white = torch.linalg.solve_triangular(root, identity, upper=False).T
        self.centre = self.memory.means.mean(0)
        apart = (self.memory.means - self.centre) @ white
        values, vectors = torch.linalg.eigh(apart.T @ apart / max(1, len(apart) - 1))
        values = values.clamp(min=0)
        self.between = torch.lerp(values, values.mean().expand_as(values), self.spread)
        self.basis = white @ vectors

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics."""
        return self.memory.nbytes


@dataclass(frozen=True)
class PredictiveHead:
    """Logarithms, but for a constant, of Gaussian densities with diagonal covariances.

    Args:
        basis: (D, D), float32, as most of the time goes here: ``z = (x / |x| - centre) basis``.
        centre: (D,), float32.
        means: of the densities over z, (C, D).
        variances: (C, D).
        prior: logarithm of the odds of every class, (C,).
    """

    basis: Tensor
    centre: Tensor
    means: Tensor
    variances: Tensor
    prior: Tensor

    def __call__(self, feature: Tensor) -> Tensor:
        z = ((F.normalize(feature.float(), dim=1) - self.centre) @ self.basis).double()
        precise = 1 / self.variances
        squares = z.square() @ precise.T - 2 * z @ (precise * self.means).T + (precise * self.means.square()).sum(1)
        return (self.prior - 0.5 * (squares + self.variances.log().sum(1))).float()
