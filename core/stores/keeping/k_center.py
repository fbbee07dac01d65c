"""KCenter: rows that leave no other row far from one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...retrievers.vectors import Vectors
from ...selection import Pool, Ranker, Selection

FRONT = 256
"""Rows looked at one by one, the farthest of all."""


@dataclass(frozen=True)
class KCenter(Ranker):
    """Picks, again and again, the row farthest from all rows picked before (euclidean distance).

    The largest distance of any row to the nearest one picked is at most twice what the best k rows could reach
    (Gonzalez, Clustering to Minimize the Maximum Intercluster Distance, 1985; as a core-set for learning: Sener and
    Savarese, ICLR 2018). The first is the row nearest to the mean of the pool, so that nothing is random. A row's score
    is its distance to the rows picked before it, which is infinite for the first and never rises.

    Only rows at the front, the 256 farthest, are looked at until a row behind them might be farther; then the
    distances of all rows are brought up to date by one matrix product. The order is the same as without this.

    Args:
        column: the vectors; rows of any shape are flattened.

    >>> pool = {"feature": torch.tensor([[0.0], [1.0], [2.0], [9.0]])}
    >>> KCenter().select(pool, 3, generator=torch.Generator()).tolist()
    [2, 3, 0]
    """

    column: str = "feature"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        x = Vectors(pool, self.column)
        k = min(k, len(x))
        if k == 0:
            return Selection(torch.empty(0, dtype=torch.int64))
        centre = x.mean().to(x.dtype)
        squares = x.squared_distances(centre)
        nearest = torch.full_like(squares, torch.inf)  # squared distance to the nearest row picked
        picked, radii = [squares.argmin(0, keepdim=True)], [squares.new_full((1,), torch.inf)]
        while missing := k - sum(map(len, picked)):
            _bring_up_to_date(nearest, x, squares, centre, picked[-1])
            front = nearest.topk(min(FRONT, len(x)), sorted=False).indices.sort().values
            order, radius = _farthest_first(x[front] - centre, nearest[front], missing)
            picked.append(front[order])
            radii.append(radius)
        return Selection(torch.cat(picked).cpu(), torch.cat(radii).sqrt())


def _bring_up_to_date(nearest: Tensor, x: Vectors, squares: Tensor, centre: Tensor, picked: Tensor) -> None:
    """Lowers ``nearest`` (N,) to the squared distances to rows ``picked`` (n,), which become -1 themselves.

    ``squares`` are the squared distances to ``centre``; measured from there, little is lost to cancellation.
    """
    centres = x[picked] - centre
    constant = squares[picked] + 2 * (centres @ centre)
    for rows, block in x.blocks():
        distance = torch.addmm(constant, block, centres.t(), alpha=-2).amin(1)
        distance.add_(squares[rows]).clamp_(min=0)
        torch.minimum(nearest[rows], distance, out=nearest[rows])
    nearest.index_fill_(0, picked, -1)


def _farthest_first(x: Tensor, nearest: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Up to ``k`` rows of the front ``x`` (n, D), farthest first, and their squared distances when picked.

    Ends when a row outside, of which none is farther than the least of ``nearest``, may be farther than all in front.
    """
    outside = nearest.min()
    squares = x.square().sum(1)
    order: list[int] = []
    radius: list[Tensor] = []
    while len(order) < k:
        best = int(nearest.argmax())
        if order and nearest[best] < outside:
            break
        order.append(best)
        radius.append(nearest[best])
        distance = torch.addmv(squares, x, x[best], alpha=-2).add_(squares[best]).clamp_(min=0)
        nearest = torch.minimum(nearest, distance)
        nearest[best] = -1
    return torch.tensor(order, device=x.device), torch.stack(radius)
