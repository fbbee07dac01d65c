"""Pools: the rows of a store, and rows that want to join them, as selectors see them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch, concat, take
from ..loops import loops
from ..selection import Pool
from .admission import Admission
from .block import Lane, room
from .rows import Rows
from .table import BOOKS, Table
from .uniforms import Uniforms


class StorePool(Pool):
    """The rows of a store, for selectors."""

    def __init__(self, books: Admission, table: Table) -> None:
        super().__init__({})
        self._books = books
        self._table = table

    @property
    def size(self) -> int:
        return self._books.size

    def __getitem__(self, name: str) -> Tensor:
        column = self._table.columns.get(name)
        if column is not None:
            return column.view(self.size)
        if name in BOOKS:
            return torch.from_numpy(getattr(self._books, f"{name}s")[: self.size])
        raise KeyError(f"there is no column {name!r}; the store has {sorted(self)}")

    def __iter__(self) -> Iterator[str]:
        return iter([*self._table.columns, *BOOKS])

    def __len__(self) -> int:
        return len(self._table.columns) + len(BOOKS)

    def take(self, index: Tensor) -> Batch:
        columns, ids = self.read(index)
        return {**columns, "id": ids}

    def read(self, index: Tensor) -> tuple[Batch, Tensor]:
        """The caller's columns and the arrival numbers of the rows ``index``, copied."""
        slots = index.numpy()
        lanes = self._table.lanes()
        if loops is None or lanes is None:
            return self._table.read(slots), torch.from_numpy(self._books.ids[slots])
        columns, targets, ids = self._room(len(slots), lanes)
        loops.gather(slots, self._books.ids, lanes, targets, ids)
        return columns, torch.from_numpy(ids)

    def beside(self, index: Tensor, batch: Mapping[str, Tensor], n: int, seen: int) -> Batch | None:
        """The rows ``index`` followed by the ``n`` of a batch, if columns can be copied as they lie."""
        lanes = self._table.lanes()
        if loops is None or lanes is None:
            return None
        m = len(index)
        columns, targets, ids = self._room(m + n, lanes)
        loops.gather(index.numpy(), self._books.ids, lanes, targets, ids[:m])
        ids[m:] = np.arange(seen, seen + n)
        for name, values in columns.items():
            values[m:] = batch[name]
        return {**columns, "id": torch.from_numpy(ids)}

    def draw(self, n: int, uniforms: Uniforms) -> Rows:
        """``n`` distinct rows, every ordered choice equally likely; all of them if there are fewer."""
        size = self.size
        n = min(n, size)
        if 2 * n >= size:
            return self._rows(torch.randperm(size, generator=uniforms.generator)[:n])
        # the distinct values of uniform draws, in the order they first appear, are a uniform draw without replacement
        numbers = uniforms.take(n + n * n // size + 2)
        lanes = self._table.lanes()
        if loops is not None and lanes is not None:
            columns, targets, ids = self._room(n, lanes)
            slots = np.empty(n, np.int64)
            if loops.draw(numbers, size, self._books.ids, lanes, targets, slots, ids):
                return Rows(columns, torch.from_numpy(slots), torch.from_numpy(ids))
        chosen = dict.fromkeys((numbers * size).astype(np.int64).tolist())
        while len(chosen) < n:
            chosen.update(dict.fromkeys((uniforms.take(n - len(chosen)) * size).astype(np.int64).tolist()))
        return self._rows(torch.from_numpy(np.fromiter(chosen, np.int64, len(chosen))[:n]))

    def _rows(self, index: Tensor) -> Rows:
        columns, ids = self.read(index)
        return Rows(columns, index, ids)

    def _room(self, n: int, lanes: list[Lane]) -> tuple[Batch, list[int], NDArray[np.int64]]:
        """Where ``n`` rows and their ids are to be copied to: columns, their addresses, ids."""
        columns = {name: room(n, lane) for name, lane in zip(self._table.columns, lanes, strict=True)}
        return columns, [values.data_ptr() for values in columns.values()], np.empty(n, np.int64)

    def chunk(self, name: str, start: int, stop: int) -> Tensor:
        column = self._table.columns.get(name)
        return self[name][start:stop] if column is None else column.view(stop, start)

    def gather(self, name: str, index: Tensor) -> Tensor:
        column = self._table.columns.get(name)
        return super().gather(name, index) if column is None else column.read(index.numpy())

    def changed(self) -> None:
        """The rows are others now: what was derived from them is dropped."""
        if self._derived:
            self._derived = {}


class Union(Pool):
    """The rows a pool holds, followed by those of a batch that just arrived.

    With ``forget_keys`` all of them count as new: the keys held are those of another policy.
    """

    def __init__(self, held: StorePool, batch: Batch, n: int, seen: int, forget_keys: bool = False) -> None:
        super().__init__(batch)
        self._held = held
        self._n = n
        self._seen = seen
        self._forget_keys = forget_keys

    @property
    def size(self) -> int:
        return self._held.size + self._n

    @property
    def held(self) -> StorePool:
        """The rows that were there before."""
        return self._held

    @property
    def arrived(self) -> int:
        """How many follow them."""
        return self._n

    def beside(self, index: Tensor) -> Batch:
        """The rows ``index`` of those held, followed by all that arrived; every column, copied."""
        rows = self._held.beside(index, self._columns, self._n, self._seen)
        if rows is None:
            rows = self.take(torch.cat([index, torch.arange(self._held.size, self.size)]))
        return rows

    def __getitem__(self, name: str) -> Tensor:
        if name == "key" and self._forget_keys:
            return torch.full((self.size,), math.nan, dtype=torch.float64)
        if not self._n:
            return self._held[name]
        return self.derived(("column", name), lambda: _joined({name: self._held[name]}, {name: self._new(name)})[name])

    def gather(self, name: str, index: Tensor) -> Tensor:
        """Of rows that were there before, without a look at the others."""
        if self._n and len(index) and int(index.max()) < self._held.size and not (name == "key" and self._forget_keys):
            return self._held.gather(name, index)
        return super().gather(name, index)

    def _new(self, name: str) -> Tensor:
        if name == "id":
            return torch.arange(self._seen, self._seen + self._n)
        if name == "key":
            return torch.full((self._n,), math.nan, dtype=torch.float64)
        if name == "rank":
            return torch.full((self._n,), -1)
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held) if not self._n else iter([*self._columns, *BOOKS])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def take(self, index: Tensor) -> Batch:
        if not self._n:
            return self._held.take(index)
        size, at = self._held.size, index.numpy()
        old = at < size
        n_old = int(old.sum())
        if not n_old:
            return self._arrived(at - size)
        rows = _joined(self._held.take(torch.from_numpy(at[old])), self._arrived(at[~old] - size))
        if old[:n_old].all():
            return rows
        # rows of the two parts lie one after the other: bring them in the order asked for
        return take(rows, torch.from_numpy((~old).argsort(kind="stable").argsort()))

    def _arrived(self, new: NDArray[np.int64]) -> Batch:
        ids = torch.from_numpy(new + self._seen)
        if len(new) == self._n and (new[:-1] < new[1:]).all():
            return {**self._columns, "id": ids}  # all of them
        return {**take(self._columns, torch.from_numpy(new)), "id": ids}


def _joined(held: Batch, new: Batch) -> Batch:
    """The rows of both. Where a column has widened, the narrower rows end with NaN, as in a `Growable` column."""
    joined = {}
    for name, values in new.items():
        parts = [held[name], values]
        if values.is_nested:
            joined[name] = concat([{name: part} for part in parts])[name]
            continue
        if values.dim() == 2 and values.shape[1] != parts[0].shape[1]:
            width = max(part.shape[1] for part in parts)
            pad = torch.nn.functional.pad
            parts = [pad(part, (0, width - part.shape[1]), value=math.nan) for part in parts]
        joined[name] = torch.cat(parts)
    return joined
