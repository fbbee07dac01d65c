"""Rescored: a model's verdict on candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import Batch
from ..selection import Pool, Ranker, Selection, Selector, rank, top


@dataclass(frozen=True)
class Rescored(Ranker):
    """Draws candidates and keeps those that ``score`` puts highest: misclassified, highest loss, most interfered with.

    With uniform candidates and the increase of the loss by the coming step as score this is MIR (Aljundi et al., Online
    Continual Learning with Maximally Interfered Retrieval, NeurIPS 2019).

    Args:
        candidates: draws the rows to be judged.
        n: how many; never fewer than are asked for.
        score: from the candidates' columns to one number per row, the higher the better; a row scored NaN comes last.
            None if it is given with each draw: ``memory.recall(score=...)``.

    >>> from memreplay import Uniform
    >>> pool = {"loss": torch.tensor([0.1, 3.0, 0.2])}
    >>> hardest = Rescored(Uniform(), 3, score=lambda rows: rows["loss"])
    >>> hardest.select(pool, 1, generator=torch.Generator()).tolist()
    [1]
    """

    candidates: Selector
    n: int
    score: Callable[[Batch], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is {self.n}; expected at least 1 candidate")

    @property
    def needs(self) -> tuple[str, ...]:
        return tuple(getattr(self.candidates, "needs", ()))

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        if self.score is None:
            raise ValueError(f"score is None in {self!r}; pass it here, or with each draw as recall(score=...)")
        index = rank(self.candidates, pool, max(k, self.n), query=query, generator=generator).index
        if not len(index):
            return Selection(index)
        scores = self.score(pool.take(index)).detach()
        if scores.shape != index.shape:
            raise ValueError(
                f"score returned shape {tuple(scores.shape)}; expected one number for each of {len(index)} rows"
            )
        best = top(scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf), k)
        return Selection(index[best.index], best.score)
