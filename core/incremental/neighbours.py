"""Neighbours: a method whose predictions are interpolated with what the nearest rows of a memory say."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..batch import Batch
from ..memory_readout import MemoryReadout
from ..selection import ClassBalanced
from ..stores import Store
from ..stores.keeping import Reservoir
from .method import Head, Method


@dataclass
class Neighbours:
    """``p(c | x) = share * p_memory(c | x) + (1 - share) * p_method(c | x)``, see `MemoryReadout`; the memory keeps
    ``per_class`` rows of every class.

    Args:
        method: what is interpolated; its logits become probabilities by softmax.
        readout: how the memory speaks, and how much it counts.
        per_class: rows of every class that are kept, drawn at random.
        scale: of the method's logits before the softmax: cosines need one.
        seed: of the memory.
    """

    method: Method
    readout: MemoryReadout = MemoryReadout("nearest", share=0.5)  # noqa: RUF009 (immutable)
    per_class: int = 20
    scale: float = 1.0
    seed: int = 0
    head: Head | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.memory = Store(1, keep=ClassBalanced(Reservoir()), seed=self.seed)
        self.base: tuple[int, ...] = ()

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`."""
        self.base = self.base or tuple(range(classes))
        self.method.learn(rows, named, classes)
        self.memory.resize(self.per_class * classes)
        self.memory.add(rows)
        inner, held = self.method.head, self.memory.rows().columns
        assert inner is not None

        def head(feature: Tensor) -> Tensor:
            return self.readout.probabilities(feature, held, range(classes), self.base, lambda x: self.scale * inner(x))

        self.head = head

    @property
    def nbytes(self) -> int:
        """Bytes of the rows and of what the method keeps."""
        return self.memory.nbytes + self.method.nbytes
