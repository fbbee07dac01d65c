"""TopScore: the rows with the highest value in a column, kept or recalled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .protocols import Pool, Ranker, Selection, top


@dataclass(frozen=True)
class TopScore(Ranker):
    """Ranks rows by a number stored with them, such as a gradient norm or a loss; the highest first.

    As a store's ``keep`` this is gradient-based or loss-aware storage: rows that contributed most stay. The number
    is the one given when the row arrived; `Store.update` does not change who is kept later.

    Args:
        column: a column of shape (N,) or (N, 1).

    >>> TopScore("loss").select({"loss": torch.tensor([0.1, 2.0, 0.5])}, 2, generator=torch.Generator()).tolist()
    [1, 2]
    """

    column: str

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.column,)

    def key(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """The column as float64, shape (B,)."""
        return column_of_numbers(batch, self.column).double()

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        return top(column_of_numbers(pool, self.column), k)


def column_of_numbers(batch: Mapping[str, Tensor], column: str) -> Tensor:
    """``batch[column]`` as shape (B,).

    Raises:
        ValueError: the column is absent or holds more than one number per row.
    """
    if column not in batch:
        raise ValueError(f"column {column!r} is missing; the rows have {sorted(batch)}")
    values = batch[column]
    if values.is_nested or values.numel() != values.shape[0]:
        raise ValueError(f"column {column!r} has shape {tuple(values.shape)}; expected one number per row")
    return values.detach().reshape(-1)
