"""ExactSearch: every row is compared with every query, a tile at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .best import Best
from .narrow import PANEL, Narrow
from .scan import Comparison, in_threads, shortlists
from .similarity import Similarity
from .top import DEPTH, Top
from .vectors import BLOCK_BYTES, Vectors, inverse

QUERIES = 1024
"""Queries compared at a time; fewer where many rows are asked for."""

ROWS = 2048
"""Rows compared at a time with that many queries; up to 128 times as many where there are fewer queries."""

LONG = 64
"""Numbers in a row from which on it pays to look at it in int16 first."""

CROWDED = 8
"""It no longer pays where more than one score in so many must be calculated all the same."""


@dataclass(frozen=True)
class ExactSearch:
    """The rows most similar to queries. Its temporary memory does not grow with the number of either.

    Attributes:
        rows: to search in.
        similarity: fitted to them.
    """

    rows: Vectors
    similarity: Similarity

    def of_each(self, queries: Vectors, k: int) -> Top:
        """The ``k`` rows nearest to each query, best first: (Q, min(k, N))."""
        k = min(k, len(self.rows))
        shape = (len(queries), k)
        best = Top(
            torch.empty(shape, dtype=self.rows.dtype, device=self.rows.device),
            torch.empty(shape, dtype=torch.int64, device=self.rows.device),
        )
        most = max(1, min(_at_a_time(queries), QUERIES * ROWS // max(ROWS, 16 * k)))
        # equal parts: a few queries left over would take nearly as long as many
        count = max(1, ceil(len(queries) / most))
        for part in queries.parts(max(1, ceil(len(queries) / count))):
            found = self._of_each(self._converted(queries[part]), k)
            best.scores[part], best.index[part] = found.scores, found.index
        return best

    def of_any(self, queries: Vectors, k: int) -> Top:
        """The ``k`` rows with the highest score for any of at least one query, best first: (1, min(k, N))."""
        k = min(k, len(self.rows))
        best = Top.none(1, self.rows)
        at_a_time = _at_a_time(queries)
        room = self._room(min(at_a_time, len(queries)))
        for rows in self._row_blocks(min(at_a_time, len(queries))):
            highest = None
            for part in queries.parts(at_a_time):
                direction, bias = self.similarity.directions(self._converted(queries[part]))
                scores = self._tile(direction, rows, room)
                scores = (scores if bias is None else scores.add_(bias)).amax(1)
                highest = scores if highest is None else torch.maximum(highest, scores)
            assert highest is not None
            best = best.extended(highest.unsqueeze(1), k, rows.start)
        if self.similarity.centre is not None:
            best = Top(self._distances_to_any(queries, best.index[0]).neg_().unsqueeze(0), best.index)
        return best.ordered()

    def _of_each(self, queries: Tensor, k: int) -> Top:
        best = (self._scanned if k and self.rows.scanned else self._tiled)(self.similarity.directions(queries)[0], k)
        if self.similarity.centre is not None:
            best = Top(self._distances(queries, best.index).neg_(), best.index)
        return best.ordered()

    def _scanned(self, direction: Tensor, k: int) -> Top:
        threads = torch.get_num_threads()
        if len(direction) < PANEL * threads or self.rows.dim < LONG or not shortlists():
            return self._seen(direction, k)
        top = Top(torch.empty(len(direction), k), torch.empty(len(direction), k, dtype=torch.int64))

        def work(part: slice) -> None:
            found = self._seen(direction[part], k, Narrow(direction[part]))
            top.scores[part], top.index[part] = found.scores, found.index

        each = -(-len(direction) // threads // PANEL) * PANEL
        in_threads(work, [slice(i, i + each) for i in range(0, len(direction), each)])
        return top

    def _seen(self, direction: Tensor, k: int, narrow: Narrow | None = None) -> Top:
        """The best rows by their products with ``direction``; ``narrow`` are the same directions."""
        best, room = Best(len(direction), k), None
        for rows in self._row_blocks(len(direction)):
            if narrow is None:
                room = self._room(len(direction)) if room is None else room
                best.see(self._products(direction, rows, room), rows.start, *self._corrections(rows))
                continue
            step, calculated = self.rows.rows_in(4 * BLOCK_BYTES // torch.get_num_threads()), 0
            for start in range(rows.start, rows.stop, step):
                part = slice(start, min(start + step, rows.stop))
                calculated += best.search(self.rows[part], narrow, start, *self._corrections(part))
            if rows.start and calculated > len(direction) * (rows.stop - rows.start) // CROWDED:
                narrow = None  # too many rows are too much alike
        return best.top()

    def _corrections(self, rows: slice) -> tuple[Tensor | None, Tensor | None]:
        """The bias and scale of some rows."""
        bias, scale = self.similarity.bias, self.similarity.scale
        return None if bias is None else bias[rows], None if scale is None else scale[rows]

    def _tiled(self, direction: Tensor, k: int) -> Top:
        best, room = Top.none(len(direction), self.rows), self._room(len(direction))
        for rows in self._row_blocks(len(direction)):
            best = best.extended(self._tile(direction, rows, room), k, rows.start)
        return best

    def _converted(self, queries: Tensor) -> Tensor:
        return queries.to(device=self.rows.device, dtype=self.rows.dtype)

    def _row_blocks(self, queries: int) -> Iterator[slice]:
        """The rows to compare at a time with so many queries."""
        rows = max(ROWS, min(128 * ROWS, QUERIES * ROWS // max(1, queries)))
        return self.rows.parts(rows - rows % DEPTH or rows)

    def _room(self, queries: int) -> Tensor:
        """For the scores of a tile; every tile overwrites the one before."""
        first = next(self._row_blocks(queries), slice(0, 0))
        return torch.empty(first.stop * queries, dtype=self.rows.dtype, device=self.rows.device)

    def _products(self, direction: Tensor, rows: slice, room: Tensor) -> Tensor:
        """Inner products of ``rows`` with the directions of some queries, (n, Q)."""
        n, q = rows.stop - rows.start, len(direction)
        tile = room[: n * q].view(n, q)
        # rows whose column is compressed are decoded a few at a time
        step = self.rows.rows_in(4 * BLOCK_BYTES)
        for start in range(0, n, step):
            block = self.rows[rows.start + start : min(rows.start + start + step, rows.stop)]
            _multiply(block, direction, tile[start : start + step])
        return tile

    def _tile(self, direction: Tensor, rows: slice, room: Tensor) -> Tensor:
        """Scores of ``rows`` for some queries, (n, Q), without the bias of the query."""
        tile = self._products(direction, rows, room)
        if self.similarity.bias is not None:
            tile.add_(self.similarity.bias[rows].unsqueeze(1))
        if self.similarity.scale is not None:
            tile.mul_(self.similarity.scale[rows].unsqueeze(1))
        return tile

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


def nearest_to_one(
    rows: Vectors, query: Tensor, metric: Comparison, k: int, scale: Tensor | None = None, known: bool = False
) -> Top:
    """The ``k`` rows nearest to ``query`` (D,), best first: (1, min(k, N)).

    One pass over rows that can be scanned is all it takes, so that nothing needs to be known of them beforehand.

    Args:
        scale: for a cosine, (N,): the rows' inverse lengths if they are ``known``, or room for them, see `compare`.
    """
    query = query.to(device=rows.device, dtype=rows.dtype)
    if metric == "cosine":
        query = query * inverse(torch.linalg.vector_norm(query))
    best = Best(1, min(k, len(rows)))
    for part in rows.parts(QUERIES * ROWS):
        if known and scale is not None:
            best.see(rows.compared(query, "dot", part).unsqueeze(1), part.start, scale=scale[part])
        else:
            best.see(rows.compared(query, metric, part, scale).unsqueeze(1), part.start)
    top = best.top().ordered()
    return Top(top.scores.neg().sqrt_().neg_(), top.index) if metric == "euclidean" else top


def _at_a_time(queries: Vectors) -> int:
    """How many queries are compared at a time: fewer if they are long."""
    return min(QUERIES, queries.rows_in(2 * BLOCK_BYTES))


def _multiply(rows: Tensor, directions: Tensor, out: Tensor) -> None:
    """Inner products of every row, (n, D), with every direction, (Q, D), into ``out`` (n, Q)."""
    if len(directions) > 1:
        torch.mm(rows, directions.t(), out=out)
    elif rows.device.type == "cpu" and rows.is_contiguous():
        _multiply_one(rows.numpy(), directions[0].numpy(), out[:, 0].numpy())
    else:
        torch.mv(rows, directions[0], out=out[:, 0])


def _multiply_one(rows: NDArray[Any], direction: NDArray[Any], out: NDArray[Any]) -> None:
    """The same for one direction, (D,), and ``out`` (n,), reading at four places at once.

    A processor fetches ahead at each of them, and so reads twice as fast as a product of the whole matrix does.
    """
    n = len(rows) // 4
    quarters, rest = rows[: 4 * n].reshape(4, n, len(direction)), rows[4 * n :]
    with np.errstate(all="ignore"):
        np.matmul(quarters.transpose(1, 0, 2), direction, out=out[: 4 * n].reshape(4, n).T)
        np.matmul(rest, direction, out=out[4 * n :])
