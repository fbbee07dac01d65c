"""Drawing from a memory: 64 rows uniformly, by the size of the memory, and balanced by class."""

from __future__ import annotations

from typing import Any

import torch
from add import DIM, ROWS, batches, ring, tensordicts
from harness import Bench, Peer, copy_seconds, main

from memreplay.core.selection import ClassBalanced, Uniform
from memreplay.core.stores import Store

MUST = {10_000: 5.0, 100_000: 4.0, 1_000_000: 3.0}


def measure(bench: Bench) -> None:
    balanced = ClassBalanced(Uniform())
    limit = copy_seconds(ROWS * (DIM * 4 + 8)) if bench.device == "cpu" else None
    for capacity, must in MUST.items():
        if bench.quick and capacity > 10_000:
            break
        store = filled(capacity, bench.device)
        buffer = ring(capacity)
        if buffer is not None:
            feed = tensordicts()
            for _ in range(capacity // ROWS + 1):
                buffer.extend(next(feed))
        theirs = None if buffer is None else buffer.sample
        peers = {
            "torchrl": Peer(theirs, must),
            "index_select": Peer(lambda s=store, c=capacity: bare(s, c)),  # type: ignore[misc]
        }
        bench.compare(f"draw 64 of {capacity:,}", lambda s=store: s.draw(ROWS), peers, calls=300, limit=limit)
        if capacity == 10_000:
            bench.compare(f"draw 64 of {capacity:,}, balanced", lambda s=store: s.draw(ROWS, by=balanced), calls=50)
        del store, buffer, theirs, peers


def filled(capacity: int, device: str, path: str | None = None) -> Store:
    """A full memory."""
    store, feed = Store(capacity, device=device, path=path), batches()
    while len(store) < capacity:
        store.add(next(feed))
    return store


def bare(store: Store, n: int) -> Any:
    """What torch needs for rows of both columns, drawn with replacement."""
    index = torch.randint(n, (ROWS,), device=store.device)
    table = store._table.columns
    return [table[name].view(n).index_select(0, index) for name in ("feature", "label")]


if __name__ == "__main__":
    main(measure)
