"""Stream: one competition for slots, of the rows of a store or of one class of it."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush

import numpy as np
from numpy.typing import NDArray

from ..loops import loops

_NONE = np.empty(0)


class Stream:
    """One competition: the rows of a store, or of one class of it.

    Attributes:
        label: of the class.
        order: in which streams appeared; decides between streams of equal size.
        count: rows held.
        mass: weight seen; for equal weights the number of rows.
        threshold: no row that was lost had a key above this.
        points: where on the weight axis the points drawn ahead lie, rising.
        heights: and how high.
        cursor: the first of them not used yet.
        next: where that one lies; -inf while none are drawn.
        known: whether it knows the rows held, by the order in which they go; to be made known by `hold`.
    """

    __slots__ = (
        "_rows",
        "count",
        "cursor",
        "heights",
        "known",
        "label",
        "mass",
        "next",
        "order",
        "points",
        "threshold",
    )

    _rows: list[tuple[float, int, int]]

    def __init__(self, label: int, order: int) -> None:
        self.label = label
        self.order = order
        self.count = 0
        self.mass = 0.0
        self.threshold = -math.inf
        self.forget()

    def look(self, points: NDArray[np.float64], heights: NDArray[np.float64]) -> None:
        """These are the points ahead."""
        self.points, self.heights, self.cursor = points, heights, 0
        self.next = float(points[0]) if len(points) else -math.inf

    def hold(self, heights: NDArray[np.float64], ids: NDArray[np.int64], slots: NDArray[np.int64]) -> None:
        """These are the rows held, with negated keys ``heights``."""
        self._rows = list(zip((-heights).tolist(), (-ids).tolist(), slots.tolist(), strict=True))
        heapify(self._rows)
        self.known = True

    def forget(self) -> None:
        """The rows held are not known any more."""
        self._rows = []
        self.known = False

    def worst(self) -> tuple[float, int, int]:
        """(-key, id, slot) of the row that goes first: the lowest key, of equal ones the newest."""
        key, age, slot = self._rows[0]
        return -key, -age, slot

    def pop(self) -> None:
        """The row that goes first is gone."""
        heappop(self._rows)

    def push(self, height: float, id: int, slot: int) -> None:
        """A row came."""
        heappush(self._rows, (-height, -id, slot))


def new_stream(label: int, order: int) -> Stream:
    """A `Stream`, compiled where there is a compiler."""
    stream: Stream = Stream(label, order) if loops is None else loops.Stream(label, order)
    stream.look(_NONE, _NONE)
    return stream
