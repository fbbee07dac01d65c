"""StoreDataset: the rows of a store as a data set of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..batch import Batch, jagged
from .store import Store


class StoreDataset(Dataset[Any]):
    """The rows that a store holds now, for a `torch.utils.data.DataLoader`; each is a dict of tensors, copied.

    Row ``i`` stays the same row while the store changes, until the store no longer holds it. Columns are read when a
    row is asked for, so that a store that lies on disk need not fit in memory.

    Args:
        store: whose rows.

    >>> from memreplay.core.stores import Ragged
    >>> from torch.utils.data import DataLoader
    >>> store = Store(10, columns={"tokens": Ragged()})
    >>> _ = store.add({"tokens": [[1, 2], [3]], "label": torch.tensor([0, 1])})
    >>> rows = StoreDataset(store)
    >>> len(rows), rows[1]["tokens"].tolist(), rows[1]["label"]
    (2, [3], tensor(1))
    >>> (batch,) = DataLoader(rows, batch_size=2, collate_fn=rows.collate)
    >>> batch["label"], batch["tokens"].is_nested
    (tensor([0, 1]), True)
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ids = store.ids
        """int64 (N,): the ids of the rows, by slot when this was made."""
        self._ragged = {name for name, values in store.rows([]).items() if values.is_nested}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Batch:
        """A row.

        Raises:
            IndexError: ``index`` is not below the number of rows.
            KeyError: the store no longer holds the row.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, index: Sequence[int]) -> list[Batch]:
        """Several rows, read at once."""
        rows = self.store.rows(self.ids[torch.tensor(index, dtype=torch.int64)]).columns
        parts = {name: values.unbind() for name, values in rows.items()}
        return [{name: part[i] for name, part in parts.items()} for i in range(len(index))]

    def collate(self, rows: Sequence[Mapping[str, Tensor]]) -> Batch:
        """Rows as one batch: ``DataLoader(rows, collate_fn=rows.collate)``. Ragged columns become jagged, which the
        collating function of PyTorch does not do."""
        return {
            name: jagged([row[name] for row in rows])
            if name in self._ragged
            else torch.stack([row[name] for row in rows])
            for name in rows[0]
        }
