"""Detections: what was found on an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """What was found on an image.

    Attributes:
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the image.
        scores: float32 (N,), descending.
        labels: int64 (N,), the classes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        return self._only(self.scores >= score)

    def numbered(self, places: Mapping[int, int]) -> Detections:
        """With other numbers for the classes; those without one are left out.

        >>> found = Detections(torch.zeros(2, 4), torch.tensor([0.9, 0.8]), torch.tensor([3, 5]))
        >>> found.numbered({5: 0}).labels
        tensor([0])
        """
        known = torch.tensor([label in places for label in self.labels.tolist()], dtype=torch.bool)
        labels = [places[label] for label in self.labels[known].tolist()]
        return replace(self._only(known), labels=torch.tensor(labels, dtype=torch.int64))

    def within(self, first: int, end: int) -> Detections:
        """Those of the classes from ``first`` up to ``end``, which is out."""
        return self._only((self.labels >= first) & (self.labels < end))

    def _only(self, index: Tensor) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.labels[index])


def merged(parts: Sequence[Detections], most: int) -> Detections:
    """The best of several lists of detections on an image, at most ``most``, best first."""
    boxes, scores, labels = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels")
    )
    order = scores.argsort(descending=True, stable=True)[:most]
    return Detections(boxes[order], scores[order], labels[order])
