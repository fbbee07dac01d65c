"""What a training step spends on its memory: add 64 rows and draw 64, against torchrl and against bare copies."""

from __future__ import annotations

import torch
from add import DIM, ROWS, batches, ring, tensordicts
from draw import filled
from harness import Bench, Peer, Work, copy_seconds, main

from memreplay.core.memory import ReplayMemory


def measure(bench: Bench) -> None:
    for capacity in (10_000,) if bench.quick else (10_000, 100_000):
        of_size(bench, capacity)


def of_size(bench: Bench, capacity: int) -> None:
    """Steps with a full memory of that many rows."""
    feed, store = batches(), filled(capacity, bench.device)
    for _ in range(19 * capacity // ROWS):
        store.add(next(feed))
    memory = ReplayMemory(store, replay=ROWS)
    column, labels = torch.zeros(capacity, DIM, device=bench.device), torch.zeros(capacity, dtype=torch.int64)
    labels = labels.to(bench.device)

    def bare() -> None:
        """A copy of the batch into place and a gather of as many rows, nothing else."""
        batch = next(feed)
        column[:ROWS].copy_(batch["feature"])
        labels[:ROWS].copy_(batch["label"])
        index = torch.randint(capacity, (ROWS,), device=bench.device)
        column.index_select(0, index)
        labels.index_select(0, index)

    def with_store() -> None:
        store.add(next(feed))
        store.draw(ROWS)

    def with_memory() -> None:
        memory.remember(**next(feed))
        memory.recall()

    limit = copy_seconds(2 * ROWS * (DIM * 4 + 8)) if bench.device == "cpu" else None
    peers = {"torchrl": Peer(of_ring(capacity), 6.0), "bare gather and copy": Peer(bare, 0.5)}
    bench.compare(f"add 64 + draw 64, Store, {capacity:,}", with_store, peers, calls=200, limit=limit)
    bench.compare(f"add 64 + draw 64, ReplayMemory, {capacity:,}", with_memory, peers, calls=200, limit=limit)


def of_ring(capacity: int) -> Work | None:
    """The same with a full buffer of torchrl."""
    buffer = ring(capacity)
    if buffer is None:
        return None
    dicts = tensordicts()
    for _ in range(capacity // ROWS + 1):
        buffer.extend(next(dicts))

    def work() -> None:
        buffer.extend(next(dicts))
        buffer.sample()

    return work


if __name__ == "__main__":
    main(measure)
