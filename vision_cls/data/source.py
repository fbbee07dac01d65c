"""Data: where a run's images come from, as a choice that can be written down."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .image_set import ImageSet, Split


class Data(ABC):
    """Where a run's images come from, as a choice that can be written down."""

    @abstractmethod
    def load(self, split: Split) -> ImageSet:
        """The images of ``"train"`` or ``"test"``."""
