"""Replicas: several processes that train together, each with the same memory."""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .batch import Batch, batch_size, from_offsets, offsets_of, take
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
        sizes, _ = self._sizes(batch)
        return _first(self._collect(batch, sizes), self.real(sum(sizes)))

    def add(self, source: Any, batch: Mapping[str, Tensor]) -> None:
        """Offers the global batch to ``source``, on every process alike. Where it can tell which rows it wants (see
        `Store.wanted`), the columns by which it decides travel first, if any, and of the others only these rows.

        Raises:
            ValueError: the processes have different columns, shapes or dtypes; or what ``source.add`` finds fault with.
            RuntimeError: the memories of the processes have drawn different rows, or want different ones.
        """
        if not batch:  # on every process, or there is an error
            self._sizes(batch)
            return
        if not hasattr(source, "wanted"):
            source.add(self.gather(batch))
            return
        by = {name: batch[name] for name in source.decides_by if name in batch}
        # without such columns the answer is known at once, if every process has as many rows
        n = 0 if by else self.real(self.size * batch_size(batch))
        offered = source.wanted(n, {name: values[:0] for name, values in by.items()})
        sizes, checks = self._sizes(batch, _checksum(offered))
        real = self.real(sum(sizes))
        deciding: Batch = {}
        if -1 not in checks and (by or len(set(sizes)) > 1):
            deciding = _first(self._collect(by, sizes), real)
            offered = source.wanted(real, deciding)
            (checks,) = self._tell(_checksum(offered))
        if -1 in checks:  # one that has just been saved, for example, cannot tell
            offered = None
        else:
            _require_same(checks, "want")
        rest = {name: values for name, values in batch.items() if name not in deciding}
        if offered is None:
            rows = {**deciding, **_first(self._collect(rest, sizes), real)}
            source.add({name: rows[name] for name in batch})
            return
        ends = torch.searchsorted(offered.rows, torch.tensor([0, *sizes]).cumsum(0)).tolist()
        mine = offered.rows[ends[self.rank] : ends[self.rank + 1]] - sum(sizes[: self.rank])
        brought = self._collect(take(rest, mine), [end - start for start, end in pairwise(ends)])
        rows = {**take(deciding, offered.rows), **brought}
        source.add({name: rows[name] for name in batch}, among=offered)

    def gather_live(self, name: str, values: Tensor) -> Tensor:
        """The rows of ``values`` of all processes, repetitions included; those of this process keep their graph."""
        sizes, _ = self._sizes({name: values})
        rows = self._collect({name: values.detach()}, sizes)[name]
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

    def _sizes(self, batch: Mapping[str, Tensor], check: int = 0) -> tuple[list[int], list[int]]:
        """Rows and ``check`` of every process, after checking that all have the same columns and the same memory."""
        schema = ", ".join(f"{name}: {_describe(values)}" for name, values in batch.items())
        rows = batch_size(batch) if batch else 0
        schemas, draws, sizes, checks = self._tell(zlib.crc32(schema.encode()), self._drawn, rows, check)
        if len(set(schemas)) > 1:
            columns = f"the columns {schema}" if batch else "no columns"
            raise ValueError(f"process {self.rank} has {columns}; expected the same ones on every process")
        _require_same(draws, "have drawn")
        return sizes, checks

    def _tell(self, *numbers: int) -> list[list[int]]:
        """Each of ``numbers`` of every process."""
        mine = torch.tensor(numbers, device=self.accelerator.device)
        told = mine.new_empty(self.size * len(numbers))
        dist.all_gather_into_tensor(told, mine)
        columns: list[list[int]] = told.view(self.size, len(numbers)).T.tolist()
        return columns

    def _collect(self, rows: Mapping[str, Tensor], sizes: list[int]) -> Batch:
        """The rows of every process, each column on the device where it is here. The lengths of ragged rows come with
        the other columns, then their items."""
        found = self._bring(
            {name: offsets_of(values).diff() if values.is_nested else values for name, values in rows.items()}, sizes
        )
        for name, values in rows.items():
            if values.is_nested:
                lengths = found[name]
                items = [int(part.sum()) for part in lengths.split(sizes)]
                found[name] = from_offsets(self._bring({name: values.values()}, items)[name], _offsets(lengths))
        return found

    def _bring(self, columns: Mapping[str, Tensor], sizes: list[int]) -> Batch:
        """The rows of every process in one message: their bytes, because not every backend knows every dtype."""
        if not columns:
            return {}
        n, longest, device = sizes[self.rank], max(sizes), self.accelerator.device
        data = torch.cat([_bytes(values, n).to(device) for values in columns.values()], 1)
        mine = data.new_zeros(longest, data.shape[1])
        mine[:n] = data
        told = mine.new_empty(self.size * longest, data.shape[1])
        if told.numel():
            dist.all_gather_into_tensor(told, mine)
        parts = told.view(self.size, longest, data.shape[1])
        rows = torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
        found, start = {}, 0
        for name, values in columns.items():
            found[name] = values.new_empty(len(rows), *values.shape[1:])
            own = _bytes(found[name], len(rows))
            own.copy_(rows[:, start : start + own.shape[1]])
            start += own.shape[1]
        return found

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


def is_plain(accelerator: Any) -> bool:
    """Whether gradients and optimizer steps are PyTorch's own, without a scaler or an engine around them."""
    return accelerator.scaler is None and accelerator.distributed_type in ("NO", "MULTI_CPU", "MULTI_GPU")


def share_buffers(model: nn.Module, accelerator: Any) -> None:
    """Gives ``model`` the buffers of rank 0 on every process, such as batch statistics."""
    buffers = [buffer.detach() for buffer in model.buffers() if buffer.numel()]
    if accelerator.num_processes == 1 or not buffers:
        return
    data = torch.cat([buffer.reshape(-1).view(torch.uint8) for buffer in buffers])
    dist.broadcast(data, src=0)
    for buffer, part in zip(buffers, data.split([buffer.nbytes for buffer in buffers]), strict=True):
        buffer.copy_(part.clone().view(buffer.dtype).view(buffer.shape))


def _checksum(offered: Any) -> int:
    """Of the rows that a source wants; -1 where it cannot tell."""
    return -1 if offered is None else zlib.crc32(offered.rows.numpy().tobytes())


def _require_same(checksums: list[int], verb: str) -> None:
    if len(set(checksums)) > 1:
        raise RuntimeError(
            f"the memories of the processes {verb} different rows; expected memories made alike, with the same seed, "
            "and recall and remember called on every process"
        )


def _first(rows: Batch, n: int) -> Batch:
    """The first ``n`` of the rows; the same columns where these are all."""
    return take(rows, torch.arange(n)) if rows and n != batch_size(rows) else rows


def _bytes(values: Tensor, n: int) -> Tensor:
    """The ``n`` rows of ``values`` as bytes (n, W)."""
    return values.reshape(n, math.prod(values.shape[1:])).contiguous().view(torch.uint8)


def _describe(values: Tensor) -> str:
    shape = values.values().shape[1:] if values.is_nested else values.shape[1:]
    return f"{'jagged ' if values.is_nested else ''}{values.dtype} {tuple(shape)}"


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
