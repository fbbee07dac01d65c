"""Fifo: the newest rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...selection.top_score import column_of_numbers


@dataclass(frozen=True)
class Fifo:
    """Keeps the rows that came last: first in, first out.

    >>> Fifo().key({"id": torch.tensor([7, 8])}, torch.Generator())
    tensor([7., 8.], dtype=torch.float64)
    """

    def key(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """The arrival number, float64 (B,); exact up to 2 ** 53 rows."""
        return column_of_numbers(batch, "id").double()
