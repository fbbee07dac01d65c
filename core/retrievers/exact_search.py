"""ExactSearch: every row is compared with every query, a tile at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .similarity import Similarity
from .top import DEPTH, Top
from .vectors import BLOCK_BYTES, Vectors

QUERIES = 1024
"""Queries compared at a time; fewer where many rows are asked for."""

ROWS = 2048
"""Rows compared at a time with that many queries; up to 128 times as many where there are fewer queries."""


@dataclass(frozen=True)
class ExactSearch:
    """The rows most similar to queries. Its temporary memory does not grow with the number of either.

    Attributes:
        rows: to search in.
        similarity: fitted to them.
        transposed: a copy of them as (D, N), contiguous, or None.
    """

    rows: Vectors
    similarity: Similarity
    transposed: Tensor | None = None

    def of_each(self, queries: Vectors, k: int) -> Top:
        """The ``k`` rows nearest to each query, best first: (Q, min(k, N))."""
        k = min(k, len(self.rows))
        shape = (len(queries), k)
        best = Top(
            torch.empty(shape, dtype=self.rows.dtype, device=self.rows.device),
            torch.empty(shape, dtype=torch.int64, device=self.rows.device),
        )
        for part in queries.parts(max(1, min(QUERIES, QUERIES * ROWS // (ROWS + 4 * k)))):
            found = self._of_each(self._converted(queries[part]), k)
            best.scores[part], best.index[part] = found.scores, found.index
        return best

    def of_any(self, queries: Vectors, k: int) -> Top:
        """The ``k`` rows with the highest score for any of at least one query, best first: (1, min(k, N))."""
        k = min(k, len(self.rows))
        best = Top.none(1, self.rows)
        for rows in self._row_blocks(min(len(queries), QUERIES)):
            highest = None
            for part in queries.parts(QUERIES):
                direction, bias = self.similarity.directions(self._converted(queries[part]))
                scores = self._tile(direction, rows)
                scores = (scores if bias is None else scores.add_(bias)).amax(0)
                highest = scores if highest is None else torch.maximum(highest, scores)
            assert highest is not None
            best = best.extended(highest.unsqueeze(0), k, rows.start)
        if self.similarity.centre is not None:
            best = Top(self._distances_to_any(queries, best.index[0]).neg_().unsqueeze(0), best.index)
        return best.ordered()

    def _of_each(self, queries: Tensor, k: int) -> Top:
        direction, _ = self.similarity.directions(queries)
        best = Top.none(len(queries), self.rows)
        for rows in self._row_blocks(len(queries)):
            best = best.extended(self._tile(direction, rows), k, rows.start)
        if self.similarity.centre is not None:
            best = Top(self._distances(queries, best.index).neg_(), best.index)
        return best.ordered()

    def _converted(self, queries: Tensor) -> Tensor:
        return queries.to(device=self.rows.device, dtype=self.rows.dtype)

    def _row_blocks(self, queries: int) -> Iterator[slice]:
        rows = max(ROWS, 128 * ROWS // max(1, queries))
        if self.transposed is None:
            rows = min(rows, self.rows.rows_in(4 * BLOCK_BYTES))
        return self.rows.parts(rows - rows % DEPTH or rows)

    def _tile(self, direction: Tensor, rows: slice) -> Tensor:
        """Scores of ``rows`` for some queries, (Q, n), without the bias of the query."""
        columns = self.rows[rows].t() if self.transposed is None else self.transposed[:, rows]
        scale, bias = self.similarity.scale, self.similarity.bias
        if len(direction) == 1:  # a product with one vector has a faster routine of its own
            tile = direction[0] @ columns if bias is None else torch.addmv(bias[rows], columns.t(), direction[0])
            tile = tile.unsqueeze(0)
        else:
            tile = direction @ columns if bias is None else torch.addmm(bias[rows], direction, columns)
        return tile if scale is None else tile.mul_(scale[rows])

    def _distances(self, queries: Tensor, index: Tensor) -> Tensor:
        """Distances from each query to the rows of its own line of ``index`` (Q, k)."""
        flat = index.flatten()
        owner = torch.arange(len(flat), device=flat.device) // max(1, index.shape[1])
        step = self.rows.rows_in(BLOCK_BYTES)
        parts = zip(flat.split(step), owner.split(step), strict=True)
        return torch.cat([self.similarity.distances(self.rows[i], queries[q]) for i, q in parts]).view(index.shape)

    def _distances_to_any(self, queries: Vectors, index: Tensor) -> Tensor:
        """Distances from the rows ``index`` (k,) to the nearest of ``queries``: a search with exchanged roles."""
        assert self.similarity.centre is not None
        search = ExactSearch(queries, Similarity.distance(queries, self.similarity.centre, self.similarity.root))
        parts = index.split(self.rows.rows_in(BLOCK_BYTES))
        found = [search.of_each(Vectors({"row": self.rows[part]}, "row"), 1).scores[:, 0] for part in parts]
        return torch.cat(found).neg_()
