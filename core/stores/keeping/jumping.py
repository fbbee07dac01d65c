"""Jumping: the keepers whose keys need not be drawn one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from ...selection import Keyed


@runtime_checkable
class Jumping(Keyed, Protocol):
    """A `Keyed` whose keys are ``-Exp(1) / weight``, independent between rows.

    That law lets a store draw the gaps between the rows worth keeping instead of one key per row (the exponential
    jumps of Efraimidis and Spirakis, 2006), so that a batch of which nothing is kept costs one comparison.
    """

    def weight(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The rows' weights, float64 (B,), finite and at least 0; None when all of them are 1."""
        ...
