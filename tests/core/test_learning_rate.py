from __future__ import annotations

import pytest
import torch

from memreplay import CosineRestarts, FinalDecay
from memreplay.core.learning_rate import scheduler


def test_the_final_decay_is_a_line_over_the_last_share():
    rate = FinalDecay(0.2)
    assert [rate(done) for done in (0.0, 0.5, 0.8)] == [1.0, 1.0, pytest.approx(1.0)]
    assert [rate(done) for done in (0.85, 0.95, 1.0)] == pytest.approx([0.75, 0.25, 0.0])


def test_cosine_restarts_are_those_of_torch():
    """Once per epoch, over 1 + 2 + 4 epochs."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=2, eta_min=0.01)
    rate = CosineRestarts(cycles=3, least=0.01)
    for epoch in (0.0, 0.25, 0.99, 1.0, 1.5, 2.75, 3.0, 5.5, 6.9):
        theirs.step(epoch)
        assert rate(epoch / 7) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9), epoch
    assert rate(1.0) == pytest.approx(0.01)


def test_a_scheduler_goes_by_the_share_of_the_steps_and_stays_at_the_end():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    each, seen = scheduler(optimizer, FinalDecay(0.5), 4), []
    for _ in range(6):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        each.step()
    assert seen == pytest.approx([0.5, 0.5, 0.5, 0.25, 0.0, 0.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FinalDecay(0), "share is 0; expected a number above 0 and up to 1"),
        (lambda: FinalDecay(1.5), "share is 1.5"),
        (lambda: CosineRestarts(cycles=0), "cycles is 0; expected at least 1"),
        (lambda: scheduler(torch.optim.SGD([torch.zeros(1)], lr=1.0), FinalDecay(), 0), "steps is 0"),
    ],
)
def test_bad_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
