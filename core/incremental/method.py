"""Method: a way to learn, on vectors, classes that arrive in sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor

from ..batch import Batch

Head: TypeAlias = Callable[[Tensor], Tensor]
"""From vectors (B, D) to a number per class (B, C), the highest for the class that is meant."""


class Method(Protocol):
    """A way to learn classes in sessions.

    A method learns the rows of a session and never sees them again but through its memory. Labels count up: the classes
    of a session come after those before it.
    """

    @property
    def head(self) -> Head | None:
        """From vectors to the logits of the classes so far; None before the first session."""
        ...

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """Learns a session.

        Args:
            rows: ``feature`` (N, D) and ``label`` int64 (N,).
            named: one vector per class so far that is known beforehand, such as that of its name, (classes, D); None
                where there is no such thing.
            classes: how many there are so far.
        """
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        ...
