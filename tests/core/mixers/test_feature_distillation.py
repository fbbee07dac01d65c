from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memreplay.core.mixers import FeatureDistillation, View
from memreplay.core.stores.rows import Rows

STORED = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
FEATURE = torch.tensor([[3.0, 0.0], [0.0, -1.0]])


def view(weights: Tensor | None = None) -> View:
    rows = Rows({"feature": STORED}, torch.arange(2), torch.arange(2), weights=weights)
    return View(rows, {"feature": FEATURE})


@pytest.mark.parametrize(
    ("distance", "by_row"), [("mse", [16 / 2, 9 / 2]), ("cosine", [1 - 9 / 15, 2.0])], ids=["mse", "cosine"]
)
def test_distances_by_hand(distance, by_row):
    term = FeatureDistillation("past", distance=distance)
    terms = term(View({}, {}), {"past": view()})
    assert terms["feature_distillation"].item() == pytest.approx(sum(by_row) / 2)
    assert term.loss(view(torch.tensor([1.0, 3.0]))).item() == pytest.approx((by_row[0] + 3 * by_row[1]) / 4)


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_feature_maps_are_fine_and_other_shapes_refused(distance):
    term = FeatureDistillation(distance=distance)
    maps = torch.ones(2, 3, 4, 4)
    assert term.loss(View({"feature": maps}, {"feature": maps})).item() == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match=r"output 'feature' has shape \(2, 3\) and column 'feature' \(2, 4\)"):
        term.loss(View({"feature": torch.zeros(2, 4)}, {"feature": torch.zeros(2, 3)}))


def test_unknown_distance():
    with pytest.raises(ValueError, match="distance is 'l1'; expected 'mse' or 'cosine'"):
        FeatureDistillation(distance="l1")
