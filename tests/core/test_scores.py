from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memreplay.core import scores
from memreplay.core.mixers import View
from memreplay.core.stores.rows import Rows


def random_rows(n: int, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "input": torch.randn(n, 5, generator=g, dtype=torch.float64),
        "label": torch.randint(3, (n,), generator=g),
    }


class Net(nn.Module):
    """A body and a linear head, with the body's output within reach."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
        self.head = nn.Linear(6, 3, bias=bias)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x))
        return out


def gradients_one_by_one(model: nn.Module, rows: dict[str, Tensor], parameters: list[Tensor]) -> Tensor:
    """The rows' gradients by a loop over plain autograd."""
    flat = []
    for x, y in zip(rows["input"], rows["label"], strict=True):
        loss = F.cross_entropy(model(x.unsqueeze(0)), y.unsqueeze(0))
        flat.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]))
    return torch.stack(flat)


def test_loss_by_hand():
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]], requires_grad=True)
    found = scores.loss(logits, torch.tensor([1, 1], dtype=torch.uint8))
    assert found.tolist() == pytest.approx([math.log(2), math.log(4)])
    assert not found.requires_grad
    with pytest.raises(ValueError, match="label 2 has no logit"):
        scores.loss(logits, torch.tensor([0, 2]))


def test_el2n_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2], [1.0, 1e-30, 1e-30]]).log()
    expected = [math.sqrt(0.5**2 + 0.7**2 + 0.2**2), 0.0]
    assert scores.el2n(logits, torch.tensor([1, 0])).tolist() == pytest.approx(expected, abs=1e-6)


def test_margin_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log()
    assert scores.margin(logits, torch.tensor([0, 0])).tolist() == pytest.approx([0.2, -0.7])
    assert scores.margin(logits, torch.tensor([2, 2])).tolist() == pytest.approx([-0.3, 0.7])
    assert scores.margin(logits).tolist() == pytest.approx([0.2, 0.7])


@pytest.mark.parametrize("bias", [True, False])
def test_gradient_norm_is_that_of_the_last_layer(bias):
    model, rows = Net(bias), random_rows(7, 1)
    found = scores.gradient_norm(model.body(rows["input"]), model(rows["input"]), rows["label"], bias=bias)
    expected = gradients_one_by_one(model, rows, list(model.head.parameters())).norm(dim=1)
    torch.testing.assert_close(found, expected)


def test_gradient_embedding_is_that_of_the_last_layers_weight():
    model, rows = Net(), random_rows(7, 1)
    features, logits = model.body(rows["input"]), model(rows["input"])
    found = scores.gradient_embedding(features, logits, rows["label"])
    assert found.shape == (7, 18)
    torch.testing.assert_close(found, gradients_one_by_one(model, rows, [model.head.weight]))
    predicted = {**rows, "label": logits.argmax(1)}
    found = scores.gradient_embedding(features, logits)
    torch.testing.assert_close(found, gradients_one_by_one(model, predicted, [model.head.weight]))


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_per_sample_gradients_equal_a_loop(chunk_size):
    model, rows = Net(), random_rows(7, 1)
    expected = gradients_one_by_one(model, rows, list(model.parameters()))
    found = scores.per_sample_gradients(model, rows, chunk_size=chunk_size)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    norms = scores.per_sample_gradient_norm(model, rows, chunk_size=chunk_size)
    torch.testing.assert_close(norms, expected.norm(dim=1))
    assert all(p.grad is None for p in model.parameters())


def test_per_sample_gradients_of_what_is_trained_only():
    model, rows = Net(), random_rows(4, 1)
    model.body.requires_grad_(False)
    found = scores.per_sample_gradients(model, Rows(rows, torch.arange(4), torch.arange(4)))
    torch.testing.assert_close(found, gradients_one_by_one(model, rows, list(model.head.parameters())))
    with pytest.raises(ValueError, match="no parameters that require a gradient"):
        scores.per_sample_gradients(model.requires_grad_(False), rows)


def test_per_sample_gradients_of_ones_own_loss():
    model, rows = nn.Linear(5, 1).double(), random_rows(3, 1)
    rows["target"] = torch.arange(3.0, dtype=torch.float64)

    def criterion(view: View) -> Tensor:
        return (view.output("y").squeeze(1) - view.column("target")).square()

    found = scores.per_sample_gradients(model, rows, forward=lambda m, b: {"y": m(b["input"])}, criterion=criterion)
    error = 2 * (model(rows["input"]).squeeze(1) - rows["target"])
    expected = error.unsqueeze(1) * torch.cat([rows["input"], torch.ones(3, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(found, expected)


def test_interference_equals_a_step_of_a_copy():
    model, candidates, batch, lr = Net(), random_rows(9, 1), random_rows(4, 2), 0.3
    found = scores.interference(model, candidates, batch, lr)
    moved = copy.deepcopy(model)
    optimizer = torch.optim.SGD(moved.parameters(), lr=lr)
    F.cross_entropy(moved(batch["input"]), batch["label"]).backward()
    optimizer.step()

    def losses(m: nn.Module) -> Tensor:
        return F.cross_entropy(m(candidates["input"]), candidates["label"], reduction="none")

    torch.testing.assert_close(found, losses(moved) - losses(model))
    assert found.shape == (9,)
    assert not found.requires_grad
    with torch.no_grad():
        again = scores.interference(model, Rows(candidates, torch.arange(9), torch.arange(9)), batch, lr)
    assert torch.equal(found, again)


@pytest.mark.parametrize("training", [True, False])
def test_interference_leaves_no_trace(training):
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).double().train(training)
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    before = copy.deepcopy(model.state_dict())
    scores.interference(model, random_rows(9, 1), random_rows(4, 2), 0.1)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training == training for module in model.modules())
    assert torch.equal(model[3].weight.grad, torch.ones_like(model[3].weight))
    assert [p.grad is None for p in model.parameters()] == [True, True, True, True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]


def test_no_score_touches_the_global_generator():
    model, rows = Net(), random_rows(4, 1)
    before = torch.get_rng_state()
    scores.per_sample_gradient_norm(model, rows)
    scores.interference(model, rows, random_rows(4, 2), 0.1)
    assert torch.equal(torch.get_rng_state(), before)
