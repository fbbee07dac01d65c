from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from memreplay.core.mixers import AGem
from memreplay.core.mixers.projection import leaves, project


def rows(seed: int) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def losses(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Two losses that share their graph and disagree."""
    outputs = model(torch.cat([rows(0), rows(1)]))
    new, old = outputs.split(8)
    return (new - 1).square().mean(), (old + 2).square().mean()


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.reshape(-1) for part in parts])


def written(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()


def expected(model: nn.Module) -> Tensor:
    g, r = gradient(losses(model)[0], model), gradient(losses(model)[1], model)
    assert g @ r < 0
    return g - (g @ r) / (r @ r) * r


def test_project_by_hand():
    g = torch.tensor([3.0, -1.0])
    assert project(g, torch.tensor([1.0, 2.0])).tolist() == [3.0, -1.0]  # dot 1: as it is
    assert project(g, torch.tensor([0.0, 4.0])).tolist() == [3.0, 0.0]
    torch.testing.assert_close(project(g, torch.tensor([-1.0, 1.0])), torch.tensor([1.0, 1.0]))
    assert project(g, torch.zeros(2)).tolist() == [3.0, -1.0]


@pytest.mark.parametrize("found", [True, False])
def test_a_disagreeing_gradient_is_projected(model, found):
    AGem()(*losses(model), parameters=None if found else model.parameters())
    torch.testing.assert_close(written(model), expected(model))
    torch.testing.assert_close(written(model) @ gradient(losses(model)[1], model), torch.zeros((), dtype=torch.float64))


def test_an_agreeing_gradient_is_left_alone(model):
    new, _ = losses(model)
    AGem()(new, 3 * new, model.parameters())
    torch.testing.assert_close(written(model), gradient(losses(model)[0], model))


def test_gradients_accumulate(model):
    before = [torch.full_like(p, 0.5) for p in model.parameters()]
    for parameter, start in zip(model.parameters(), before, strict=True):
        parameter.grad = start.clone()
    AGem()(*losses(model), model.parameters())
    torch.testing.assert_close(written(model), expected(model) + 0.5)


def test_written_gradients_are_apart(model):
    AGem()(*losses(model), model.parameters())
    storages = {p.grad.untyped_storage().data_ptr() for p in model.parameters() if p.grad is not None}
    assert len(storages) == 4


def test_parameters_that_a_loss_does_not_reach_count_as_zero():
    shared, only_new, frozen = (torch.ones(2, requires_grad=flag) for flag in (True, True, False))
    AGem()((shared * frozen).sum() + 3 * only_new.sum(), -shared[0] * 2, [shared, only_new, frozen])
    # g = (1, 1, 3, 3), r = (-2, 0, 0, 0): g.r < 0, so the first entry is removed
    assert shared.grad is not None
    assert only_new.grad is not None
    assert shared.grad.tolist() == [0.0, 1.0]
    assert only_new.grad.tolist() == [3.0, 3.0]
    assert frozen.grad is None


def test_leaves_are_found_once_in_the_order_of_the_graph(model):
    found = leaves(*losses(model))
    assert {id(p) for p in found} == {id(p) for p in model.parameters()}
    assert len(found) == 4
    assert [id(p) for p in leaves(*losses(model))] == [id(p) for p in found]
    assert leaves(torch.zeros(())) == []


def test_no_parameters_is_an_error(model):
    with pytest.raises(ValueError, match="parameters is empty"):
        AGem()(*losses(model), [])


def test_accumulation_steps_of_the_accelerator(model):
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    AGem()(*losses(model), model.parameters(), accelerator)
    torch.testing.assert_close(written(model), expected(model) / 4)


def test_loss_scale_is_undone_by_the_scalers_step(model):
    model.float()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def single(model: nn.Module) -> tuple[Tensor, Tensor]:
        new, old = model(torch.cat([rows(0), rows(1)]).float()).split(8)
        return (new - 1).square().mean(), (old + 2).square().mean()

    g, r = (gradient(loss, model) for loss in [single(model)[0], single(model)[1]])
    AGem()(*single(model), model.parameters(), SimpleNamespace(scaler=scaler, gradient_accumulation_steps=1))
    torch.testing.assert_close(written(model), 1024 * (g - (g @ r) / (r @ r) * r))
    before = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    scaler.step(optimizer)
    after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(before - after, g - (g @ r) / (r @ r) * r, rtol=1e-4, atol=1e-6)
