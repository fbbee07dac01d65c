"""Loading: batches in an order that a seed decides, and that a stopped run can take up again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .batch import Batch, batch_size, take, to_device
from .protocols.seeding import generator_at
from .random_state import RandomState, random_state, set_random_state


class EpochSampler(Sampler[int]):
    """Every index once per epoch, in an order that depends on ``seed`` and the epoch only.

    Unlike the sampler behind ``DataLoader(shuffle=True)`` it leaves the global random state alone and gives every
    process the same order.

    Args:
        size: number of rows of the data set.
        seed: of the order.
        shuffle: False gives the rows in their own order.

    >>> sampler = EpochSampler(4)
    >>> first = list(sampler)
    >>> sampler.set_epoch(1)
    >>> sorted(sampler) == [0, 1, 2, 3], list(sampler) == first
    (True, False)
    """

    def __init__(self, size: int, seed: int = 0, shuffle: bool = True) -> None:
        self.size = size
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives the order of ``epoch``."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        if not self.shuffle:
            return iter(range(self.size))
        order: list[int] = torch.randperm(self.size, generator=generator_at(self.seed, "epoch", self.epoch)).tolist()
        return iter(order)


class Table(Dataset[Any]):
    """A batch as a data set: whole batches are taken out of it at once."""

    def __init__(self, rows: Mapping[str, Tensor]) -> None:
        self.rows = rows
        self.size = batch_size(rows, "rows")

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Batch:
        return {name: values[index] for name, values in self.rows.items()}

    def __getitems__(self, index: Sequence[int]) -> Batch:
        return take(self.rows, torch.tensor(index))


def batches(
    rows: Mapping[str, Tensor] | Table,
    size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    drop_last: bool = False,
    workers: int = 0,
) -> DataLoader[Any]:
    """A loader of batches of ``size`` rows; `EpochSampler` decides the order.

    Args:
        rows: columns, which may be memory-mapped; or a table of them that changes the rows it gives.
        size: rows per batch.
        shuffle: False gives the rows in their own order.
        seed: of the order.
        drop_last: whether a last batch of fewer rows is left out.
        workers: processes that make batches ahead.

    >>> loader = batches({"input": torch.arange(5.0), "label": torch.arange(5)}, 2, shuffle=False)
    >>> [batch["label"].tolist() for batch in loader]
    [[0, 1], [2, 3], [4]]
    """
    if size < 1:
        raise ValueError(f"size is {size}; expected at least one row per batch")
    table = rows if isinstance(rows, Table) else Table(rows)
    sampler = EpochSampler(len(table), seed, shuffle)
    return DataLoader(
        table, batch_size=size, sampler=sampler, drop_last=drop_last, collate_fn=_as_it_is, num_workers=workers
    )


def _as_it_is(batch: Any) -> Any:
    return batch


class Feed:
    """A loader's batches, epoch by epoch; an epoch can be taken up in the middle, with every generator where it was.

    Before each epoch ``set_epoch`` is called on the loader, its sampler and its data set, where they have it.

    Args:
        loader: as the user made it.
        prepared: what ``accelerator.prepare`` made of it.
        accelerator: an `accelerate.Accelerator`.
    """

    def __init__(self, loader: Iterable[Batch], prepared: Iterable[Batch], accelerator: Any) -> None:
        self._prepared = prepared
        self._placed = isinstance(prepared, DataLoader)  # accelerate puts its batches on the device
        self._accelerator = accelerator
        samplers = [getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)]
        self._parts = [loader, prepared, *samplers, getattr(loader, "dataset", None)]
        found = {id(g): g for part in self._parts if isinstance(g := getattr(part, "generator", None), torch.Generator)}
        self._generators = list(found.values())
        self._resumed: tuple[RandomState, RandomState] | None = None
        self.start: RandomState = {}
        """The generators at the start of the epoch."""
        self.at_end = False
        """Whether the batch at hand is known to be the last of its epoch."""

    def __len__(self) -> int:
        return len(self._prepared)  # type: ignore[arg-type]

    def now(self) -> RandomState:
        """The generators at this point."""
        return random_state(self._generators)

    def resume(self, start: RandomState, now: RandomState) -> None:
        """Puts the generators to ``now``; the next epoch is one that began with them at ``start``."""
        set_random_state(now, self._generators)
        self._resumed = start, now

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of ``epoch`` after the first ``skip``."""
        for part in self._parts:
            if set_epoch := getattr(part, "set_epoch", None):
                set_epoch(epoch)
        resumed, self._resumed = self._resumed, None
        if skip and resumed is not None:
            set_random_state(resumed[0], self._generators)
        self.start = self.now()
        loader = self._after(skip) if skip else self._prepared
        batches = iter(loader)
        batch = next(batches, None)
        if batch is not None and not isinstance(batch, Mapping):
            raise TypeError(f"loader gave a {type(batch).__name__}; expected a dict of tensors such as input and label")
        if skip and resumed is not None:
            set_random_state(resumed[1], self._generators)
        try:
            while batch is not None:
                self.at_end = bool(self._accelerator.gradient_state.end_of_dataloader)
                yield batch if self._placed else to_device(batch, self._accelerator.device)
                batch = next(batches, None)
        finally:
            if hasattr(loader, "end"):  # a loop that breaks off leaves accelerate's loader open
                loader.end()

    def _after(self, skip: int) -> Iterable[Batch]:
        prepared: Any = self._prepared
        if not isinstance(prepared, DataLoader):
            return islice(prepared, skip, None)
        shared: Any = prepared
        rest: Any = self._accelerator.skip_first_batches(shared, skip)
        # accelerate forgets these two, and with them which rows of the last batch are repetitions
        rest.batch_sampler.batch_size = shared.total_batch_size
        rest._drop_last = shared._drop_last
        remaining: Iterable[Batch] = rest
        return remaining
