from __future__ import annotations

import pytest
import torch

from memreplay.core.selection import rank
from memreplay.core.stores.keeping import Fifo


def test_the_newest_rows_first():
    rows = {"id": torch.tensor([12, 2**40, 11, 13])}
    assert Fifo().key(rows, torch.Generator()).dtype == torch.float64
    assert rank(Fifo(), rows, 3, generator=torch.Generator()).index.tolist() == [1, 3, 0]


def test_ids_are_needed():
    with pytest.raises(ValueError, match="column 'id' is missing"):
        Fifo().key({"label": torch.zeros(2)}, torch.Generator())
