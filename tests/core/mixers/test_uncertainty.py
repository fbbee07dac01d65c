from __future__ import annotations

import math

import pytest
import torch

from memreplay.core.mixers import (
    CrossEntropy,
    LinearSchedule,
    MeanSquaredError,
    ReplayCrossEntropy,
    UncertaintyWeighting,
    View,
)

VIEW = View(
    {"label": torch.tensor([0]), "target": torch.tensor([3.0])},
    {"logits": torch.zeros(1, 2), "output": torch.tensor([1.0])},
)


def test_the_papers_formula_by_hand():
    mix = UncertaintyWeighting(CrossEntropy() + 0.5 * MeanSquaredError())
    with torch.no_grad():
        mix.log_variance["cross_entropy"].fill_(math.log(4.0))  # sigma = 2
        mix.log_variance["mean_squared_error"].fill_(math.log(9.0))  # sigma = 3
    terms = mix(VIEW, {})
    assert terms["cross_entropy"].item() == pytest.approx(math.log(2) / 4 + math.log(2))
    assert terms["mean_squared_error"].item() == pytest.approx(4 / (2 * 9) + math.log(3))


def test_it_starts_as_the_terms_themselves_and_learns_the_variance():
    mix = UncertaintyWeighting(MeanSquaredError())
    assert mix(VIEW, {})["mean_squared_error"].item() == 4.0
    optimizer = torch.optim.SGD(mix.parameters(), lr=0.5)
    for _ in range(100):
        optimizer.zero_grad()
        mix(VIEW, {})["mean_squared_error"].backward()
        optimizer.step()
    # exp(-s) * 4 + s / 2 is smallest at exp(s) = 8
    assert mix.log_variance["mean_squared_error"].item() == pytest.approx(math.log(8.0), rel=1e-4)


def test_it_composes_and_saves():
    weighted = UncertaintyWeighting(ReplayCrossEntropy())
    mix = CrossEntropy() + LinearSchedule(0.0, 1.0, 2) * weighted
    terms = mix.at(1)(VIEW, {"replay": VIEW})
    assert mix.names == ("cross_entropy", "replay_cross_entropy")
    assert terms["replay_cross_entropy"].item() == pytest.approx(0.5 * math.log(2))
    other = UncertaintyWeighting(ReplayCrossEntropy())
    with torch.no_grad():
        weighted.log_variance["replay_cross_entropy"].fill_(0.7)
    other.load_state_dict(weighted.state_dict())
    assert other.log_variance["replay_cross_entropy"].item() == pytest.approx(0.7)


def test_what_cannot_be_weighted_is_refused():
    with pytest.raises(ValueError, match=r"no known names; expected a term with .names"):
        UncertaintyWeighting(lambda new, old: {})
    with pytest.raises(ValueError, match=r"schedule inside; expected schedule \* UncertaintyWeighting"):
        UncertaintyWeighting(CrossEntropy() + LinearSchedule(0.0, 1.0, 2) * ReplayCrossEntropy())
