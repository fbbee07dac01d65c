from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from memreplay.core.mixers import EMA


def follow(warmup: bool, values: list[float], decay: float) -> list[float]:
    model = nn.Linear(1, 1, bias=False)
    average = EMA(model, decay=decay, warmup=warmup)
    seen = []
    for value in values:
        nn.init.constant_(model.weight, value)
        average.update(model)
        seen.append(average(torch.ones(1, 1)).item())
    return seen


def test_averages_by_hand():
    assert follow(False, [1.0, 2.0, 4.0], decay=0.5) == pytest.approx([1.0, 1.5, 2.75])
    # keeps 0, 1/2, 2/3, then at most 0.7: the plain mean of the first three
    assert follow(True, [1.0, 2.0, 6.0, 13.0], decay=0.7) == pytest.approx([1.0, 1.5, 3.0, 0.7 * 3 + 0.3 * 13])


def test_buffers_are_copied_and_the_model_is_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = EMA(model)
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = copy.deepcopy(model.state_dict())
    average.update(model)
    assert torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    assert model.training
    assert not average.training
    assert not any(p.requires_grad for p in average.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_it_resumes_bit_for_bit():
    model = nn.Linear(2, 2)
    first = EMA(model, decay=0.9, warmup=True)
    for _ in range(3):
        nn.init.normal_(model.weight)
        first.update(model)
    second = EMA(nn.Linear(2, 2), decay=0.9, warmup=True)
    second.load_state_dict(first.state_dict())
    nn.init.normal_(model.weight)
    for average in (first, second):
        average.update(model)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("warmup", [True, False])
def test_decay_must_be_a_share(warmup):
    with pytest.raises(ValueError, match=r"1.5"):
        EMA(nn.Linear(1, 1), decay=1.5, warmup=warmup)
