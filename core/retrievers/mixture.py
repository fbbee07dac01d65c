"""Mixture: several selectors share a draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..selection import Pool, Ranker, Selection, Selector, rank


@dataclass(frozen=True)
class Mixture(Ranker):
    """Every selector gives its share of the rows; no row comes twice.

    A row that an earlier selector has taken is replaced by the selector's next best, and what a selector cannot give
    is asked of the others, so that ``k`` rows come back whenever the selectors know as many.

    Scores and importance weights are those of the selector that gave the row: scores of different selectors do not
    compare, and where a selector has none they are NaN, its weights 1.

    Args:
        selectors: at least one.
        weights: the shares, equal if None. Shares that are not whole numbers of rows are rounded at random, right on
            average.

    >>> from memreplay import TopScore, Uniform
    >>> pool = {"loss": torch.tensor([0.1, 3.0, 0.2, 0.3])}
    >>> half = Mixture([TopScore("loss"), Uniform()])
    >>> len(half.select(pool, 4, generator=torch.Generator()).unique())
    4
    """

    selectors: Sequence[Selector]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not self.selectors:
            raise ValueError("selectors is empty; expected at least one")
        if self.weights is not None:
            if len(self.weights) != len(self.selectors):
                raise ValueError(f"weights has {len(self.weights)} numbers for {len(self.selectors)} selectors")
            if not (all(0 <= weight < math.inf for weight in self.weights) and sum(self.weights) > 0):
                raise ValueError(f"weights is {self.weights}; expected finite numbers of at least 0, not all 0")

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for selector in self.selectors for name in getattr(selector, "needs", ())))

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        shares = self._shares(k, generator)
        parts: list[Selection] = []
        taken = torch.empty(0, dtype=torch.int64)
        missing = 0
        # a second round asks for what is still missing
        for selector, share in zip((*self.selectors, *self.selectors), shares + [0] * len(shares), strict=True):
            missing += share
            if missing:
                # among as many more as are taken already, enough are new
                chosen = rank(selector, pool, missing + len(taken), query=query, generator=generator)
                new = (~torch.isin(chosen.index, taken)).nonzero().squeeze(1)[:missing]
                parts.append(Selection(chosen.index[new], _at(chosen.score, new), _at(chosen.weight, new)))
                taken = torch.cat([taken, parts[-1].index])
                missing -= len(new)
        sizes = [len(part.index) for part in parts]
        score = _joined([part.score for part in parts], sizes, math.nan)
        return Selection(taken, score, _joined([part.weight for part in parts], sizes, 1.0))

    def _shares(self, k: int, generator: torch.Generator) -> list[int]:
        """Rows of each selector: ``k`` times its weight, rounded up or down so that the mean is right."""
        weights = torch.tensor(self.weights or [1.0] * len(self.selectors), dtype=torch.float64)
        edges = weights.cumsum(0)
        edges = (edges / edges[-1] * k + torch.rand(1, dtype=torch.float64, generator=generator)).floor().clamp_(max=k)
        return edges.diff(prepend=torch.zeros(1)).long().tolist()


def _at(values: Tensor | None, index: Tensor) -> Tensor | None:
    return None if values is None else values[index.to(values.device)]


def _joined(parts: list[Tensor | None], sizes: list[int], fill: float) -> Tensor | None:
    """The parts one after the other, ``fill`` where there is none; None if there are none at all."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    like = known[0]
    filled = [like.new_full((n,), fill) if part is None else part for part, n in zip(parts, sizes, strict=True)]
    return torch.cat([part.to(like) for part in filled])
