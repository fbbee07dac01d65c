from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memreplay.core.mixers import KnowledgeDistillation, View
from memreplay.core.stores.rows import Rows

NAN = float("nan")


def view(stored: Tensor, logits: Tensor, weights: Tensor | None = None) -> View:
    n = len(stored)
    return View(Rows({"logits": stored}, torch.arange(n), torch.arange(n), weights=weights), {"logits": logits})


def softmax(values: list[float], temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in values]
    return [power / sum(powers) for power in powers]


def divergence(stored: list[float], logits: list[float], temperature: float) -> float:
    p, q = softmax(stored, temperature), softmax(logits, temperature)
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergence_by_hand(temperature):
    stored, logits = [[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]], [[0.0, 1.0, 1.0], [0.0, 0.5, 3.0]]
    rows = view(torch.tensor(stored), torch.tensor(logits))
    terms = KnowledgeDistillation("past", temperature=temperature)(View({}, {}), {"past": rows})
    assert list(terms) == ["knowledge_distillation"]
    expected = divergence(stored[0], logits[0], temperature) / 2  # the second row agrees
    assert terms["knowledge_distillation"].item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_that_of_the_cross_entropy_of_lwf():
    g = torch.Generator().manual_seed(0)
    stored = torch.randn(4, 3, generator=g, dtype=torch.float64)
    logits = torch.randn(4, 5, generator=g, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(KnowledgeDistillation(temperature=2.0).loss(view(stored, logits)), logits)
    # T^2 * d CE(p, softmax(f / T)) / df = T * (q - p) / B on the teacher's classes
    expected = torch.zeros_like(found)
    expected[:, :3] = 2 * ((logits[:, :3] / 2).softmax(1) - (stored / 2).softmax(1)) / 4
    torch.testing.assert_close(found, expected)


def test_unknown_classes_are_left_out_of_both_softmaxes():
    stored = torch.tensor([[1.0, 2.0, NAN], [0.0, 0.5, 3.0]])
    logits = torch.tensor([[0.5, 0.0, 9.0, 9.0], [1.0, 1.0, 1.0, 9.0]], requires_grad=True)
    loss = KnowledgeDistillation().loss(view(stored, logits))
    expected = divergence([1.0, 2.0], [0.5, 0.0], 2.0) + divergence([0.0, 0.5, 3.0], [1.0, 1.0, 1.0], 2.0)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 2] == logits.grad[0, 3] == logits.grad[1, 3] == 0


def test_without_a_draw_the_teacher_is_a_column_of_the_new_rows():
    new = View({"teacher": torch.tensor([[1.0, 2.0]])}, {"logits": torch.tensor([[2.0, 1.0]])})
    terms = KnowledgeDistillation(None, stored="teacher")(new, {})
    assert terms["knowledge_distillation"].item() == pytest.approx(divergence([1.0, 2.0], [2.0, 1.0], 2.0), rel=1e-5)


def test_importance_weights_count_rows():
    stored, logits = [[1.0, 2.0], [0.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]
    weighted = view(torch.tensor(stored), torch.tensor(logits), torch.tensor([3.0, 1.0]))
    expected = (3 * divergence(stored[0], logits[0], 2.0) + divergence(stored[1], logits[1], 2.0)) / 4
    assert KnowledgeDistillation().loss(weighted).item() == pytest.approx(expected, rel=1e-5)


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="temperature is 0; expected a number above 0"):
        KnowledgeDistillation(temperature=0)
