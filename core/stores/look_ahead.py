"""LookAhead: who will win among rows of a stream that are still to come, where the random keys are drawn beforehand."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        slots = np.arange(len(heights))
        bound = -math.inf
        spare = len(heights) - max(256, n, len(heights) // 8)
        if spare > 0:
            bound = float(np.partition(heights, spare)[spare])
            slots = np.flatnonzero(heights >= bound)
        order = np.lexsort((-ids[slots], -heights[slots]))
        return Reserve(heights[slots][order], slots[order], bound)


class LookAhead:
    """What rows win and lose until the row ``stop``; positions are those in the stream.

    Args:
        stop: the first row of which nothing is known.
        rows: that will be kept, rising.
        slots: that they take.
        heights: their negated keys.
        gone: by which row each of them will be driven out in turn, or far beyond ``stop``.
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
        losing: Sequence[int] = (),
        lost: NDArray[np.float64] = NOTHING.keys,
    ) -> None:
        self.stop = stop
        self._rows: list[int] = rows.tolist()
        self._places, self._slots, self._keys = rows, slots, -heights
        self._gone = gone
        self._departures: list[int] = [] if gone is None else np.sort(gone[gone < _NEVER]).tolist()
        self._losing = losing
        self._lost = np.minimum.accumulate(lost)

    def between(self, start: int, end: int) -> Accepted:
        """What the rows ``start .. end - 1`` win that still stands at the end; rows count from ``start``."""
        first = bisect_left(self._rows, start)
        last = bisect_left(self._rows, end, first)
        if first == last:
            return NOTHING
        rows, slots, keys = self._places[first:last] - start, self._slots[first:last], self._keys[first:last]
        departures = self._departures
        if departures and bisect_left(departures, start) < bisect_left(departures, end):
            assert self._gone is not None
            stay = self._gone[first:last] >= end
            return Accepted(rows[stay], slots[stay], keys[stay])
        return Accepted(rows, slots, keys)

    def lost_before(self, row: int) -> float:
        """The highest key lost by the rows before ``row``; -inf if none."""
        known = bisect_left(self._losing, row)
        return -float(self._lost[known - 1]) if known else -math.inf


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
    n = len(rows)
    # The rows leave in the order of this list; a new one that is high enough is put in where it belongs.
    leaving: list[float] = (-reserve.heights).tolist()
    source = list(range(len(leaving)))  # a place in the reserve, or -1 - i for the i-th new row
    for i in np.flatnonzero(heights >= reserve.bound).tolist():
        height = -float(heights[i])
        place = bisect_left(leaving, height, i)
        leaving.insert(place, height)
        source.insert(place, -1 - i)
    origin = np.array(source)
    new = origin < 0
    slots = reserve.slots[np.where(new, 0, origin)]
    own = slots[:n]  # the slot that a new row takes
    gone = np.full(n, _NEVER)
    for i in np.flatnonzero(new).tolist():
        other = -1 - source[i]
        if i < n:
            gone[other] = rows[i]
        if other != i:
            slots[i] = own[other]
    won = gone != rows
    lost = -np.array(leaving)
    ahead = LookAhead(stop, rows[won], own[won], heights[won], gone[won], rows.tolist(), lost[:n])
    return ahead, Reserve(lost[n:], slots[n:], reserve.bound)
