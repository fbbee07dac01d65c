"""KNN-Shapley: what every row of a memory is worth to its nearest-neighbour vote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..readout import read_rows, similarity

_CHUNK = 1 << 22
"""Values held at a time."""


@dataclass(frozen=True)
class KNNShapley:
    """Shapley values of rows for the vote of the ``k`` nearest, in closed form (Jia et al., Efficient Task-Specific
    Data Valuation for Nearest Neighbor Algorithms, VLDB 2019, Theorem 1).

    The worth of a set S of rows for a query of class y is the part of k votes that y gets from it,

        ``v(S) = 1/k * (number of the min(k, |S|) rows of S nearest to the query that are of class y)``,

    with ``v({}) = 0``. Let the rows be sorted, the nearest first, and ``m_i`` be 1 where the i-th is of class y. Then

        ``s_N = m_N / max(k, N)``,    ``s_i = s_(i+1) + (m_i - m_(i+1)) / k * min(k, i) / i``.

    The paper gives ``m_N / N``, which holds for N >= k only: with fewer rows all of them vote, and ``s_i = m_i / k``.
    Values add up to ``v`` of all rows, ``mean`` over queries keeps this. Of rows at the same distance the earlier is
    the nearer one. ``v`` counts votes out of k also where S has fewer rows; the variant that divides by ``min(k, |S|)``
    (Wang and Jia 2023) has other values. One query costs a sort, O(N log N).

    Args:
        k: rows that vote.
        metric: ``"cosine"``, ``"euclidean"`` or ``"dot"``.
        feature: column of the rows with the features.
        label: column with the classes.

    >>> rows = {"feature": torch.tensor([[0.0], [1.0], [5.0]]), "label": torch.tensor([4, 2, 4])}
    >>> KNNShapley(1, "euclidean").of_each(rows, torch.tensor([[0.2]]), torch.tensor([4]))
    tensor([[ 0.8333, -0.1667,  0.3333]], dtype=torch.float64)
    """

    k: int = 10
    metric: Literal["cosine", "euclidean", "dot"] = "cosine"
    feature: str = "feature"
    label: str = "label"

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; expected at least 1 row")
        if self.metric not in ("cosine", "euclidean", "dot"):
            raise ValueError(f"metric is {self.metric!r}; expected 'cosine', 'euclidean' or 'dot'")

    def of_each(
        self, rows: Mapping[str, Tensor], feature: Tensor, label: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """The value of every row for every query, float64 (Q, N).

        Args:
            rows: the columns ``feature`` (N, D) and ``label`` (N,), such as ``store.rows()``.
            feature: of the queries, (Q, D).
            label: their classes, (Q,).
            index: int64 (Q, m), positions of the rows of which alone to return the values, as (Q, m).

        Raises:
            ValueError: a column is missing, there are no rows, or the queries do not fit them.
        """
        found, done = [], 0
        for part in self._parts(rows, feature, label):
            wanted = None if index is None else index[done : done + len(part)]
            found.append(part if wanted is None else part.gather(1, wanted))
            done += len(part)
        return torch.cat(found)

    def mean(self, rows: Mapping[str, Tensor], feature: Tensor, label: Tensor) -> Tensor:
        """The mean value of every row over the queries, float64 (N,): what the memory would miss without it, and below
        0 what it would be better without. The arguments are those of `of_each`; memory stays bounded.
        """
        if not len(feature):
            raise ValueError("feature has no rows; expected at least one query")
        total = sum(part.sum(0) for part in self._parts(rows, feature, label))
        return torch.as_tensor(total) / len(feature)

    def _parts(self, rows: Mapping[str, Tensor], feature: Tensor, label: Tensor) -> Iterator[Tensor]:
        """The values for some queries after the other."""
        features, classes, queries = read_rows(rows, feature, self.feature, self.label)
        if label.shape != (len(queries),):
            raise ValueError(f"label has shape {tuple(label.shape)}; expected ({len(queries)},), one class per query")
        n = len(features)
        i = torch.arange(1, n, dtype=torch.float64, device=features.device)
        step = i.clamp(max=self.k) / (self.k * i)
        size = max(1, _CHUNK // n)
        for part, of in zip(queries.split(size), label.to(classes.device).split(size), strict=True):
            order = torch.sort(similarity(part, features, self.metric), dim=1, descending=True, stable=True).indices
            match = (classes[order] == of[:, None]).double()
            values = match / max(self.k, n)
            values[:, :-1] = (match[:, :-1] - match[:, 1:]) * step
            # the sum from each row to the last, of which the value is the start
            yield torch.empty_like(values).scatter_(1, order, values.flip(1).cumsum(1).flip(1))
