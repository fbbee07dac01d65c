"""Books: who holds which slot of a store, by which key, and what is known of those who lost."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .look_ahead import NOTHING, Accepted, LookAhead, Reserve
from .stream import Stream, new_stream
from .uniforms import Uniforms


class Books:
    """Ids, keys and ranks of the rows that a store holds, and how the competition for its slots stands.

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

    def _stream(self, label: int) -> Stream:
        stream = self.streams.get(label)
        if stream is None:
            last = next(reversed(self.streams.values()), None)
            stream = self.streams[label] = new_stream(label, 0 if last is None else last.order + 1)
        return stream

    def _count(self, stream: Stream, change: int) -> None:
        stream.count += change
        if self.grouped:
            heapq.heappush(self._sizes, (-stream.count, stream.order, stream.label))
            if len(self._sizes) > 64 + 4 * len(self.streams):
                self._sizes[:] = [(-s.count, s.order, s.label) for s in self.streams.values()]
                heapq.heapify(self._sizes)

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
            stream.forget()
            stream.count = 0
            self._count(stream, counts.get(stream.label, 0))

    def drop(self, labels: Iterable[int]) -> None:
        """Forgets the streams of ``labels``, of which no row is held."""
        for label in labels:
            self.streams.pop(label, None)
        self._sizes = [(-stream.count, stream.order, stream.label) for stream in self.streams.values()]
        heapq.heapify(self._sizes)

    def join(self, other: Books, later: float = 0.0) -> None:
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
