from __future__ import annotations

import math

import pytest
import torch

from memreplay.core.mixers import BinaryCrossEntropy, View


def test_one_sigmoid_per_known_class_by_hand():
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.5, 0.2, -0.7]], requires_grad=True)
    target = torch.tensor([[0.8, 0.0, torch.nan], [0.1, 1.0, torch.nan]])
    loss = BinaryCrossEntropy()(View({"target": target}, {"logits": logits}), {})["binary_cross_entropy"]
    expected = 0.0
    for row, wanted in zip(logits.tolist(), target.tolist(), strict=True):
        for z, q in list(zip(row, wanted, strict=True))[:2]:
            p = 1 / (1 + math.exp(-z))
            expected -= q * math.log(p) + (1 - q) * math.log(1 - p)
    assert loss.item() == pytest.approx(expected / 4)
    loss.backward()
    assert (logits.grad[:, 2] == 0).all()
    assert (logits.grad[:, :2] != 0).all()


def test_a_draw_can_be_read_and_an_absent_one_contributes_nothing():
    view = View({"q": torch.ones(1, 2)}, {"logits": torch.zeros(1, 2)})
    term = BinaryCrossEntropy(draw="old", target="q")
    assert term(view, {}) == {}
    assert term(view, {"old": view})["binary_cross_entropy"].item() == pytest.approx(math.log(2))


def test_shapes_must_agree():
    view = View({"target": torch.zeros(2, 3)}, {"logits": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match=r"output 'logits' has shape \(2, 4\) and column 'target' \(2, 3\)"):
        BinaryCrossEntropy()(view, {})
