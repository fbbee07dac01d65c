"""StoreDataset: what a DataLoader gives is what the store holds."""

import pytest
import torch
from torch.utils.data import DataLoader

from memreplay import Fifo, Ragged, Store, StoreDataset
from memreplay.core.batch import jagged


def test_a_loader_gives_every_row_once(tmp_path) -> None:
    for path in (None, tmp_path / "columns"):
        store = Store(30, path=path, seed=0)
        store.add({"x": torch.arange(100.0).view(50, 2), "label": torch.arange(50)})
        loader = DataLoader(StoreDataset(store), batch_size=7, shuffle=True)
        batches = list(loader)
        labels = torch.cat([batch["label"] for batch in batches])
        assert sorted(labels.tolist()) == sorted(store.rows()["label"].tolist())
        for batch in batches:
            assert torch.equal(batch["x"][:, 0], 2.0 * batch["label"])


def test_workers_read_it_too() -> None:
    store = Store(10)
    store.add({"label": torch.arange(10)})
    loader = DataLoader(StoreDataset(store), batch_size=4, num_workers=1, multiprocessing_context="fork")
    assert [batch["label"].tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_rows_are_copies() -> None:
    store = Store(2)
    store.add({"x": torch.ones(2, 3)})
    StoreDataset(store)[0]["x"].zero_()
    assert store.rows()["x"].min() == 1


def test_ragged_columns_are_jagged_also_where_lengths_agree() -> None:
    store = Store(4, columns={"tokens": Ragged()})
    store.add({"tokens": jagged([[1, 2], [3, 4], [5]])})
    rows = StoreDataset(store)
    batches = list(DataLoader(rows, batch_size=2, collate_fn=rows.collate))
    assert [[row.tolist() for row in batch["tokens"].unbind()] for batch in batches] == [[[1, 2], [3, 4]], [[5]]]


def test_a_row_stays_the_same_row_or_is_gone() -> None:
    store = Store(4, keep=Fifo())
    store.add({"label": torch.arange(4)})
    rows = StoreDataset(store)
    store.add({"label": torch.tensor([9])})
    assert [rows[i]["label"].item() for i in (1, 2, 3)] == [1, 2, 3]
    with pytest.raises(KeyError, match="no longer in the store"):
        rows[0]
    with pytest.raises(IndexError):
        rows[4]
    assert len(rows) == 4
    assert len(StoreDataset(Store(3))) == 0
