"""Replicas: several processes that train together, each with the same memory."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .batch import Batch, from_offsets, offsets_of, take
from .mixers.view import View, columns_of
from .stores.rows import Rows


class Replicas:
    """What the processes of one run do together, so that each keeps the same memory and all see the same loss.

    A global batch is the processes' batches one after the other, by rank. Rows that accelerate repeats to give every
    process as many (``even_batches``) are left out of it, and so out of the memory and the loss.

    Args:
        accelerator: an `accelerate.Accelerator` of at least two processes.
    """

    def __init__(self, accelerator: Any) -> None:
        self.accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.size: int = accelerator.num_processes
        self._drawn = 0  # checksum of everything drawn so far

    # -- rows ---------------------------------------------------------------------------------------------------

    def gather(self, batch: Mapping[str, Tensor]) -> Batch:
        """The global batch, the same on every process. Lengths travel first, then the rows.

        Raises:
            ValueError: the processes have different columns, shapes or dtypes.
            RuntimeError: the memories of the processes have drawn different rows.
        """
        sizes = self._sizes(batch)
        real = self.real(sum(sizes))
        rows = {name: self._collect(values, sizes) for name, values in batch.items()}
        return rows if real == sum(sizes) else take(rows, torch.arange(real))

    def gather_live(self, name: str, values: Tensor) -> Tensor:
        """The rows of ``values`` of all processes, repetitions included; those of this process keep their graph."""
        sizes = self._sizes({name: values})
        rows = self._collect(values.detach(), sizes)
        if not values.requires_grad:
            return rows
        before = sum(sizes[: self.rank])
        mine = values.view_as(values)
        mine.register_hook(lambda gradient: gradient * self.size)
        return torch.cat([rows[:before], mine, rows[before + len(values) :]])

    def real(self, total: int) -> int:
        """How many of ``total`` gathered rows are no repetitions; those come last."""
        state = self.accelerator.gradient_state
        if not state.end_of_dataloader or not 0 < state.remainder < total:
            return total
        whole = getattr(state.active_dataloader, "total_batch_size", None)
        return int(state.remainder) if total == whole else total

    def share(self, rows: Rows) -> Rows:
        """The part of a draw that falls to this process. All parts have the same size: the last of them may repeat the
        first rows, which `views` leaves out again."""
        n = len(rows)
        self._drawn = zlib.crc32(rows.slots.numpy().tobytes(), self._drawn)
        if n == 0:
            return rows
        size = -(-n // self.size)
        index = torch.arange(self.rank * size, (self.rank + 1) * size) % n
        scores, weights = (
            None if part is None else part[index.to(part.device)] for part in (rows.scores, rows.weights)
        )
        return Rows(take(rows.columns, index), rows.slots[index], rows.ids[index], scores, weights)

    def from_main(self, rows: Rows) -> Rows:
        """The draw of rank 0, on every process."""
        columns = {name: self._spread(values) for name, values in rows.columns.items()}
        scores, weights = (None if part is None else self._spread(part) for part in (rows.scores, rows.weights))
        return Rows(columns, self._spread(rows.slots), self._spread(rows.ids), scores, weights)

    # -- the loss -----------------------------------------------------------------------------------------------

    def views(self, new: View, old: Mapping[str, View], drawn: Mapping[str, int]) -> tuple[View, dict[str, View]]:
        """The views of the global batch and of the global draws; a column is gathered when a term reads it.

        A term of these is the loss that one process would have with the global batch, whatever the term averages over.
        Gradients reach the outputs of this process, times the number of processes, since their mean over the processes
        is what DistributedDataParallel keeps.

        Args:
            new: the batch of this process.
            old: the shares of this process, by name.
            drawn: rows of each draw as a whole.
        """
        everywhere = {name: self._view(view, partial(min, drawn.get(name, sys.maxsize))) for name, view in old.items()}
        return self._view(new, self.real), everywhere

    def _view(self, view: View, real: Callable[[int], int]) -> View:
        rows = _Everywhere(columns_of(view.rows), self, real, view.weights)
        return View(rows, _Everywhere(view.outputs, self, real))

    # -- transport ----------------------------------------------------------------------------------------------

    def _sizes(self, batch: Mapping[str, Tensor]) -> list[int]:
        """Rows of every process, after checking that all have the same columns and the same memory."""
        schema = ", ".join(f"{name}: {_describe(values)}" for name, values in batch.items())
        rows = next(iter(batch.values())).size(0)
        mine = torch.tensor([zlib.crc32(schema.encode()), self._drawn, rows], device=self.accelerator.device)
        headers = mine.new_empty(self.size * 3)
        dist.all_gather_into_tensor(headers, mine)
        schemas, draws, sizes = headers.view(self.size, 3).T.tolist()
        if len(set(schemas)) > 1:
            raise ValueError(f"process {self.rank} has the columns {schema}; expected the same ones on every process")
        if len(set(draws)) > 1:
            raise RuntimeError(
                "the memories of the processes have drawn different rows; expected memories made alike, with the same "
                "seed, and recall and remember called on every process"
            )
        return [int(size) for size in sizes]

    def _collect(self, values: Tensor, sizes: list[int]) -> Tensor:
        """The rows of every process, on the device of ``values``."""
        if values.is_nested:
            lengths = self._collect(offsets_of(values).diff(), sizes)
            items = values.values()
            return from_offsets(self._collect(items, self._sizes({"items": items})), _offsets(lengths))
        trailing, longest = values.shape[1:], max(sizes)
        if longest == 0 or trailing.numel() == 0:
            return values.new_empty(sum(sizes), *trailing)
        # bytes, because not every backend knows every dtype
        padded = values.new_zeros(longest, *trailing)
        padded[: len(values)] = values
        mine = padded.view(longest, -1).view(torch.uint8).to(self.accelerator.device)
        gathered = mine.new_empty(self.size * longest, mine.shape[1])
        dist.all_gather_into_tensor(gathered, mine)
        parts = gathered.view(values.dtype).view(self.size, longest, *trailing)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]).to(values.device)

    def _spread(self, values: Tensor) -> Tensor:
        """``values`` of rank 0, which may have another number of rows."""
        if values.is_nested:
            lengths = self._spread(offsets_of(values).diff())
            return from_offsets(self._spread(values.values()), _offsets(lengths))
        device = self.accelerator.device
        rows = torch.tensor([len(values)], device=device)
        dist.broadcast(rows, src=0)
        shape = (int(rows), *values.shape[1:])
        mine = values.contiguous() if self.rank == 0 else values.new_empty(shape)
        if mine.numel() == 0:
            return mine
        data = mine.view(-1).view(torch.uint8).to(device)
        dist.broadcast(data, src=0)
        return data.view(values.dtype).view(shape).to(values.device)


class _Everywhere(Mapping[str, Tensor]):
    """Columns of all processes, gathered when first read. Every process reads the same ones in the same order, since
    all evaluate the same terms."""

    def __init__(
        self,
        columns: Mapping[str, Tensor],
        replicas: Replicas,
        real: Callable[[int], int],
        weights: Tensor | None = None,
    ) -> None:
        self._columns = columns
        self._replicas = replicas
        self._real = real
        self._weights = weights
        self._gathered: dict[str, Tensor] = {}

    @property
    def weights(self) -> Tensor | None:
        return None if self._weights is None else self._read("weights of the draw", self._weights)

    def __getitem__(self, name: str) -> Tensor:
        return self._read(name, self._columns[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def _read(self, name: str, values: Tensor) -> Tensor:
        if name not in self._gathered:
            rows = self._replicas.gather_live(name, values)
            real = self._real(rows.size(0))
            if real != rows.size(0):
                rows = take({name: rows}, torch.arange(real))[name]
            self._gathered[name] = rows
        return self._gathered[name]


def _describe(values: Tensor) -> str:
    shape = values.values().shape[1:] if values.is_nested else values.shape[1:]
    return f"{'jagged ' if values.is_nested else ''}{values.dtype} {tuple(shape)}"


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
