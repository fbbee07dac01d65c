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


class Tokens(nn.Module):
    """The input as five tokens of one number, through a layer of a transformer."""

    def __init__(self, rows_first: bool = True) -> None:
        super().__init__()
        self.rows_first = rows_first
        self.embed = nn.Linear(1, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=rows_first)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.unsqueeze(2) if self.rows_first else x.t().unsqueeze(2)
        out: Tensor = self.head(self.layer(self.embed(tokens)).mean(1 if self.rows_first else 0))
        return out


class Twice(nn.Module):
    """One layer used as a layer twice, another as a layer and by its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.idle = nn.Linear(5, 5), nn.Linear(5, 3), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.body(x).tanh())
        out: Tensor = self.head(x) + x @ self.head.weight.t() ** 2
        return out


def image_net(*layers: nn.Module) -> nn.Module:
    """Convolutions over the input as an image."""
    return nn.Sequential(nn.Unflatten(1, (1, 5, 1)), *layers, nn.Flatten(), nn.LazyLinear(3))


MODELS = {
    "linear": lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3, bias=False)),
    "convolutions": lambda: image_net(
        nn.Conv2d(1, 3, (3, 1), padding=(2, 0), stride=(2, 1)), nn.Tanh(), nn.Conv2d(3, 4, (2, 1), dilation=(2, 1))
    ),
    "other convolutions": lambda: image_net(
        nn.Conv2d(1, 4, (3, 1), padding="same"), nn.Tanh(), nn.Conv2d(4, 4, (2, 1), groups=2)
    ),
    "norms": lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 3)),
    "frozen": lambda: nn.Sequential(nn.Linear(5, 6).requires_grad_(False), nn.Tanh(), nn.Linear(6, 3)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 3)),
    "tokens": Tokens,
    "tokens first": lambda: Tokens(rows_first=False),
    "twice": Twice,
}


@pytest.mark.parametrize("n", [4, 7])  # with 4 rows and the one that is doubled, rows are as many as tokens
@pytest.mark.parametrize("name", MODELS)
def test_factored_gradients_equal_a_loop(name, n):
    torch.manual_seed(0)
    model, rows = MODELS[name]().eval().double(), random_rows(n, 1)
    model(rows["input"])
    parameters = [p for p in model.parameters() if p.requires_grad]
    flat = []
    for x, y in zip(rows["input"], rows["label"], strict=True):
        loss = F.cross_entropy(model(x.unsqueeze(0)), y.unsqueeze(0))
        found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        flat.append(torch.cat([g.reshape(-1) for g in found]))
    expected = torch.stack(flat)
    before = copy.deepcopy(model.state_dict())
    gradients = scores.factored_gradients(model, rows)
    products, squares = gradients.products(3)
    assert len(gradients) == n
    torch.testing.assert_close(products, expected[:3] @ expected[3:].T, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(squares, expected.square().sum(1), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(expected, scores.per_sample_gradients(model, rows))
    assert not products.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(values, before[key]) for key, values in model.state_dict().items())


def test_factored_gradients_of_a_bias_only():
    model, rows = Net(), random_rows(7, 1)
    model.requires_grad_(False)
    model.body[0].bias.requires_grad_(True)
    products, _ = scores.factored_gradients(model, rows).products(2)
    expected = gradients_one_by_one(model, rows, [model.body[0].bias])
    torch.testing.assert_close(products, expected[:2] @ expected[2:].T)


def test_factored_gradients_of_ones_own_loss():
    model, rows = nn.Linear(5, 1).double(), random_rows(3, 1)
    rows["target"] = torch.arange(3.0, dtype=torch.float64)

    def criterion(view: View) -> Tensor:
        return (view.output("y").squeeze(1) - view.column("target")).square()

    def forward(m: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"y": m(batch["input"])}

    with torch.no_grad():
        found = scores.factored_gradients(model, rows, forward=forward, criterion=criterion).products(1)
    dense = scores.per_sample_gradients(model, rows, forward=forward, criterion=criterion)
    torch.testing.assert_close(found, (dense[:1] @ dense[1:].T, dense.square().sum(1)))
    with pytest.raises(ValueError, match=r"criterion gave shape \(\) for 4 rows; expected one loss per row"):
        scores.factored_gradients(model, rows, forward=forward, criterion=lambda view: criterion(view).mean())


def test_factored_gradients_refuse_batch_statistics():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises((RuntimeError, ValueError)):
        scores.factored_gradients(model, random_rows(7, 1)).products(2)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


@pytest.mark.parametrize("bias", [True, False])
def test_last_layer_gradients_equal_a_loop(bias):
    model, rows = Net(bias), random_rows(7, 1)
    found = scores.last_layer_gradients(model.body(rows["input"]), model(rows["input"]), rows["label"], bias=bias)
    expected = gradients_one_by_one(model, rows, list(model.head.parameters()))
    torch.testing.assert_close(found.products(3), (expected[:3] @ expected[3:].T, expected.square().sum(1)))


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
