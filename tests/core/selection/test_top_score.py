from __future__ import annotations

import pytest
import torch

from memreplay.core.selection import Greedy, Keyed, TopScore, rank


def test_the_same_object_keeps_and_recalls():
    by = TopScore("loss")
    assert isinstance(by, Keyed)
    assert isinstance(by, Greedy)
    rows = {"loss": torch.tensor([[0.5], [4.0], [-1.0], [4.0]], dtype=torch.float16, requires_grad=True)}
    assert by.key(rows, torch.Generator()).tolist() == [0.5, 4.0, -1.0, 4.0]
    assert by.key(rows, torch.Generator()).dtype == torch.float64
    chosen = rank(by, rows, 3, generator=torch.Generator())
    assert chosen.index.tolist() == [1, 3, 0]
    assert chosen.score is not None
    assert not chosen.score.requires_grad


@pytest.mark.parametrize(
    ("rows", "message"),
    [({"label": torch.zeros(2)}, "column 'loss' is missing"), ({"loss": torch.zeros(2, 3)}, r"has shape \(2, 3\)")],
)
def test_one_number_per_row(rows, message):
    with pytest.raises(ValueError, match=message):
        TopScore("loss").select(rows, 1, generator=torch.Generator())
