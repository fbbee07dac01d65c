"""Transformed: a readout on vectors that are changed first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .readout import Prediction, Readout


@dataclass(frozen=True)
class Transformed:
    """A `Readout` of what a transform, such as `Centring` or `Whitening`, makes of the rows and of the queries.

    Args:
        transform: from vectors (B, D) to vectors (B, d).
        readout: predicts from those.
        feature: column of the rows with the vectors.

    >>> import torch
    >>> from memreplay.core.readout import NearestClassMean
    >>> rows = {"feature": torch.tensor([[4.0], [-1.0]]), "label": torch.tensor([0, 1])}
    >>> Transformed(torch.abs, NearestClassMean("euclidean"))(rows, torch.tensor([[-3.0]])).labels
    tensor([0])
    """

    transform: Callable[[Tensor], Tensor]
    readout: Readout
    feature: str = "feature"

    def __call__(self, rows: Mapping[str, Tensor], feature: Tensor) -> Prediction:
        changed = {**rows, self.feature: self.transform(rows[self.feature])}
        return self.readout(changed, self.transform(feature))
