"""Parts: what images of a recipe are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .data import DetectionData, DetectionSet


@dataclass(frozen=True)
class Parts:
    """Images with boxes of all classes, by what they are for.

    Attributes:
        learned: ``train`` and ``validation``; published lists name images of both.
        train: to learn from,
        validation: to choose learning rates on,
        test: and to be judged on.
    """

    learned: DetectionSet
    train: DetectionSet
    validation: DetectionSet
    test: DetectionSet

    @staticmethod
    def load(learned: DetectionData, test: DetectionData, validation: int, images: int | None = None) -> Parts:
        """Reads two data sets, and keeps images of the first apart.

        Args:
            validation: how many; a quarter at most.
            images: of each of the sets, at most; None: all.
        """
        loaded = (data.load() for data in (learned, test))
        every, judged = (part if images is None else part.first(images) for part in loaded)
        apart, train = every.split(min(validation, len(every) // 4))
        return Parts(every, train, apart, judged)

    def of(self, classes: Sequence[str]) -> Parts:
        """The same images with boxes of these classes alone."""
        sets = (self.learned, self.train, self.validation, self.test)
        return Parts(*(part.of(classes, empty=True) for part in sets))
