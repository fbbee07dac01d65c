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
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..loops import loops
from .books import Books
from .columns import Storage
from .look_ahead import NOTHING, Accepted, LookAhead, Reserve, contest, lowest_by_row
from .stream import Stream
from .table import OpenBatch


class Admission(Books):
    """The competition of new rows for the slots of a store; its arguments are those of `Books`."""

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
        if loops is None:
            return None
        if self._intake is None:
            return self._copy_fill(loops.open_batch(batch, columns))
        stream = self.streams[0]
        done: tuple[Tensor, int, int] | None = self._intake.add(batch, columns, stream.mass, self.seen)
        if done is None:
            return self._copy_beyond(loops.open_batch(batch, columns))
        stream.mass += done[1]
        self.seen += done[1]
        return done

    def _copy_fill(self, batch: OpenBatch | None, labels: list[int] | None = None) -> tuple[Tensor, int, int] | None:
        """`copy_in` while there is room for all."""
        if loops is None or batch is None or not batch[0] or not self._fits(batch[0]):
            return None
        n, lanes = batch
        if not loops.fill(n, self.size, lanes):
            return None
        return torch.from_numpy(self._fill(n, labels).slots), n, n

    def _copy_beyond(self, batch: OpenBatch | None) -> tuple[Tensor, int, int] | None:
        """`copy_in` of a batch that ends beyond what is foreseen."""
        stream = self.streams[0]
        if loops is None or batch is None or self._foreseen is None or stream.mass + batch[0] <= self._foreseen.stop:
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
        self, batch: Mapping[str, Any], columns: Mapping[str, Storage], group: str
    ) -> tuple[Tensor, int, int] | None:
        """`copy_in` for rows that compete in the streams of their labels, which are in column ``group``."""
        if loops is None:
            return None
        if self.size < self.capacity and (opened := loops.open_batch(batch, columns)) and self._fits(opened[0]):
            labels = batch[group]
            return (
                self._copy_fill(opened, labels.tolist()) if labels.dtype is torch.int64 and labels.dim() == 1 else None
            )
        done: tuple[Tensor, int, int] | None = loops.add_labelled(batch, columns, group, *self._arena, self._meet)
        if done is not None:
            self.seen += done[1]
        return done

    @property
    def _arena(self) -> tuple[Any, ...]:
        """What compiled code must know to let rows compete."""
        books = self.ids, self.keys, self.ranks, self.labels
        return self.streams, self._sizes, self.size == self.capacity, self.seen, books

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
    ) -> Accepted:
        """The next ``n`` rows of the stream compete, and what they win is entered in the books.

        Args:
            labels: the stream of each row, when grouped.
            weights: of each row, not negative; equal if None. A row without weight is never kept.
            keys: of each row, (n,); None draws them by jumps.
        """
        if keys is None and weights is None and (labels is None or self._fits(n)):
            return self._offer_equal(n) if labels is None else self._fill(n, labels)
        if keys is not None and labels is None:
            return self._offer_keys(keys)
        slots = np.full(n, -1)
        if keys is not None and labels is not None:
            for row, (label, key) in enumerate(zip(labels, keys.tolist(), strict=True)):
                self._enter(self._stream(label), row, -key, slots)
        elif weights is None and loops is not None:
            loops.compete(np.array(labels, np.int64), slots, *self._arena, self._meet)
        else:
            of_rows = [1.0] * n if weights is None else weights.tolist()
            for row, (label, weight) in enumerate(zip(labels or [0] * n, of_rows, strict=True)):
                self._meet(label, row, slots, weight)
        self.seen += n
        rows = np.flatnonzero(slots >= 0)
        return Accepted(rows, slots[rows], self.keys[slots[rows]])

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
        rows, heights, stop = lowest_by_row(stream.points, stream.heights, -stream.threshold)
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

    def contenders(self, labels: Sequence[int]) -> NDArray[np.int64]:
        """Which of the next rows, of equal weight, may be kept in the streams of their labels. Nothing changes."""
        rows = np.empty(len(labels), np.int64)
        if loops is not None:
            return rows[: loops.contenders(np.array(labels, np.int64), self.streams, rows)]
        at: dict[int, tuple[float, int]] = {}
        n = 0
        for row, label in enumerate(labels):
            stream = self.streams.get(label)
            if stream is not None and len(stream.points):
                start, before = at.get(label, (stream.mass, stream.cursor))
                cursor = before + int(stream.points[before:].searchsorted(start + 1))
                at[label] = start + 1, cursor
                if before == cursor < len(stream.points):
                    continue
            rows[n] = row  # has a point above it, or lies beyond the last one
            n += 1
        return rows[:n]

    def _meet(self, label: int, row: int, slots: NDArray[np.int64], weight: float = 1.0) -> None:
        """The next row of the stream of ``label``, row ``row`` of the batch, meets the points above it."""
        stream = self._stream(label)
        end = stream.mass + weight
        if weight and stream.threshold == -math.inf:
            # the logarithm of an array: that of a number differs from it in the last bit on some processors
            self._enter(stream, row, -float(np.log1p(-self.uniforms.take(1))[0]) / weight, slots)
        elif weight:
            if stream.next == -math.inf:
                self._lower_bar(stream)
            if stream.next < end:
                self._enter(stream, row, self._lowest(stream, end), slots)
        stream.mass = end

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
        while stream.next < end:
            lowest = min(lowest, float(stream.heights[stream.cursor]))
            stream.cursor += 1
            if stream.cursor == len(stream.points):
                self._lower_bar(stream)
            else:
                stream.next = float(stream.points[stream.cursor])
        return lowest

    def _enter(self, stream: Stream, row: int, height: float, slots: NDArray[np.int64]) -> None:
        """Row ``row`` of the batch, whose key is ``-height``, contests a slot; ``slots`` are those of the batch."""
        if -height <= stream.threshold:
            return
        if self.size < self.capacity:
            slot = self.size
            self.size += 1
            self._count(stream, 1)
        else:
            giver = self._giver(stream) if self.grouped else stream
            worst, _, slot = self._worst(giver)
            if giver is stream:
                if height >= worst:
                    stream.threshold = -height
                    return
            else:
                self._count(giver, -1)
                self._count(stream, 1)
            giver.pop()
            giver.threshold = max(giver.threshold, -worst)
            before = int(self.ids[slot]) - self.seen
            if 0 <= before < len(slots) and slots[before] == slot:
                slots[before] = -1
        slots[row] = slot
        self.ids[slot] = self.seen + row
        self.keys[slot] = -height
        self.ranks[slot] = -1
        if self.grouped:
            self.labels[slot] = stream.label
        if stream.known:
            stream.push(height, self.seen + row, slot)

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
        if not stream.known:
            own = np.flatnonzero(self.labels[: self.size] == stream.label) if self.grouped else np.arange(self.size)
            stream.hold(-self.keys[own], self.ids[own], own)
        return stream.worst()
