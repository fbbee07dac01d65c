from __future__ import annotations

import pytest
import torch

from memreplay.core.mixers import MeanSquaredError, ReplayMeanSquaredError, View
from memreplay.core.stores.rows import Rows


def test_mean_squared_error_by_hand():
    new = View({"target": torch.tensor([[1.0, 2.0], [3.0, 4.0]])}, {"output": torch.tensor([[0.0, 0.0], [3.0, 6.0]])})
    old = View({"y": torch.tensor([1.0])}, {"f": torch.tensor([4.0])})
    assert MeanSquaredError()(new, {})["mean_squared_error"].item() == (1 + 4 + 0 + 4) / 4
    term = ReplayMeanSquaredError("past", target="y", output="f")
    assert term(new, {"past": old})["replay_mean_squared_error"].item() == 9.0


def test_importance_weights_make_a_weighted_mean():
    rows = Rows(
        {"target": torch.tensor([0.0, 0.0])}, torch.arange(2), torch.arange(2), weights=torch.tensor([3.0, 1.0])
    )
    view = View(rows, {"output": torch.tensor([[1.0], [3.0]])})
    assert ReplayMeanSquaredError()(view, {"replay": view})["replay_mean_squared_error"].item() == (3 * 1 + 9) / 4


def test_shapes_are_never_broadcast():
    view = View({"target": torch.zeros(2, 1)}, {"output": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"output 'output' has shape \(2,\) and column 'target' \(2, 1\)"):
        MeanSquaredError()(view, {})
