"""LookAhead: who will win among rows of a stream that are still to come, where the random keys are drawn beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..loops import loops

_NEVER = 2**62


class Accepted(NamedTuple):
    """Rows of a batch that stay, the slots they take and their keys, in the same order; no slot twice.

    ``contiguous`` says that rows and slots are ranges that rise by one.
    """

    rows: NDArray[np.int64]
    slots: NDArray[np.int64]
    keys: NDArray[np.float64]
    contiguous: bool = False

    @staticmethod
    def joined(parts: Sequence[Accepted]) -> Accepted:
        """The rows of several parts, one after the other; a slot won twice goes to the later row."""
        rows, slots, keys = (np.concatenate(column) for column in list(zip(*parts, strict=True))[:3])
        last = np.unique(slots[::-1], return_index=True)[1]
        if len(last) < len(slots):
            stay = np.sort(len(slots) - 1 - last)
            rows, slots, keys = rows[stay], slots[stay], keys[stay]
        return Accepted(rows, slots, keys)


NOTHING = Accepted(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


class Reserve(NamedTuple):
    """The rows of a full store that go first: all with heights (negated keys) from ``bound`` up, the highest first and
    of equal ones the newest."""

    heights: NDArray[np.float64]
    slots: NDArray[np.int64]
    bound: float

    @staticmethod
    def of(heights: NDArray[np.float64], ids: NDArray[np.int64], n: int) -> Reserve:
        """At least ``n`` of the rows with the given heights and ids, one per slot, if there are as many."""
        few = max(256, n, len(heights) // 16)
        bound = -math.inf
        if len(heights) > few:
            some = heights[:: max(1, len(heights) // 1024)]  # tell where the bound lies, more or less
            spare = len(some) - 1 - few * len(some) * 5 // (4 * len(heights))
            bound = float(np.partition(some, spare)[spare]) if spare > 0 else -math.inf
        slots = np.flatnonzero(heights >= bound)
        if len(slots) < few < len(heights):
            bound = float(np.partition(heights, len(heights) - few)[len(heights) - few])
            slots = np.flatnonzero(heights >= bound)
        heights = heights[slots]
        order = (-heights).argsort()
        heights = heights[order]
        if (heights[1:] == heights[:-1]).any():  # only then does the age matter; this takes nine times as long
            order = np.lexsort((-ids[slots], -heights[order.argsort()]))
        return Reserve(heights, slots[order], bound)


class LookAhead:
    """What rows win and lose until the row ``stop``; positions are those in the stream.

    Args:
        stop: the first row of which nothing is known.
        rows: that will be kept, rising.
        slots: that they take.
        heights: their negated keys.
        gone: by which row each of them will be driven out in turn, or far beyond ``stop``; None if all stay.
        losing: rows at which one is lost, itself or another, rising.
        lost: its height.
    """

    def __init__(
        self,
        stop: int,
        rows: NDArray[np.int64],
        slots: NDArray[np.int64],
        heights: NDArray[np.float64],
        gone: NDArray[np.int64] | None = None,
        losing: NDArray[np.int64] = NOTHING.rows,
        lost: NDArray[np.float64] = NOTHING.keys,
    ) -> None:
        self.stop = stop
        self.winners = rows, slots, -heights, np.full(len(rows), _NEVER) if gone is None else gone
        self._losing = losing
        self._lost = np.minimum.accumulate(lost)

    def between(self, start: int, end: int) -> Accepted:
        """What the rows ``start .. end - 1`` win that still stands at the end; rows count from ``start``."""
        rows, slots, keys, gone = self.winners
        first, last = rows.searchsorted((start, end)).tolist()
        if first == last:
            return NOTHING
        stay = gone[first:last] >= end
        which = slice(first, last) if stay.all() else first + np.flatnonzero(stay)
        return Accepted(rows[which] - start, slots[which], keys[which])

    def lost_before(self, row: int) -> float:
        """The highest key lost by the rows before ``row``; -inf if none."""
        known = int(self._losing.searchsorted(row))
        return -float(self._lost[known - 1]) if known else -math.inf


def lowest_by_row(
    points: NDArray[np.float64], heights: NDArray[np.float64], bar: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Of points (rising) with heights, on the axis of the rows: the rows before that of the last point which have one
    below ``bar``, the lowest height of each; and that last row."""
    rows, lowest = np.empty(len(points), np.int64), np.empty(len(points))
    run = _lowest_by_row if loops is None else loops.lowest_by_row
    n = run(points, heights, bar, rows, lowest)
    return rows[:n], lowest[:n], int(points[-1])


def _lowest_by_row(
    points: NDArray[np.float64],
    heights: NDArray[np.float64],
    bar: float,
    rows: NDArray[np.int64],
    lowest: NDArray[np.float64],
) -> int:
    """`lowest_by_row` in Python: writes the rows and their heights, and returns how many they are."""
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


def contest(
    rows: NDArray[np.int64], heights: NDArray[np.float64], stop: int, reserve: Reserve
) -> tuple[LookAhead, Reserve]:
    """``rows`` come one after the other into a full store: each time the highest of its heights goes, and the new row
    takes that slot unless it is the highest itself.

    Args:
        rows: positions in the stream, rising.
        heights: of the rows.
        stop: the row after the last one considered.
        reserve: of the store, at least as many rows.

    Returns:
        What happens, and the reserve that is left.
    """
    n, m = len(rows), len(reserve.heights)
    own, gone, lost = np.empty(n, np.int64), np.full(n, _NEVER), np.empty(n)
    left, slots = np.empty(m), np.empty(m, np.int64)
    run = _contest if loops is None else loops.contest
    count = run(rows, heights, reserve.heights, reserve.slots, reserve.bound, own, gone, lost, left, slots)
    won = gone != rows
    ahead = LookAhead(stop, rows[won], own[won], heights[won], gone[won], rows, lost)
    return ahead, Reserve(left[:count], slots[:count], reserve.bound)


def _contest(
    rows: NDArray[np.int64],
    heights: NDArray[np.float64],
    high: NDArray[np.float64],
    high_slots: NDArray[np.int64],
    bound: float,
    own: NDArray[np.int64],
    gone: NDArray[np.int64],
    lost: NDArray[np.float64],
    left: NDArray[np.float64],
    left_slots: NDArray[np.int64],
) -> int:
    """The contest in Python: writes who takes which slot (``own``), which row drives it out (``gone``, where it goes),
    the height lost at each row, and the reserve that is left; returns how many that are."""
    competing: list[tuple[float, int]] = []  # new rows, the next to go first
    first = 0
    for i, (row, height) in enumerate(zip(rows.tolist(), heights.tolist(), strict=True)):
        if height >= bound:
            heappush(competing, (-height, -i))
        if competing and (first == len(high) or -competing[0][0] >= high[first]):
            least, other = heappop(competing)
            own[i] = -1 if other == -i else own[-other]
            gone[-other] = row
            lost[i] = -least
        else:
            own[i], lost[i] = high_slots[first], high[first]
            first += 1
    heights_left = np.array([-height for height, _ in sorted(competing)])
    slots_left = [own[-other] for _, other in sorted(competing)]
    at = np.searchsorted(-high[first:], -heights_left)
    count = len(high) - first + len(competing)
    left[:count] = np.insert(high[first:], at, heights_left)
    left_slots[:count] = np.insert(high_slots[first:], at, slots_left)
    return count
