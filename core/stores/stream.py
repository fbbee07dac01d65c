"""Stream: one competition for slots, of the rows of a store or of one class of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..loops import loops
from .look_ahead import NOTHING


class Stream:
    """One competition: the rows of a store, or of one class of it."""

    __slots__ = (
        "_ahead",
        "bound",
        "count",
        "cursor",
        "heights",
        "label",
        "mass",
        "next",
        "order",
        "points",
        "pool",
        "threshold",
    )

    def __init__(self, label: int, order: int) -> None:
        self.label = label
        self.order = order  # in which streams appeared; decides between streams of equal size
        self.count = 0  # rows held
        self.mass = 0.0  # weight seen; for equal weights the number of rows
        self.threshold = -math.inf  # no row that was lost had a key above this
        self.points = NOTHING.keys  # where on the weight axis the points drawn ahead lie, rising
        self.heights = NOTHING.keys  # and how high
        self._ahead: list[tuple[float, float]] | None = None
        self.cursor = 0  # the first of them not used yet
        self.next = -math.inf  # where that one lies; -inf while none are drawn
        self.pool: list[tuple[float, int, int]] = []  # (-key, id, slot) of rows to go, the next to go last
        self.bound = math.inf  # rows whose -key is at or above this are all in the pool

    def look(self, points: NDArray[np.float64], heights: NDArray[np.float64]) -> None:
        """These are the points ahead."""
        self.points, self.heights, self.cursor = points, heights, 0
        self._ahead = None
        self.next = float(points[0]) if len(points) else -math.inf

    @property
    def ahead(self) -> list[tuple[float, float]]:
        """The points ahead and their heights, as numbers."""
        if self._ahead is None:
            self._ahead = list(zip(self.points.tolist(), self.heights.tolist(), strict=True))
        return self._ahead

    def lowest_by_row(self) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
        """Rows before that of the last point which have a point below the bar, the lowest height of each; and that last
        row."""
        rows, heights = np.empty(len(self.points), np.int64), np.empty(len(self.points))
        lowest = _lowest_by_row if loops is None else loops.lowest_by_row
        n = lowest(self.points, self.heights, -self.threshold, rows, heights)
        return rows[:n], heights[:n], int(self.points[-1])


def _lowest_by_row(
    points: NDArray[np.float64],
    heights: NDArray[np.float64],
    bar: float,
    rows: NDArray[np.int64],
    lowest: NDArray[np.float64],
) -> int:
    """`Stream.lowest_by_row` in Python: writes the rows and their heights, and returns how many they are."""
    at = points.astype(np.int64)
    at = at[: at.searchsorted(at[-1])]
    first = np.flatnonzero(np.diff(at, prepend=-1))
    if not len(first):
        return 0
    low = np.minimum.reduceat(heights[: len(at)], first)
    below = low < bar
    n = int(below.sum())
    rows[:n], lowest[:n] = at[first[below]], low[below]
    return n


class Contenders(NamedTuple):
    """Rows of a batch that may win.

    Attributes:
        ends: where the rows of the batch end on the axes of their streams, by label.
        found: row, label and where the row ends on the axis of its stream, in the order of the rows.
    """

    ends: dict[int, float]
    found: list[tuple[int, int, float]]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The rows, rising."""
        return np.array([row for row, _, _ in self.found], np.int64)
