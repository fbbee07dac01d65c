from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memreplay.core.mixers import CrossEntropy, LogitDistillation, ReplayCrossEntropy, View, joint_forward
from memreplay.core.stores.rows import Rows

NAN = float("nan")


def view(stored: Tensor, logits: Tensor, weights: Tensor | None = None) -> View:
    n = len(stored)
    return View(Rows({"logits": stored}, torch.arange(n), torch.arange(n), weights=weights), {"logits": logits})


def test_mean_over_rows_and_classes_by_hand():
    stored, logits = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[1.0, 1.0], [2.0, 6.0]])
    terms = LogitDistillation("past")(View({}, {}), {"past": view(stored, logits)})
    assert {name: value.item() for name, value in terms.items()} == {"logit_distillation": (1 + 0 + 0 + 9) / 4}


def test_only_classes_known_when_stored_count():
    stored = torch.tensor([[0.0, NAN, NAN], [1.0, 2.0, NAN]])
    logits = torch.tensor([[1.0, 50.0, 50.0, 50.0], [1.0, 5.0, 50.0, 50.0]], requires_grad=True)
    loss = LogitDistillation().loss(view(stored, logits))
    assert loss.item() == pytest.approx((1 + 0 + 9) / 3)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[pytest.approx(2 / 3), 0, 0, 0], [0, pytest.approx(2.0), 0, 0]]


@pytest.mark.parametrize("last", [7.0, NAN])
def test_importance_weights_count_rows(last):
    stored, weights = torch.tensor([[0.0, 0.0], [0.0, last]]), torch.tensor([3.0, 1.0])
    logits = torch.tensor([[1.0, 1.0], [2.0, 8.0]])
    expected = (3 * 2 + 4 + 1) / 8 if last == 7.0 else (3 * 2 + 4) / 7
    assert LogitDistillation().loss(view(stored, logits, weights)).item() == pytest.approx(expected)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"column 'logits' has shape \(1, 3\) and output 'logits' \(1, 2\)"):
        LogitDistillation().loss(view(torch.zeros(1, 3), torch.zeros(1, 2)))
    with pytest.raises(KeyError, match=r"column 'teacher' is missing; the rows have \['logits'\]"):
        LogitDistillation(stored="teacher").loss(view(torch.zeros(1, 3), torch.zeros(1, 3)))


def test_der_plus_plus_equals_the_step_written_by_hand():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3).double()
    g = torch.Generator().manual_seed(0)

    def draw() -> dict[str, Tensor]:
        return {
            "input": torch.randn(5, 4, generator=g, dtype=torch.float64),
            "label": torch.randint(3, (5,), generator=g),
            "logits": torch.randn(5, 3, generator=g, dtype=torch.float64),
        }

    batch, labels, logits = draw(), draw(), draw()
    mix = CrossEntropy() + 0.5 * ReplayCrossEntropy("labels") + 0.2 * LogitDistillation("logits")
    terms = mix(*joint_forward(model, batch, {"labels": labels, "logits": logits}))

    def cross_entropy(rows: dict[str, Tensor]) -> Tensor:
        return -model(rows["input"]).log_softmax(1)[torch.arange(5), rows["label"]].mean()

    expected = {
        "cross_entropy": cross_entropy(batch),
        "replay_cross_entropy": 0.5 * cross_entropy(labels),
        "logit_distillation": 0.2 * ((model(logits["input"]) - logits["logits"]) ** 2).mean(),
    }
    assert list(terms) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-12, atol=0)
    found = torch.autograd.grad(sum(terms.values()), list(model.parameters()))
    wanted = torch.autograd.grad(sum(expected.values()), list(model.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)
