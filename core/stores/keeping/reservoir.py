"""Reservoir: a uniform sample of the stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...batch import batch_size


@dataclass(frozen=True)
class Reservoir:
    """Keeps a uniform sample without replacement of all rows ever offered.

    Every row gets a random key and the highest keys stay, so that after n rows each of them is among the k kept with
    probability k / n (Vitter, Random Sampling with a Reservoir, ACM TOMS 11, 1985; by keys: Efraimidis and Spirakis,
    Information Processing Letters 97, 2006, with equal weights).

    >>> Reservoir().key({"label": torch.arange(3)}, torch.Generator()).shape
    torch.Size([3])
    """

    def weight(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """None: all rows weigh 1."""
        return None

    def key(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """``log u`` with u uniform in (0, 1], float64 (B,)."""
        return log_uniform(batch_size(batch), generator)


def log_uniform(n: int, generator: torch.Generator) -> Tensor:
    """``n`` logarithms of numbers uniform in (0, 1], that is ``-Exp(1)``; float64, on the CPU."""
    return torch.rand(n, dtype=torch.float64, generator=generator).neg_().log1p_()
