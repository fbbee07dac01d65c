"""Top: the highest scores of each query, from long rows of scores that arrive in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from .vectors import Vectors

DEPTH = 32
"""Columns in a group, of which only the maximum is compared with what was found before."""


@dataclass(frozen=True)
class Top:
    """The highest scores of every query (q, n), and the int64 columns they came from."""

    scores: Tensor
    index: Tensor

    @staticmethod
    def none(q: int, rows: Vectors) -> Top:
        """Nothing found yet for ``q`` queries."""
        scores = torch.empty(q, 0, dtype=rows.dtype, device=rows.device)
        return Top(scores, scores.long())

    @staticmethod
    def of(tile: Tensor, k: int, start: int = 0) -> Top:
        """The ``k`` highest numbers of every row of ``tile`` (q, n), in no order; its columns count from ``start``.

        In long rows the k groups of columns with the highest maxima hold the k highest numbers; only they are searched.
        """
        n = tile.shape[1]
        depth = min(64, isqrt(n // (2 * k))) if k else 0  # balances the search among groups and inside them
        if depth < 4:
            scores, index = torch.topk(tile, min(k, n), dim=1, sorted=False)
            return Top(scores, index + start)
        width = n // depth
        maxima = tile[:, : depth * width].unflatten(1, (depth, width)).amax(1)
        groups = torch.topk(maxima, k, dim=1, sorted=False).indices
        members = torch.arange(0, depth * width, width, device=tile.device)
        columns = (groups.unsqueeze(1) + members.unsqueeze(1)).flatten(1)
        rest = torch.arange(depth * width, n, device=tile.device).expand(len(tile), -1)
        columns = torch.cat([columns, rest], dim=1)
        scores, place = torch.topk(tile.gather(1, columns), k, dim=1, sorted=False)
        return Top(scores, columns.gather(1, place) + start)

    def extended(self, tile: Tensor, k: int, start: int) -> Top:
        """The ``k`` highest of these and of ``tile`` (q, n), whose columns count from ``start``; in no order."""
        q, n = tile.shape
        if not 0 < k <= self.scores.shape[1] or n % DEPTH:
            return self.merged(Top.of(tile, k, start), k)
        least = self.scores.amin(1, keepdim=True)
        maxima = tile.unflatten(1, (DEPTH, n // DEPTH)).amax(1)
        query, group = (maxima > least).nonzero(as_tuple=True)
        if len(query) > q * k or not least.isfinite().all():
            return self.merged(Top.of(tile, k, start), k)
        # few groups are left: their better members, lined up query by query
        columns = group.unsqueeze(1) + torch.arange(0, n, n // DEPTH, device=tile.device)
        scores = tile[query.unsqueeze(1), columns]
        better = scores > least[query]
        query = query.repeat_interleave(better.sum(1))
        count = torch.bincount(query, minlength=q)
        place = torch.arange(len(query), device=tile.device) - (count.cumsum(0) - count)[query]
        found = Top(tile.new_full((q, int(count.max())), -torch.inf), self.index.new_zeros(q, int(count.max())))
        found.scores[query, place] = scores[better]
        found.index[query, place] = columns[better] + start
        return self.merged(found, k)

    def merged(self, other: Top, k: int) -> Top:
        """The ``k`` highest of both, in no order."""
        scores = torch.cat([self.scores, other.scores], dim=1)
        index = torch.cat([self.index, other.index], dim=1)
        scores, place = torch.topk(scores, min(k, scores.shape[1]), dim=1, sorted=False)
        return Top(scores, index.gather(1, place))

    def ordered(self) -> Top:
        """Best first; on equal scores the lower column first."""
        index, place = torch.sort(self.index, dim=1)
        scores, order = torch.sort(self.scores.gather(1, place), dim=1, descending=True, stable=True)
        return Top(scores, index.gather(1, order))
