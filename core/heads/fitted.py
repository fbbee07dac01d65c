"""Fitted: a head solved for the rows of a memory, as a way to predict from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..readout import Prediction


class Fits(Protocol):
    """What makes a head of rows, such as `LogisticRegression`, `TrainedHead` or `DistributionCalibration`.

    Parameters are typed loosely because a class named in a configuration file must match the types to the letter.
    """

    def fit(self, rows: Any, classes: int) -> Callable[[Tensor], Tensor]:
        """From features (B, D) to logits (B, classes), for rows with ``feature`` (N, D) and ``label`` from 0."""
        ...


@dataclass(frozen=True)
class Fitted:
    """A `memreplay.core.readout.Readout` that fits a head to the rows and asks it.

    Args:
        how: fits the head.
        feature: column of the rows with the features.
        label: column with the classes.

    >>> from memreplay.core.heads import LogisticRegression
    >>> rows = {"feature": torch.tensor([[0.0], [2.0], [10.0]]), "label": torch.tensor([4, 4, 2])}
    >>> Fitted(LogisticRegression())(rows, torch.tensor([[3.0]])).labels
    tensor([4])
    """

    how: Fits
    feature: str = "feature"
    label: str = "label"

    def __call__(self, rows: Mapping[str, Tensor], feature: Tensor) -> Prediction:
        classes, number = torch.unique(rows[self.label], return_inverse=True)
        head = self.how.fit({"feature": rows[self.feature], "label": number}, len(classes))
        with torch.no_grad():
            probabilities = head(feature).softmax(1)
        return Prediction(classes[probabilities.argmax(1)], probabilities, classes)
