"""Adding to a memory: reservoir, balanced reservoir and FIFO."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import torch
from harness import Bench, Peer, Work, copy_seconds, main, peer
from torch.utils.data import TensorDataset

from memreplay.core.selection import ClassBalanced
from memreplay.core.stores import Store
from memreplay.core.stores.keeping import Fifo, Reservoir

ROWS, DIM, CLASSES = 64, 512, 10


def batches(n: int = 64) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of rows, over and over; different ones, so that not all of them stay in the cache."""
    generator = torch.Generator().manual_seed(0)
    made = [
        {
            "feature": torch.randn(ROWS, DIM, generator=generator),
            "label": torch.randint(CLASSES, (ROWS,), generator=generator),
        }
        for _ in range(n)
    ]
    return cycle(made)


class LoopReservoir:
    """Algorithm R (Vitter, 1985) row by row, as most codebases for continual learning have it."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.seen = capacity, 0
        self.feature = torch.empty(capacity, DIM)
        self.label = torch.empty(capacity, dtype=torch.int64)
        self.random = random.Random(0)

    def add(self, batch: dict[str, torch.Tensor]) -> None:
        for i in range(len(batch["label"])):
            slot = self.seen if self.seen < self.capacity else self.random.randrange(self.seen + 1)
            if slot < self.capacity:
                self.feature[slot] = batch["feature"][i]
                self.label[slot] = batch["label"][i]
            self.seen += 1


def ring(capacity: int) -> Any:
    """torchrl's buffer, or None where it is not installed."""
    torchrl = peer("torchrl.data")
    if torchrl is None:
        return None
    return torchrl.TensorDictReplayBuffer(storage=torchrl.LazyTensorStorage(capacity), batch_size=ROWS)


def tensordicts(n: int = 64) -> Iterator[Any]:
    """The same batches for torchrl, made beforehand: its users have them as such."""
    tensordict = peer("tensordict")
    assert tensordict is not None
    stream = batches(n)
    return cycle([tensordict.TensorDict(next(stream), [ROWS]) for _ in range(n)])


def balanced_in_avalanche(capacity: int, steps: int) -> Work | None:
    """Batches into Avalanche's balanced buffer, full from the start; None where it is not installed."""
    policies, utils = peer("avalanche.training.storage_policy"), peer("avalanche.benchmarks.utils.data")
    if policies is None or utils is None:
        return None
    attribute = peer("avalanche.benchmarks.utils.data_attribute")
    assert attribute is not None
    buffer, feed = policies.ClassBalancedBuffer(capacity), batches()

    def dataset(batch: dict[str, torch.Tensor]) -> Any:
        labels = attribute.DataAttribute(batch["label"].tolist(), "targets", use_in_getitem=False)
        return utils.AvalancheDataset([TensorDataset(batch["feature"], batch["label"])], data_attributes=[labels])

    made = cycle([dataset(next(feed)) for _ in range(64)])
    many = [next(feed) for _ in range(capacity // ROWS + 1)]
    buffer.update_from_dataset(dataset({name: torch.cat([batch[name] for batch in many]) for name in many[0]}))

    def work() -> None:
        for _ in range(steps):
            buffer.update_from_dataset(next(made))

    return work


def stream(make: Any, feed: Any, add: str, steps: int) -> Work:
    """A whole stream into a new memory."""

    def work() -> None:
        memory = make()
        put = getattr(memory, add)
        for _ in range(steps):
            put(next(feed))

    return work


def measure(bench: Bench) -> None:
    device = bench.device
    whole = [(10_000, 100_000, 10.0, 5.0), (10_000, 1_000_000, 10.0, 5.0), (100_000, 1_000_000, 4.0, 3.0)]
    for capacity, rows, to_ring, to_loop in [(1_000, 20_000, None, None)] if bench.quick else whole:
        steps = rows // ROWS
        row_bytes = DIM * 4 + 8
        # every accepted row must be copied: all while filling, then one in n / capacity
        kept = capacity * (1 + torch.log(torch.tensor(rows / capacity)).item())
        limit = copy_seconds(int(kept * row_bytes)) / steps if device == "cpu" else None
        some = min(steps, 2_000)  # a ring costs the same all through
        of_ring = stream(lambda c=capacity: ring(c), tensordicts(), "extend", some) if ring(1) is not None else None
        of_loop = stream(lambda c=capacity: LoopReservoir(c), batches(), "add", steps)
        feed = batches()
        plain = stream(lambda c=capacity: Store(c, device=device), feed, "add", steps)
        for keep, name, peers in (
            (Reservoir(), "reservoir", {"torchrl": Peer(of_ring, to_ring, some), "loop": Peer(of_loop, to_loop)}),
            (
                ClassBalanced(Reservoir()),
                "balanced reservoir",
                {"Avalanche": Peer(balanced_in_avalanche(capacity, 10), 50.0, 10), "our reservoir": Peer(plain, 1 / 3)},
            ),
            (Fifo(), "fifo", {"torchrl": Peer(of_ring, None, some)}),
        ):
            work = stream(lambda k=keep, c=capacity: Store(c, keep=k, device=device), feed, "add", steps)
            label = f"add 64, {name}, {capacity:,} of {rows:,}"
            bench.compare(label, work, peers, calls=1, per=steps, rounds=3, limit=limit if name != "fifo" else None)
    one_row(bench)


def one_row(bench: Bench) -> None:
    """One row at a time into a full memory."""
    feed, store = batches(), Store(10_000, device=bench.device)
    for _ in range(3_000):
        store.add(next(feed))
    rows = cycle([{name: values[i : i + 1] for name, values in next(feed).items()} for i in range(ROWS)])
    theirs: Work | None = None
    if (buffer := ring(10_000)) is not None:
        whole = tensordicts()
        for _ in range(200):
            buffer.extend(next(whole))
        single = cycle([next(whole)[i] for i in range(ROWS)])
        theirs = lambda: buffer.add(next(single))  # noqa: E731
    bench.compare(
        "add 1, reservoir, full, 10,000", lambda: store.add(next(rows)), {"torchrl": Peer(theirs, 20.0)}, calls=500
    )


if __name__ == "__main__":
    main(measure)
