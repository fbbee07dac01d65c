"""Streaming: a head that follows from class statistics in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..batch import Batch
from ..heads import LinearDiscriminant, LinearHead
from ..stores import GaussianStore


@dataclass
class Streaming:
    """A Gaussian per class with one covariance for all, and the head that follows from them; no row is stored.

    Args:
        how: see `LinearDiscriminant`.
    """

    how: LinearDiscriminant
    head: LinearHead | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.memory = GaussianStore(covariance="shared")

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`; what is known of the classes beforehand is not used."""
        self.memory.add(rows)
        # the memory has them in the order they came, which is that of their numbers
        self.head = self.how.fit(self.memory).of_classes(self.memory.classes.argsort())

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics."""
        return self.memory.nbytes
