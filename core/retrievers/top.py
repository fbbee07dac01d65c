"""Top: the highest scores of each query, from long columns of scores that arrive in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from .vectors import Vectors

DEPTH = 32
"""Rows in a group, of which only the maximum is compared with what was found before."""


@dataclass(frozen=True)
class Top:
    """The highest scores of every query (q, n), and the int64 rows they came from."""

    scores: Tensor
    index: Tensor

    @staticmethod
    def none(q: int, rows: Vectors) -> Top:
        """Nothing found yet for ``q`` queries."""
        scores = torch.empty(q, 0, dtype=rows.dtype, device=rows.device)
        return Top(scores, scores.long())

    @staticmethod
    def of(tile: Tensor, k: int, start: int = 0) -> Top:
        """The ``k`` highest numbers of every column of ``tile`` (n, q), in no order; its rows count from ``start``.

        In long columns the k groups of rows with the highest maxima hold the k highest numbers; only they are searched.
        """
        n = len(tile)
        depth = min(64, isqrt(n // (2 * k))) if k else 0  # balances the search among groups and inside them
        by_query = tile.t()
        if depth < 4:
            scores, index = torch.topk(by_query.contiguous(), min(k, n), dim=1, sorted=False)
            return Top(scores, index + start)
        width = n // depth
        groups = torch.topk(_maxima(tile[: depth * width], depth), k, dim=1, sorted=False).indices
        members = torch.arange(0, depth * width, width, device=tile.device)
        rows = (groups.unsqueeze(1) + members.unsqueeze(1)).flatten(1)
        rest = torch.arange(depth * width, n, device=tile.device).expand(len(rows), -1)
        rows = torch.cat([rows, rest], dim=1)
        scores, place = torch.topk(by_query.gather(1, rows), k, dim=1, sorted=False)
        return Top(scores, rows.gather(1, place) + start)

    def extended(self, tile: Tensor, k: int, start: int) -> Top:
        """The ``k`` highest of these and of ``tile`` (n, q), whose rows count from ``start``; in no order."""
        n, q = tile.shape
        if not 0 < k <= self.scores.shape[1] or n % DEPTH:
            return self.merged(Top.of(tile, k, start), k)
        least = self.scores.amin(1, keepdim=True)
        query, group = (_maxima(tile, DEPTH) > least).nonzero(as_tuple=True)
        if len(query) > q * k or not least.isfinite().all():
            return self.merged(Top.of(tile, k, start), k)
        # few groups are left: their better members, lined up query by query
        rows = group.unsqueeze(1) + torch.arange(0, n, n // DEPTH, device=tile.device)
        scores = tile[rows, query.unsqueeze(1)]
        group, member = (scores > least[query]).nonzero(as_tuple=True)
        query, rows, scores = query[group], rows[group, member], scores[group, member]
        count = torch.bincount(query, minlength=q)
        place = torch.arange(len(query), device=tile.device) - (count.cumsum(0) - count)[query]
        most = int(count.max())
        found = Top(tile.new_full((q, most), -torch.inf), self.index.new_zeros(q, most))
        found.scores[query, place] = scores
        found.index[query, place] = rows + start
        return self.merged(found, k)

    def merged(self, other: Top, k: int) -> Top:
        """The ``k`` highest of both, in no order."""
        scores = torch.cat([self.scores, other.scores], dim=1)
        index = torch.cat([self.index, other.index], dim=1)
        scores, place = torch.topk(scores, min(k, scores.shape[1]), dim=1, sorted=False)
        return Top(scores, index.gather(1, place))

    def ordered(self) -> Top:
        """Best first; on equal scores the lower row first."""
        index, place = torch.sort(self.index, dim=1)
        scores, order = torch.sort(self.scores.gather(1, place), dim=1, descending=True, stable=True)
        return Top(scores, index.gather(1, order))


def _maxima(tile: Tensor, depth: int) -> Tensor:
    """The highest of every ``depth`` rows, n / depth apart, of each column of ``tile`` (n, q): (q, n / depth)."""
    highest: Tensor = tile.unflatten(0, (depth, len(tile) // depth)).amax(0)
    return highest.t().contiguous()
