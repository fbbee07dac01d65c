"""Admission: which rows of a stream stay when every row has a key and the highest keys win.

The books of a keyed store. Each *stream* (the whole store, or one class of a balanced store) keeps its rows with the
highest keys. What was lost is known by one number, the stream's *threshold*: no lost row has a key above it. It never
falls, so slots that are freed later are refilled only with keys above it, and the rows held stay what they were: the
rows of the stream whose keys exceed the threshold.

Where keys are ``-Exp(1) / weight`` (`Reservoir`, `WeightedReservoir`), no key is drawn for rows that would lose. A
unit Poisson process over (weight seen so far) x (height) has the same law: the key of a row is minus the lowest height
above its stretch of weight. Only points lower than ``-threshold`` matter, and those are drawn ahead in blocks; rows
between two points cost one comparison. This is the exponential jump of Efraimidis & Spirakis (A-ExpJ, Information
Processing Letters 97, 2006) and, for equal weights, that of Li (Algorithm L, ACM TOMS 20, 1994), drawn many at a time.
In a single stream of equal weights the competition among the rows of a block is settled as soon as the block is drawn
(`LookAhead`), so that a batch costs little more than writing what stays. Everything happens in stream order, so the
result does not depend on how the stream was cut into batches.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..loops import loops
from .columns import Storage
from .look_ahead import NOTHING, Accepted, LookAhead, Reserve, contest
from .table import OpenBatch
from .uniforms import Uniforms


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


class Admission:
    """Ids, keys and ranks of the rows that a store holds, and the competition for its slots.

    The rows held occupy the slots ``0 .. size - 1``.

    Args:
        capacity: rows the store can hold.
        generator: for the keys.
        grouped: whether every label has a stream of its own.
    """

    def __init__(self, capacity: int, generator: torch.Generator, grouped: bool) -> None:
        self.capacity = capacity
        self.grouped = grouped
        self.uniforms = Uniforms(generator)
        self.size = 0
        self.seen = 0
        self.ids = np.empty(capacity, np.int64)
        self.keys = np.empty(capacity, np.float64)
        self.ranks = np.full(capacity, -1)
        self.labels = np.empty(capacity if grouped else 0, np.int64)
        self._ranked = False
        self.streams: dict[int, Stream] = {}
        if not grouped:
            self._stream(0)
        self._foreseen: LookAhead | None = None
        self._intake: Any = None  # takes in what is foreseen, where that is compiled
        self._reserve: Reserve | None = None
        self._sizes: list[tuple[int, int, int]] = []  # heap of (-count, order, label); stale entries are skipped
        self._slots: list[int] = []  # what the rows of the batch at hand have won, not yet in the books
        self._rows: list[int] = []
        self._heights: list[float] = []
        self._labels: list[int] = []
        self._accepted: dict[int, int] = {}  # slot: row, of the batch at hand
        self._sink: tuple[bytes, NDArray[np.int64]] | None = None  # where its rows go at once, if so
        self._sunk = 0  # how many did

    def foreseen(self, n: int) -> Accepted | None:
        """What the next ``n`` rows, of equal weight, will win, if that is known already."""
        ahead = self._foreseen
        if ahead is None:
            return None
        start = int(self.streams[0].mass)
        return ahead.between(start, start + n) if start + n <= ahead.stop else None

    def copy_in(self, batch: Mapping[str, Any], columns: Mapping[str, Storage]) -> tuple[Tensor, int, int] | None:
        """`take_in` of what is `foreseen` for a batch, together with copying its rows into the columns.

        Returns:
            The slot of each row, or -1, how many there were and how many were taken; None if nothing was done, be it
            that a number is not finite.
        """
        if self._intake is None:
            return None if loops is None else self._copy_fill(loops.open_batch(batch, columns))
        stream = self.streams[0]
        done: tuple[Tensor, int, int] | None = self._intake.add(batch, columns, stream.mass, self.seen)
        if done is None:
            return self._copy_beyond(loops.open_batch(batch, columns))
        stream.mass += done[1]
        self.seen += done[1]
        return done

    def _copy_fill(
        self, batch: OpenBatch | None, labels: Sequence[int] | NDArray[np.int64] | None = None
    ) -> tuple[Tensor, int, int] | None:
        """`copy_in` while there is room for all."""
        if batch is None or not batch[0] or not self._fits(batch[0]) or not loops.fill(batch[0], self.size, batch[1]):
            return None
        accepted = self._fill(batch[0], labels)
        return torch.from_numpy(accepted.slots), batch[0], batch[0]

    def _copy_beyond(self, batch: OpenBatch | None) -> tuple[Tensor, int, int] | None:
        """`copy_in` of a batch that ends beyond what is foreseen."""
        stream = self.streams[0]
        if batch is None or stream.mass + batch[0] <= self._foreseen.stop:
            return None
        n, lanes = batch
        if not loops.finite(np.arange(n), lanes):
            return None
        slots = np.empty(n, np.int64)
        slots.fill(-1)  # np.full takes several times as long
        done = taken = 0
        while done < n:
            ahead = self._ahead(stream)
            step = min(n - done, ahead.stop - int(stream.mass))
            taken += self._intake.take(lanes, done, step, stream.mass, self.seen, slots)
            stream.mass += step
            self.seen += step
            done += step
        return torch.from_numpy(slots), n, taken

    def copy_in_labelled(
        self, batch: OpenBatch, labels: Sequence[int] | NDArray[np.int64]
    ) -> tuple[Tensor, int, int] | None:
        """`copy_in` for rows that compete in the streams of their labels."""
        n, lanes = batch
        if self._fits(n):
            return self._copy_fill(batch, labels)
        if loops is None:
            return None
        known = loops.contenders(labels, self.streams, lanes)
        if known is None:
            return None
        slots = np.empty(n, np.int64)
        slots.fill(-1)  # np.full takes several times as long
        self._sink = lanes, slots
        self._offer_labelled(Contenders(*known))
        self._write()
        self._sink = None
        self.seen += n
        taken, self._sunk = self._sunk, 0
        return torch.from_numpy(slots), n, taken

    def take_in(self, accepted: Accepted, n: int) -> None:
        """Enters what the next ``n`` rows win, as `foreseen`."""
        self._take(accepted)
        self.streams[0].mass += n
        self.seen += n

    def _take(self, accepted: Accepted) -> None:
        slots = accepted.slots
        if len(slots):
            self.ids[slots] = accepted.rows + self.seen
            self.keys[slots] = accepted.keys
            if self._ranked:
                self.ranks[slots] = -1
            if self.size < self.capacity:
                self.size = max(self.size, int(slots.max()) + 1)
                self.streams[0].count = self.size

    def offer(
        self,
        n: int,
        labels: Sequence[int] | None = None,
        weights: NDArray[np.float64] | None = None,
        keys: NDArray[np.float64] | None = None,
        contenders: Contenders | None = None,
    ) -> Accepted:
        """The next ``n`` rows of the stream compete, and what they win is entered in the books.

        Args:
            labels: the stream of each row, when grouped.
            weights: of each row, not negative; equal if None. A row without weight is never kept.
            keys: of each row, (n,); None draws them by jumps.
            contenders: of these labels, if they are known already.
        """
        if keys is None and weights is None and (labels is None or self._fits(n)):
            return self._offer_equal(n) if labels is None else self._fill(n, labels)
        if keys is not None and labels is None:
            return self._offer_keys(keys)
        if keys is not None and labels is not None:
            for row, (label, key) in enumerate(zip(labels, keys.tolist(), strict=True)):
                self._enter(self._stream(label), row, -key)
        elif weights is not None:
            self._offer_weighted([0] * n if labels is None else labels, weights)
        elif labels is not None:
            self._offer_labelled(contenders or self.contenders(labels))
        self._write()
        if not self._accepted:
            self.seen += n
            return NOTHING
        n_accepted = len(self._accepted)
        slots = np.fromiter(self._accepted, np.int64, n_accepted)
        rows = np.fromiter(self._accepted.values(), np.int64, n_accepted)
        self._accepted = {}
        self.seen += n
        return Accepted(rows, slots, self.keys[slots])

    def _offer_keys(self, keys: NDArray[np.float64]) -> Accepted:
        """Rows with keys of their own in one stream."""
        stream, n = self.streams[0], len(keys)
        spare = self.capacity - self.size
        bar = stream.threshold if spare else max(stream.threshold, -float(self._leaving(1).heights[0]))
        rows = np.flatnonzero(keys > bar)
        parts = []
        if spare:
            filled = rows[:spare]
            parts.append(Accepted(filled, np.arange(self.size, self.size + len(filled)), keys[filled]))
            self._take(parts[0])
            self._reserve = None
        rest = rows[spare:]
        if len(rest):
            ahead, self._reserve = contest(rest, -keys[rest], n, self._leaving(len(rest)))
            parts.append(ahead.between(0, n))
            self._take(parts[-1])
            stream.threshold = max(stream.threshold, ahead.lost_before(n))
        if len(rows) < n:
            stream.threshold = max(stream.threshold, float(keys[keys <= bar].max()))
        self.seen += n
        return Accepted.joined(parts) if len(parts) > 1 else (*parts, NOTHING)[0]

    def _offer_equal(self, n: int) -> Accepted:
        """Rows of equal weight in one stream."""
        stream = self.streams[0]
        parts = []
        done = 0
        if stream.threshold == -math.inf and (done := min(self.capacity - self.size, n)):
            parts.append(self._fill(done))
        while done < n:
            ahead = self._ahead(stream)
            step = min(n - done, ahead.stop - int(stream.mass))
            part = ahead.between(int(stream.mass), int(stream.mass) + step)
            self.take_in(part, step)
            parts.append(part._replace(rows=part.rows + done))
            done += step
        return parts[0] if len(parts) == 1 else Accepted.joined(parts)

    def _ahead(self, stream: Stream) -> LookAhead:
        """What is foreseen, of the next row at least."""
        if self._foreseen is None or stream.mass >= self._foreseen.stop:
            self._foreseen = self._look_ahead(stream)
            if loops is not None and self.size == self.capacity:
                books = self.ids, self.keys, self.ranks
                self._intake = loops.Intake(self._foreseen.winners, books, self._foreseen.stop)
        return self._foreseen

    def _fits(self, n: int) -> bool:
        """Whether there is room for ``n`` more rows and nothing was ever lost."""
        return self.size + n <= self.capacity and all(s.threshold == -math.inf for s in self.streams.values())

    def _fill(self, n: int, labels: Sequence[int] | None = None) -> Accepted:
        """The next ``n`` rows into free slots: nothing was ever lost, so every row has its own key."""
        slots = slice(self.size, self.size + n)
        self.keys[slots] = np.log1p(-self.uniforms.take(n))
        self.ids[slots] = np.arange(self.seen, self.seen + n)
        self.size += n
        self.seen += n
        counts = {0: n}
        if labels is not None:
            self.labels[slots] = labels
            counts = Counter(labels)
        for label, count in counts.items():
            stream = self._stream(label)
            stream.mass += count
            self._count(stream, count)
        return Accepted(np.arange(n), np.arange(slots.start, slots.stop), self.keys[slots], contiguous=True)

    def _look_ahead(self, stream: Stream) -> LookAhead:
        """Who wins among the rows up to the last point drawn, whose own row may have more points to come."""
        self._catch_up(stream)
        spare = self.capacity - self.size
        while not len(stream.points) or int(stream.points[0]) == int(stream.points[-1]):
            if not spare:
                stream.threshold = max(stream.threshold, -self._leaving(1).heights[0])
            self._draw_points(stream)
        rows, heights, stop = stream.lowest_by_row()
        if not spare:
            ahead, self._reserve = contest(rows, heights, stop, self._leaving(len(rows)))
            return ahead
        if spare < len(rows):  # what comes when the store is full is seen then
            stop = int(rows[spare])
        return LookAhead(stop, rows[:spare], self.size + np.arange(len(rows[:spare])), heights[:spare])

    def _leaving(self, n: int) -> Reserve:
        """The rows that go first, at least ``n`` if there are as many; of a single stream."""
        if self._reserve is None or len(self._reserve.slots) < n:
            self._reserve = Reserve.of(-self.keys[: self.size], self.ids[: self.size], n)
        return self._reserve

    def _catch_up(self, stream: Stream) -> None:
        """Brings the threshold and the points ahead to where the stream is."""
        if self._foreseen is not None:
            stream.threshold = max(stream.threshold, self._foreseen.lost_before(int(stream.mass)))
            used = int(stream.points.searchsorted(stream.mass))
            stream.look(stream.points[used:], stream.heights[used:])

    def settle(self) -> None:
        """Forgets what was foreseen; to be called before anything but `offer` changes who is there."""
        if self._foreseen is not None:
            self._catch_up(self.streams[0])
        self._foreseen = self._intake = self._reserve = None

    def _offer_labelled(self, contenders: Contenders) -> None:
        """Rows of equal weight, each in the stream of its label."""
        streams, at = self.streams, 0
        while at < len(contenders.found):
            if loops is not None and self.size == self.capacity:
                won = self._slots, self._rows, self._heights, self._labels
                at = loops.compete(contenders.found, at, streams, self._sizes, self.seen, won)
                if at == len(contenders.found):
                    break
            row, label, end = contenders.found[at]
            stream = streams.get(label)
            if stream is None or stream.next == -math.inf:
                self._meet(self._stream(label), row, end, 1.0)
            elif stream.next < end:
                self._enter(stream, row, self._lowest(stream, end))
            at += 1
        for label, end in contenders.ends.items():
            self.streams[label].mass = end

    def contenders(self, labels: Sequence[int]) -> Contenders:
        """Which of the next rows, of equal weight, may be kept in the streams of their labels. Nothing changes."""
        if loops is not None:
            return Contenders(*loops.contenders(labels, self.streams))
        ends: dict[int, float] = {}
        found: list[tuple[int, int, float]] = []
        for label, n in Counter(labels).items():
            stream = self.streams.get(label)
            start = 0.0 if stream is None else stream.mass
            ends[label] = start + n
            own: Iterable[int] = range(n)
            if stream is not None and stream.next > -math.inf:
                if stream.next >= start + n:
                    continue
                # rows with a point above them, and those beyond the last point
                points = stream.points[stream.cursor : int(stream.points.searchsorted(start + n))]
                own = set((points - start).astype(np.int64).tolist())
                if stream.points[-1] < start + n:
                    own.update(range(int(stream.points[-1] - start), n))
            at = -1
            for i in range(max(own) + 1):
                at = labels.index(label, at + 1)
                if i in own:
                    found.append((at, label, start + i + 1.0))
        found.sort()
        return Contenders(ends, found)

    def _offer_weighted(self, labels: Sequence[int], weights: NDArray[np.float64]) -> None:
        """Rows of differing weight."""
        for row, (label, weight) in enumerate(zip(labels, weights.tolist(), strict=True)):
            stream = self._stream(label)
            end = stream.mass + weight
            if weight:
                self._meet(stream, row, end, weight)
            stream.mass = end

    def _meet(self, stream: Stream, row: int, end: float, weight: float) -> None:
        """Row ``row``, which ends at ``end`` on the weight axis, meets the points above it."""
        if stream.next >= end:
            return
        if stream.threshold == -math.inf:
            # the logarithm of an array: that of a number differs from it in the last bit on some processors
            self._enter(stream, row, -float(np.log1p(-self.uniforms.take(1))[0]) / weight)
            return
        if stream.next == -math.inf:
            if not len(stream.points):
                stream.mass = end - weight
            self._lower_bar(stream)
        if stream.next < end:
            self._enter(stream, row, self._lowest(stream, end))

    def _lower_bar(self, stream: Stream) -> None:
        """Draws the next block of points, below the worst row of the stream if that is the one to go."""
        if self.size == self.capacity and self._giver(stream) is stream:
            stream.threshold = max(stream.threshold, -self._worst(stream)[0])
        self._draw_points(stream)

    def _draw_points(self, stream: Stream) -> None:
        """The next block of points below the bar; blocks are short where the bar moves fast."""
        limit = -stream.threshold
        n = max(64, min(stream.count // 8, 4096))
        uniforms = self.uniforms.take(2 * n)
        gaps = -np.log1p(-uniforms[:n]) / limit
        gaps[0] += stream.points[-1] if len(stream.points) else stream.mass
        points, heights = gaps.cumsum(), limit * uniforms[n:]
        if stream.cursor < len(stream.points):
            points = np.concatenate([stream.points[stream.cursor :], points])
            heights = np.concatenate([stream.heights[stream.cursor :], heights])
        stream.look(points, heights)

    def _lowest(self, stream: Stream, end: float) -> float:
        """The lowest height among the points before ``end``, which are used up; there is at least one."""
        lowest = math.inf
        ahead = stream.ahead
        while stream.next < end:
            lowest = min(lowest, ahead[stream.cursor][1])
            stream.cursor += 1
            if stream.cursor == len(ahead):
                self._lower_bar(stream)
                ahead = stream.ahead
            else:
                stream.next = ahead[stream.cursor][0]
        return lowest

    def _stream(self, label: int) -> Stream:
        stream = self.streams.get(label)
        if stream is None:
            last = next(reversed(self.streams.values()), None)
            stream = self.streams[label] = Stream(label, 0 if last is None else last.order + 1)
        return stream

    def _enter(self, stream: Stream, row: int, height: float) -> None:
        """Row ``row`` of the batch, whose key is ``-height``, contests a slot."""
        if -height <= stream.threshold:
            return
        if self.size < self.capacity:
            slot = self.size
            self.size += 1
            self._count(stream, 1)
        else:
            giver = self._giver(stream) if self.grouped else stream
            worst, _, slot = giver.pool[-1] if giver.pool else self._worst(giver)
            if giver is stream:
                if height >= worst:
                    stream.threshold = -height
                    return
            else:
                self._count(giver, -1)
                self._count(stream, 1)
            giver.pool.pop()
            giver.threshold = max(giver.threshold, -worst)
        self._slots.append(slot)
        self._rows.append(row)
        self._heights.append(height)
        if self.grouped:
            self._labels.append(stream.label)
        if height >= stream.bound:
            insort(stream.pool, (height, self.seen + row, slot))

    def _giver(self, stream: Stream) -> Stream:
        """Who makes room when the store is full: the largest stream, or ``stream`` if it is as large but for one row.

        So a stream that has lost rows never grows again at the cost of others, which would favour its newest rows.
        """
        if not self.grouped:
            return stream
        while True:
            count, _, label = self._sizes[0]
            largest = self.streams.get(label)
            if largest is not None and largest.count == -count:
                return stream if stream.count >= max(1, largest.count - 1) else largest
            heapq.heappop(self._sizes)

    def _worst(self, stream: Stream) -> tuple[float, int, int]:
        """(-key, id, slot) of the row of ``stream`` that goes first: the lowest key, of equal ones the newest."""
        return stream.pool[-1] if stream.pool else self._worst_of(stream, 1)[-1]

    def _worst_of(self, stream: Stream, n: int) -> list[tuple[float, int, int]]:
        """The pool of ``stream``, made anew if it has fewer than ``n`` rows; those to go first come last."""
        if len(stream.pool) < n and (not stream.pool or stream.bound > -math.inf):
            self._write()
            slots = np.flatnonzero(self.labels[: self.size] == stream.label) if self.grouped else np.arange(self.size)
            heights = -self.keys[slots]
            stream.bound = -math.inf
            spare = len(slots) - max(512, n, len(slots) // 8)
            if spare > 0:
                stream.bound = float(np.partition(heights, spare)[spare])
                near = heights >= stream.bound
                slots, heights = slots[near], heights[near]
            ids = self.ids[slots]
            order = np.lexsort((ids, heights))
            columns = (heights[order].tolist(), ids[order].tolist(), slots[order].tolist())
            stream.pool = list(zip(*columns, strict=True))
        return stream.pool

    def _count(self, stream: Stream, change: int) -> None:
        stream.count += change
        if self.grouped:
            heapq.heappush(self._sizes, (-stream.count, stream.order, stream.label))
            if len(self._sizes) > 64 + 4 * len(self.streams):
                self._sizes = [(-s.count, s.order, s.label) for s in self.streams.values()]
                heapq.heapify(self._sizes)

    def _write(self) -> None:
        """Enters in the books what was won; a slot won twice goes to the later row."""
        if not self._slots:
            return
        if self._sink is not None and loops is not None:
            won = self._slots, self._rows, self._heights, self._labels
            loops.enter(*won, self.seen, self.ids, self.keys, self.ranks, self.labels, *self._sink)
            self._sunk += len(self._slots)
            self._slots, self._rows, self._heights, self._labels = [], [], [], []
            return
        if len(self._slots) <= 8:  # numbers one by one are quicker than arrays of a few
            for i, slot in enumerate(self._slots):
                self.ids[slot] = self._rows[i] + self.seen
                self.keys[slot] = -self._heights[i]
                self.ranks[slot] = -1
                if self.grouped:
                    self.labels[slot] = self._labels[i]
        else:
            slots = np.array(self._slots)
            self.ids[slots] = np.array(self._rows) + self.seen
            self.keys[slots] = -np.array(self._heights)
            self.ranks[slots] = -1
            if self.grouped:
                self.labels[slots] = self._labels
        self._accepted.update(zip(self._slots, self._rows, strict=True))
        self._slots, self._rows, self._heights, self._labels = [], [], [], []

    # -- everything else that changes who is there ----------------------------------------------------------------

    def place(
        self, slots: Sequence[int] | NDArray[np.int64], ids: NDArray[np.int64], keys: NDArray[np.float64]
    ) -> None:
        """Enters rows in ``slots`` without competition; slots beyond ``size`` must follow it without a gap."""
        self.settle()
        if len(slots):
            self.size = max(self.size, int(np.max(slots)) + 1)
        self.ids[slots] = ids
        self.keys[slots] = keys
        self.ranks[slots] = -1

    def admit(self, accepted: Accepted, n: int) -> None:
        """Enters what ``n`` rows have won without a competition of keys, in a store without classes."""
        if len(accepted.rows):
            self.place(accepted.slots, accepted.rows + self.seen, accepted.keys)
            self.streams[0].count = self.size
        self.seen += n

    def rerank(self, slots: NDArray[np.int64], ranks: NDArray[np.int64]) -> None:
        """Rows get the order in which they were chosen."""
        self.ranks[slots] = ranks
        self._ranked = True

    def evict(self, n: int) -> NDArray[np.int64]:
        """Slots of the ``n`` rows that the competition would give up first; for `remove`."""
        self.settle()
        order = np.lexsort((self.ids[: self.size], -self.keys[: self.size]))  # those to go first come last
        labels = self.labels[order] if self.grouped else np.zeros(self.size, np.int64)
        members = {label: order[labels == label].tolist() for label in self.streams}
        sizes = [(-len(members[stream.label]), stream.order, stream.label) for stream in self.streams.values()]
        heapq.heapify(sizes)
        slots = []
        for _ in range(n):
            count, age, label = sizes[0]
            slots.append(members[label].pop())
            heapq.heapreplace(sizes, (count + 1, age, label))
            stream = self.streams[label]
            stream.threshold = max(stream.threshold, float(self.keys[slots[-1]]))
        return np.array(slots, np.int64)

    def remove(self, slots: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Takes distinct ``slots`` out of the books; the last rows move into the holes.

        Returns:
            Where rows moved from, and to.
        """
        self.settle()
        size = self.size - len(slots)
        gone = np.zeros(self.size, bool)
        gone[slots] = True
        target = np.flatnonzero(gone[:size])
        source = size + np.flatnonzero(~gone[size:])
        for column in (self.ids, self.keys, self.ranks, *([self.labels] if self.grouped else [])):
            column[target] = column[source]
            column[size : self.size] = -1 if column is self.ranks else 0
        self.size = size
        self.recount()
        return source, target

    def recount(self, labels: NDArray[np.int64] | None = None) -> None:
        """Streams take stock of the rows held, after rows were removed or given the labels (size,)."""
        self.settle()
        if labels is not None:
            self.labels[: self.size] = labels
        counts = {0: self.size}
        if self.grouped:
            values, numbers = np.unique(self.labels[: self.size], return_counts=True)
            counts = dict(zip(values.tolist(), numbers.tolist(), strict=True))
        for label in counts:
            self._stream(label)
        self._sizes = []
        for stream in self.streams.values():
            stream.pool, stream.bound, stream.count = [], math.inf, 0
            self._count(stream, counts.get(stream.label, 0))

    def drop(self, labels: Iterable[int]) -> None:
        """Forgets the streams of ``labels``, of which no row is held."""
        for label in labels:
            self.streams.pop(label, None)
        self._sizes = [(-stream.count, stream.order, stream.label) for stream in self.streams.values()]
        heapq.heapify(self._sizes)

    def join(self, other: Admission, later: float = 0.0) -> None:
        """What was lost elsewhere counts as lost here too, with keys higher by ``later``, and what was seen as seen."""
        self.settle()
        other.settle()
        for stream in other.streams.values():
            own = self._stream(stream.label)
            own.threshold = max(own.threshold, stream.threshold + later)
            own.mass += stream.mass
            # points ahead say nothing of the past: they can be drawn anew for the new bar
            own.look(NOTHING.keys, NOTHING.keys)
        self.seen += other.seen

    def below_threshold(self) -> NDArray[np.int64]:
        """Slots of rows whose stream has lost higher keys elsewhere, so that they cannot stay either."""
        bars = {label: stream.threshold for label, stream in self.streams.items()}
        labels = self.labels[: self.size].tolist() if self.grouped else [0] * self.size
        return np.flatnonzero(self.keys[: self.size] < np.array([bars[label] for label in labels]))

    def resize(self, capacity: int) -> None:
        """Room for ``capacity`` rows, at least as many as are held."""
        self.settle()
        for name in ("ids", "keys", "ranks", *(["labels"] if self.grouped else [])):
            old = getattr(self, name)
            new = np.full(capacity, -1, old.dtype)
            new[: self.size] = old[: self.size]
            setattr(self, name, new)
        self.capacity = capacity

    def state(self) -> dict[str, Tensor]:
        """Everything that the future depends on, as tensors."""
        self.settle()
        streams = list(self.streams.values())
        ahead = [(NOTHING.keys, NOTHING.keys), *((s.points[s.cursor :], s.heights[s.cursor :]) for s in streams)]
        now, before, at = self.uniforms.state()
        return {
            "id": torch.from_numpy(self.ids[: self.size].copy()),
            "key": torch.from_numpy(self.keys[: self.size].copy()),
            "rank": torch.from_numpy(self.ranks[: self.size].copy()),
            "stream.label": torch.tensor([s.label for s in streams], dtype=torch.int64),
            "stream.mass": torch.tensor([s.mass for s in streams], dtype=torch.float64),
            "stream.threshold": torch.tensor([s.threshold for s in streams], dtype=torch.float64),
            "stream.ahead": torch.tensor([len(points) for points, _ in ahead[1:]], dtype=torch.int64),
            "ahead.point": torch.cat([torch.from_numpy(points) for points, _ in ahead]),
            "ahead.height": torch.cat([torch.from_numpy(heights) for _, heights in ahead]),
            "generator": now,
            "generator.block": before,
            "seen": torch.tensor([self.seen, at], dtype=torch.int64),
        }

    def restore(self, state: dict[str, Tensor], labels: NDArray[np.int64] | None) -> None:
        """Continues where `state` was taken, on an object of its own.

        Raises:
            ValueError: the tensors do not fit together.
        """
        size = len(state["id"])
        lengths = state["stream.ahead"].tolist()
        if not (
            all(tensor.dim() == 1 for tensor in state.values())
            and size <= self.capacity
            and len(state["key"]) == len(state["rank"]) == size
            and len(state["stream.label"]) == len(state["stream.mass"]) == len(lengths)
            and len(state["stream.threshold"]) == len(lengths)
            and len(state["ahead.point"]) == len(state["ahead.height"]) == sum(lengths)
            and (self.grouped or state["stream.label"].tolist() == [0])
        ):
            raise ValueError("the books of the saved store do not fit together")
        self.size = size
        self.ids[:size] = state["id"].numpy()
        self.keys[:size] = state["key"].numpy()
        self.rerank(np.arange(size), state["rank"].numpy())
        points, heights = state["ahead.point"].numpy().copy(), state["ahead.height"].numpy().copy()
        masses, thresholds = state["stream.mass"].tolist(), state["stream.threshold"].tolist()
        start = 0
        for i, label in enumerate(state["stream.label"].tolist()):
            stream = self._stream(label)
            stream.mass, stream.threshold = masses[i], thresholds[i]
            ahead = slice(start, start + lengths[i])
            stream.look(points[ahead], heights[ahead])
            start = ahead.stop
        self.seen, at = state["seen"].tolist()
        self.uniforms.restore(state["generator"], state["generator.block"], at)
        self.recount(labels)
