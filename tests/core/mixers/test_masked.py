from __future__ import annotations

import math

import pytest
import torch

from memreplay.core.mixers import MaskedCrossEntropy, ReplayCrossEntropy, View


def test_only_present_classes_compete():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 10, generator=g, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([7, 2, 7, 7, 4, 2])
    loss = MaskedCrossEntropy()(View({"label": labels}, {"logits": logits}), {})["cross_entropy"]
    expected = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        expected += math.log(sum(math.exp(row[c]) for c in (2, 4, 7))) - row[label]
    assert loss.item() == pytest.approx(expected / 6)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    absent = [c for c in range(10) if c not in (2, 4, 7)]
    assert (logits.grad[:, absent] == 0).all()
    assert (logits.grad[:, [2, 4, 7]] != 0).all()


def test_er_ace_is_masked_plus_replay():
    view = View({"label": torch.tensor([0, 1])}, {"logits": torch.zeros(2, 4)})
    terms = (MaskedCrossEntropy() + ReplayCrossEntropy())(view, {"replay": view})
    assert terms["cross_entropy"].item() == pytest.approx(math.log(2))
    assert terms["replay_cross_entropy"].item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("bad", [4, -1])
def test_a_label_without_a_logit_is_named(bad):
    view = View({"label": torch.tensor([0, bad], dtype=torch.int32)}, {"logits": torch.zeros(2, 4)})
    with pytest.raises(ValueError, match=f"label {bad} has no logit; the model gave 4 classes"):
        MaskedCrossEntropy()(view, {})
