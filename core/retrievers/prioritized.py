"""Prioritized: rows with a high priority are drawn more often."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..selection import Pool, Ranker, Selection, top
from ..selection.top_score import column_of_numbers


@dataclass(frozen=True)
class Prioritized(Ranker):
    """Draws rows in proportion to ``p ** alpha`` with ``p = |priority| + epsilon``, and says how much each then counts.

    Schaul, Quan, Antonoglou and Silver, Prioritized Experience Replay, ICLR 2016, proportional variant, with importance
    weights ``(N P) ** -beta``, divided by the largest of the draw. Unlike there, rows are drawn *without* replacement,
    one after the other among those left, so that a draw of n is n different rows; the first is drawn exactly with
    probability P, and for draws of a large part of the pool the weights are an approximation.

    Write priorities back with ``store.update``, and give new rows the highest so far.

    Args:
        column: one finite number per row, such as the last loss.
        alpha: 0 draws uniformly, 1 in proportion to the priority.
        beta: 0 leaves all weights at 1, 1 undoes the preference fully.
        epsilon: added to every priority, so that none is 0.

    >>> pool = {"loss": torch.tensor([0.0, 9.0, 0.0])}
    >>> Prioritized("loss", alpha=1.0).select(pool, 1, generator=torch.Generator()).tolist()
    [1]
    """

    column: str
    alpha: float = 0.6
    beta: float = 0.4
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a number of at least 0")
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ValueError(f"epsilon is {self.epsilon}; expected a number above 0")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        priority = column_of_numbers(pool, self.column).to(device="cpu", dtype=torch.float64)
        if not priority.isfinite().all():
            row = int((~priority.isfinite()).nonzero()[0])
            raise ValueError(
                f"column {self.column!r} is {priority[row].item()} in row {row}; expected finite priorities"
            )
        mass = self.alpha * (priority.abs() + self.epsilon).log()
        # the k highest of log p + Gumbel are k draws without replacement
        gumbel = torch.empty_like(mass).exponential_(generator=generator).log_().neg_()
        index = top(mass + gumbel, k).index
        log_probability = mass - mass.logsumexp(0)
        log_weight = -self.beta * log_probability[index]
        weight = (log_weight - log_weight.max()).exp() if len(index) else log_weight
        return Selection(index, priority[index], weight.float())
