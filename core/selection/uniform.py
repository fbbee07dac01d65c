"""Uniform: every row is equally likely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .protocols import Pool, Ranker, Selection


@dataclass(frozen=True)
class Uniform(Ranker):
    """``k`` distinct rows, every ordered choice equally likely; at a cost that does not depend on the pool.

    >>> Uniform().select({"label": torch.arange(5)}, 5, generator=torch.Generator()).sort().values.tolist()
    [0, 1, 2, 3, 4]
    """

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        return Selection(sample_distinct(pool.size, k, generator))


def sample_distinct(n: int, k: int, generator: torch.Generator) -> Tensor:
    """``min(k, n)`` distinct integers below ``n``, int64, in random order, in O(k)."""
    k = min(k, n)
    if 2 * k >= n:
        return torch.randperm(n, generator=generator)[:k]
    # the distinct values of uniform draws, in the order they first appear, are a uniform draw without replacement
    index = torch.randint(n, (k + k * k // n + 2,), generator=generator).numpy()
    drawn = index.tolist()
    if len(set(drawn[:k])) == k:
        return torch.from_numpy(index[:k])
    chosen = dict.fromkeys(drawn)
    while len(chosen) < k:
        chosen.update(dict.fromkeys(torch.randint(n, (k - len(chosen),), generator=generator).tolist()))
    return torch.from_numpy(np.fromiter(chosen, np.int64, k))
