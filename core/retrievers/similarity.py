"""Similarity: a metric written as an inner product, so that comparing many rows is a matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .vectors import BLOCK_BYTES, Vectors, inverse


@dataclass(frozen=True)
class Similarity:
    """How near rows are to queries: ``scale(row) * (row · direction(query) + bias(row)) + bias(query)``.

    Of a distance this is half the square, negated, and measured from the mean of the rows, where less is lost to
    cancellation than from the origin.

    Attributes:
        scale: (N,) or None.
        bias: (N,) or None.
        centre: (D,) the point distances are measured from; None for a metric that is not a distance.
        root: (D, D), ``root @ root.T`` is the inverse covariance of a Mahalanobis distance; or None.
        unit: whether queries are scaled to length 1.
    """

    scale: Tensor | None = None
    bias: Tensor | None = None
    centre: Tensor | None = None
    root: Tensor | None = None
    unit: bool = False

    @staticmethod
    def cosine(rows: Vectors) -> Similarity:
        """The cosine of the angle; 0 if one of the vectors is 0."""
        return Similarity(scale=inverse(rows.norms()), unit=True)

    @staticmethod
    def distance(rows: Vectors, centre: Tensor, root: Tensor | None = None) -> Similarity:
        """The euclidean distance, after ``root`` has been applied if given."""
        return Similarity(bias=rows.squared_distances(centre, root) / -2, centre=centre, root=root)

    @staticmethod
    def euclidean(rows: Vectors) -> Similarity:
        """The euclidean distance."""
        # any point amid the rows will do: the mean of some of them spares a pass over all
        step = max(1, -(-len(rows) // rows.rows_in(BLOCK_BYTES)))
        return Similarity.distance(rows, rows[torch.arange(0, len(rows), step, device=rows.device)].mean(0))

    @staticmethod
    def mahalanobis(rows: Vectors, shrinkage: float) -> Similarity:
        """The euclidean distance after whitening with the rows' covariance, shrunk towards the scaled identity."""
        centre = rows.mean().to(rows.dtype)
        return Similarity.distance(rows, centre, _whitening(rows, centre, shrinkage))

    def directions(self, queries: Tensor) -> tuple[Tensor, Tensor | None]:
        """What rows are multiplied with, (Q, D), and what is added for each query, (Q,) or None."""
        if self.unit:
            return queries * inverse(torch.linalg.vector_norm(queries, dim=1, keepdim=True)), None
        if self.centre is None:
            return queries, None
        offset = direction = queries - self.centre
        if self.root is not None:
            offset = offset @ self.root
            direction = offset @ self.root.t()
        return direction, offset.square().sum(1) / -2 - direction @ self.centre

    def distances(self, rows: Tensor, queries: Tensor) -> Tensor:
        """Between ``rows[i]`` and ``queries[i]``, both (n, D), without cancellation: (n,)."""
        offset = rows - queries
        lengths: Tensor = torch.linalg.vector_norm(offset if self.root is None else offset @ self.root, dim=1)
        return lengths


def _whitening(rows: Vectors, centre: Tensor, shrinkage: float) -> Tensor:
    """(D, D) whose product with its own transpose is the inverse of the shrunk covariance."""
    covariance = torch.zeros(rows.dim, rows.dim, dtype=torch.float64, device=rows.device)
    for _, block in rows.blocks():
        offset = block - centre
        covariance += offset.t() @ offset
    covariance /= max(1, len(rows))
    variance = covariance.diagonal().mean()
    covariance *= 1 - shrinkage
    covariance.diagonal().add_(torch.where(variance > 0, shrinkage * variance, 1))
    try:
        factor = torch.linalg.cholesky(covariance)
    except RuntimeError:
        raise ValueError(
            f"shrinkage is {shrinkage} but the covariance of {len(rows)} rows of {rows.dim} numbers is singular; "
            "expected a larger shrinkage"
        ) from None
    identity = torch.eye(rows.dim, dtype=factor.dtype, device=factor.device)
    inverse_factor: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse_factor.t().to(centre.dtype)
