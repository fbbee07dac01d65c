"""Solved: a head solved for the rows of the memory and the new ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..batch import Batch, concat
from ..heads import LinearHead, LogisticRegression
from ..selection import ClassBalanced
from ..stores import Store
from ..stores.keeping import Reservoir


@dataclass
class Solved:
    """What an adapter does: the head is solved for the rows of the memory, the new ones and what is known of classes
    beforehand; once rows have left the memory, the head so far is the prior.

    Args:
        how: solves for the head.
        capacity: rows of the memory; None keeps all, which makes it joint training.
        per_class: rows of every class so far instead.
        use_named: whether what is known of the classes beforehand counts as a row of each.
        seed: of the memory.
    """

    how: LogisticRegression
    capacity: int | None = None
    per_class: int | None = None
    use_named: bool = True
    seed: int = 0
    head: LinearHead | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.memory = Store(self.capacity or 1_000_000, keep=ClassBalanced(Reservoir()), seed=self.seed)

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`."""
        held = concat([self.memory.rows().columns, rows]) if len(self.memory) else rows
        if self.use_named and named is not None:
            held = concat([held, {"feature": named, "label": torch.arange(classes)}])
        prior = self.memory.seen > len(self.memory)
        self.head = self.how.fit(held, classes, self.head, prior=prior)
        if self.per_class is not None:
            self.memory.resize(self.per_class * classes)
        self.memory.add(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return self.memory.nbytes
