"""WeightedReservoir: a sample of the stream in which heavier rows are likelier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...selection.top_score import column_of_numbers
from .reservoir import log_uniform


@dataclass(frozen=True)
class WeightedReservoir:
    """Keeps a weighted sample without replacement of all rows ever offered.

    Rows are kept as if drawn one after the other, each time with probability ``w / sum of the weights left``
    (Efraimidis and Spirakis, Weighted Random Sampling with a Reservoir, Information Processing Letters 97, 2006): the
    key of a row is ``u ** (1 / w)``, here as ``log(u) / w``. A row of weight 0 comes last.

    Args:
        column: a column with one weight per row, finite and at least 0. The weight that counts is the one given when
            the row arrived.

    >>> batch = {"weight": torch.tensor([1.0, 0.0])}
    >>> WeightedReservoir("weight").key(batch, torch.Generator())[1].item()
    -inf
    """

    column: str

    def weight(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The column as float64, (B,).

        Raises:
            ValueError: a weight that is negative, infinite or NaN.
        """
        weights = column_of_numbers(batch, self.column).double()
        wrong = ~((weights >= 0) & (weights < torch.inf))
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"column {self.column!r} is {weights[row].item()} in row {row}; expected finite weights of at least 0"
            )
        return weights

    def key(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """``log(u) / w`` with u uniform in (0, 1], float64 (B,)."""
        weights = self.weight(batch)
        assert weights is not None
        keys = log_uniform(len(weights), generator).to(weights.device) / weights
        return torch.where(weights > 0, keys, -torch.inf)
