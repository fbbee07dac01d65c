"""Pools: the rows of a store, and rows that want to join them, as selectors see them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..batch import Batch, concat, take
from ..selection import Pool
from .admission import Admission
from .table import BOOKS, Table


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
        return self._table.read(slots), torch.from_numpy(self._books.ids[slots])

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

    def __init__(self, held: Pool, batch: Batch, n: int, seen: int, forget_keys: bool = False) -> None:
        super().__init__(batch)
        self._held = held
        self._n = n
        self._seen = seen
        self._forget_keys = forget_keys

    @property
    def size(self) -> int:
        return self._held.size + self._n

    def __getitem__(self, name: str) -> Tensor:
        if name == "key" and self._forget_keys:
            return torch.full((self.size,), math.nan, dtype=torch.float64)
        if not self._n:
            return self._held[name]
        return self.derived(("column", name), lambda: _joined({name: self._held[name]}, {name: self._new(name)})[name])

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
        size = self._held.size
        held, new = index[index < size], index[index >= size] - size
        arrived = take({**self._columns, "id": self._new("id")}, new)
        if not len(held):
            return arrived
        rows = _joined(self._held.take(held), arrived)
        # rows of the two parts lie one after the other: bring them in the order asked for
        order = torch.cat([(index < size).nonzero().squeeze(1), (index >= size).nonzero().squeeze(1)])
        return take(rows, order.argsort())


def _joined(held: Batch, new: Batch) -> Batch:
    """The rows of both. Where a column has widened, the narrower rows end with NaN, as in a `Growable` column."""
    parts = [dict(held), dict(new)]
    for name, values in new.items():
        if values.is_nested or values.dim() != 2 or values.shape[1] == held[name].shape[1]:
            continue
        width = max(values.shape[1], held[name].shape[1])
        for part in parts:
            part[name] = torch.nn.functional.pad(part[name], (0, width - part[name].shape[1]), value=math.nan)
    return concat(parts)
