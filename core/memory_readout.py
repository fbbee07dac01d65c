"""MemoryReadout: how much say the rows of the memory have in a prediction, beside the head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .readout import CalibratedPrototypes, KNearest, NearestClassMean, Readout

Kind = Literal["nearest", "mean", "calibrated"]


@dataclass(frozen=True)
class MemoryReadout:
    """Interpolates the head with what the memory says (Khandelwal et al., Generalization through Memorization: Nearest
    Neighbor Language Models, ICLR 2020):

        ``p(c | x) = share * p_memory(c | x) + (1 - share) * p_head(c | x)``

    Args:
        by: ``"nearest"``: the k nearest rows vote; ``"mean"``: nearest class mean; ``"calibrated"``: TEEN, the means of
            classes that came later move towards the first ones that they resemble; where none came later, a head
            decides alone.
        share: 0: the head alone; 1: the memory alone, and no head is trained.
        k: rows that vote.
        temperature: lower gives the most similar rows or means more of the vote.
    """

    by: Kind = "mean"
    share: float = 0.0
    k: int = 10
    temperature: float = 0.05

    def __post_init__(self) -> None:
        if self.by not in get_args(Kind):
            raise ValueError(f"by is {self.by!r}; expected one of {', '.join(get_args(Kind))}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; expected a number from 0 to 1")

    def readout(self, base: Sequence[int]) -> Readout:
        """The readout of the core; ``base`` are the classes that came first."""
        if self.by == "nearest":
            return KNearest(self.k, self.temperature)
        if self.by == "calibrated":
            return CalibratedPrototypes(base, temperature=self.temperature)
        return NearestClassMean(temperature=self.temperature)

    def probabilities(
        self,
        feature: Tensor,
        rows: Mapping[str, Tensor],
        ids: Sequence[int],
        base: Sequence[int],
        head: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        """Probabilities (B, C) of the classes ``ids``, in that order.

        Args:
            feature: (B, D).
            rows: those of the memory, ``feature`` and ``label``.
            ids: classes of the head's rows, as the memory's labels.
            base: the classes that came first.
            head: from features to logits; None where the memory alone decides.
        """
        found = feature.new_zeros(len(feature), len(ids))
        share = 1.0 if head is None else self.share
        if head is not None and self.by == "calibrated" and set(ids) <= set(base):
            share = 0.0
        if head is not None:
            with torch.no_grad():
                found += (1 - share) * head(feature).softmax(1)
        if share > 0:
            said = self.readout(base)(rows, feature)
            column = {name: number for number, name in enumerate(ids)}
            found[:, [column[name] for name in said.classes.tolist()]] += share * said.probabilities
        return found
