"""Nearest: the rows most similar to a query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..selection import Pool, Ranker, Selection
from .exact_search import ExactSearch, nearest_to_one
from .similarity import Similarity
from .top import Top
from .vectors import Vectors

Metric = Literal["cosine", "euclidean", "dot", "mahalanobis"]


@dataclass(frozen=True)
class Nearest(Ranker):
    """The rows most similar to a query, found exactly, in at most 64 MB beside the column and the result.

    Higher scores are better: the cosine of the angle (0 for a zero vector), the inner product, or a negated distance.
    As a draw, a row's score is its best over all queries; `search` answers each query on its own.

    Args:
        column: the vectors, in the rows and in the query; rows of any shape are flattened.
        metric: ``"cosine"``, ``"euclidean"``, ``"dot"`` or ``"mahalanobis"``, the distance in units of the spread of
            the rows held, that is after whitening with their covariance.
        shrinkage: how far, from 0 to 1, that covariance is moved towards the multiple of the identity with the same
            trace (Ledoit and Wolf, 2004, with a fixed weight). Needed where there are fewer rows than dimensions.

    >>> pool = {"feature": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])}
    >>> query = {"feature": torch.tensor([[0.0, 2.0]])}
    >>> Nearest("feature").select(pool, 2, query=query, generator=torch.Generator()).tolist()
    [1, 2]
    """

    column: str = "feature"
    metric: Metric = "cosine"
    shrinkage: float = 0.1

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise ValueError(f"metric is {self.metric!r}; expected one of {', '.join(get_args(Metric))}")
        if not 0 <= self.shrinkage <= 1:
            raise ValueError(f"shrinkage is {self.shrinkage}; expected a number from 0 to 1")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        rows = Vectors(pool, self.column)
        queries = self._queries(rows, query)
        if not len(queries):
            raise ValueError(f"query[{self.column!r}] has no rows; expected at least one")
        top = self._of_each(pool, rows, queries, k) if len(queries) == 1 else self._over(pool, rows).of_any(queries, k)
        return Selection(top.index[0].cpu(), top.scores[0])

    def search(self, pool: Mapping[str, Tensor], query: Mapping[str, Tensor], k: int) -> tuple[Tensor, Tensor]:
        """The ``k`` rows nearest to each row of ``query``, best first.

        Returns:
            Scores and int64 positions in the pool, both (Q, min(k, N)) and on the pool's device.

        Raises:
            ValueError: ``k`` is negative, or the query lacks the column, has vectors of another length or a number that
                is not finite.
        """
        if k < 0:
            raise ValueError(f"k is {k}; expected a number of rows of at least 0")
        pool = Pool.of(pool)
        rows = Vectors(pool, self.column)
        queries = self._queries(rows, query)
        top = self._of_each(pool, rows, queries, k)
        return top.scores, top.index

    def _of_each(self, pool: Pool, rows: Vectors, queries: Vectors, k: int) -> Top:
        if len(queries) != 1 or self.metric == "mahalanobis" or not rows.scanned:
            return self._over(pool, rows).of_each(queries, k)
        if self.metric != "cosine":
            return nearest_to_one(rows, queries[:][0], self.metric, k)
        # the first search finds out how long the rows are on its way
        name = "inverse lengths", self.column
        known: Tensor | None = pool.known(name)
        scale = torch.empty(len(rows)) if known is None else known
        top = nearest_to_one(rows, queries[:][0], "cosine", k, scale, known is not None)
        if known is None and not scale.isnan().any():
            pool.derived(name, lambda: scale)
        return top

    def _queries(self, rows: Vectors, query: Mapping[str, Tensor] | None) -> Vectors:
        expected = f"expected {{{self.column!r}: tensor of shape (Q, {rows.dim})}}"
        if query is None:
            raise ValueError(f"query is None but {self!r} needs one; {expected}")
        queries = Vectors(query, self.column, "query")
        if queries.dim != rows.dim:
            raise ValueError(f"query[{self.column!r}] has shape {tuple(query[self.column].shape)}; {expected}")
        for part, block in queries.blocks():
            if not block.isfinite().all():
                row = part.start + int(block.isfinite().all(1).int().argmin())
                raise ValueError(
                    f"query[{self.column!r}] holds a number that is NaN or infinite in row {row}; {expected}"
                )
        return queries

    def _over(self, pool: Pool, rows: Vectors) -> ExactSearch:
        """A search over ``rows``; what depends on the rows alone is remembered with the pool."""
        fitted = pool.derived(("similarity", self.column, self.metric, self.shrinkage), lambda: self._fit(rows))
        return ExactSearch(rows, fitted)

    def _fit(self, rows: Vectors) -> Similarity:
        match self.metric:
            case "cosine":
                return Similarity.cosine(rows)
            case "euclidean":
                return Similarity.euclidean(rows)
            case "mahalanobis":
                return Similarity.mahalanobis(rows, self.shrinkage)
        return Similarity()
