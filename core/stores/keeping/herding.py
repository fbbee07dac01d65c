"""Herding: the rows whose mean follows the mean of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...retrievers.vectors import Vectors, inverse
from ...selection import Pool, Ranker, Selection


@dataclass(frozen=True)
class Herding(Ranker):
    """Picks rows one by one so that the mean of those picked stays as near as possible to the mean of the pool.

    Welling, Herding Dynamical Weights to Learn, ICML 2009, as iCaRL builds its exemplar sets (Rebuffi et al., iCaRL,
    CVPR 2017, Algorithm 4): row i + 1 is ``argmin_x |mu - (x + s) / (i + 1)|`` with ``s`` the sum of the i rows
    picked so far; a row is picked once. The order matters: every prefix is the best that the greedy rule knows, so a
    set may be cut later. For exemplars of each class, ``ClassBalanced(Herding())``.

    The search is for the largest ``2 x·((i + 1) mu - s) - |x| ** 2``: one product of the pool with a vector per row
    picked, without copies of the pool.

    Args:
        column: the vectors; rows of any shape are flattened.
        normalize: scale rows to length 1 first, as iCaRL does.

    >>> pool = {"feature": torch.tensor([[0.0], [4.0], [1.0], [3.0]])}
    >>> Herding(normalize=False).select(pool, 2, generator=torch.Generator()).tolist()
    [2, 3]
    """

    column: str = "feature"
    normalize: bool = True

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        x = Vectors(pool, self.column)[:]  # decoded once
        rows = Vectors({self.column: x}, self.column)
        lengths = rows.norms()
        scale = inverse(lengths) if self.normalize else torch.ones_like(lengths)
        penalty = (lengths * scale).square_()  # |x| ** 2; infinite once a row is picked
        mu = rows.mean(scale)
        target = mu.clone()  # (i + 1) mu - s
        picked: list[int] = []
        while len(picked) < min(k, len(x)):
            cost = torch.addcmul(penalty, rows.products(target.to(x.dtype)), scale, value=-2)
            row = int(cost.cpu().numpy().argmin())  # on a CPU several times as fast as Tensor.argmin
            picked.append(row)
            penalty[row] = torch.inf
            target += mu
            target -= scale[row] * x[row]
        return Selection(torch.tensor(picked, dtype=torch.int64))
