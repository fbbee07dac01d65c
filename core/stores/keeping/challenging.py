"""Challenging: the greedy policies by which new rows take the places of held ones one at a time."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from ...selection import Greedy
from ..look_ahead import Accepted
from ..pool import Union


@runtime_checkable
class Challenging(Greedy, Protocol):
    """A `Greedy` policy that need not choose anew among all rows held: those that stay keep their slots."""

    def challenge(self, pool: Union, capacity: int, *, generator: torch.Generator) -> Accepted | None:
        """The new rows of ``pool`` that stay, the slots they take and their scores. Slots below ``len(pool.held)`` are
        of rows held, those from there up to ``capacity`` are free and are taken without a gap.

        None if it cannot tell without a `select`.
        """
        ...
