"""What size costs: adding to memories of 10,000 to a million rows and drawing from them, in RAM and memory-mapped."""

from __future__ import annotations

import tempfile

from add import ROWS, batches
from harness import Bench, faults, forget_peak, main, resident

from memreplay.core.stores import Store


def measure(bench: Bench) -> None:
    for capacity in (10_000,) if bench.quick else (10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            for path in (None, folder) if bench.device == "cpu" else (None,):
                of_size(bench, capacity, path)


def of_size(bench: Bench, capacity: int, path: str | None) -> None:
    """Batches of 64 into, and out of, a memory that is full twice over; and what it takes of the RAM."""
    feed = batches()
    forget_peak()
    before = resident()
    store = Store(capacity, device=bench.device, path=path)
    for _ in range(2 * capacity // ROWS):
        store.add(next(feed))
    where = "RAM" if path is None else "mapped"
    most = (resident("VmHWM") - before) / 1e6
    bench.note(f"{capacity:,} rows, {where}: {store.nbytes / 1e6:.1f} MB stored, at most {most:.1f} MB more in RAM")
    added, before = store.seen, faults()
    bench.compare(f"add 64, reservoir, full twice over, {capacity:,}, {where}", lambda: store.add(next(feed)))
    per_batch = (faults() - before) * ROWS / (store.seen - added)
    bench.note(f"{capacity:,} rows, {where}: {per_batch:.1f} page faults in adding 64")
    bench.compare(f"draw 64 of {capacity:,}, {where}", lambda: store.draw(ROWS), calls=300)


if __name__ == "__main__":
    main(measure)
