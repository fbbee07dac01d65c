from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memreplay.core.retrievers import Mixture, Nearest, Prioritized
from memreplay.core.selection import Pool, TopScore, Uniform


class First:
    """Knows only the first ``n`` rows."""

    needs = ("loss",)

    def __init__(self, n: int) -> None:
        self.n = n

    def select(self, pool, k, *, query=None, generator):
        return torch.arange(min(k, self.n))


POOL = Pool({"loss": torch.arange(10.0), "feature": torch.eye(10)})


@given(
    k=st.integers(0, 14),
    weights=st.lists(st.sampled_from([0.0, 0.1, 1.0, 3.0]), min_size=3, max_size=3).filter(any),
    seed=st.integers(0, 99),
)
def test_distinct_rows_and_as_many_as_there_are(k, weights, seed):
    by = Mixture([First(2), TopScore("loss"), Uniform()], weights)
    index = by.select(POOL, k, generator=torch.Generator().manual_seed(seed))
    assert len(index) == len(index.unique()) == min(k, 10)


@given(
    k=st.integers(0, 40),
    weights=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    seed=st.integers(0, 9),
)
def test_shares_are_rounded_up_or_down(k, weights, seed):
    shares = Mixture([Uniform()] * len(weights), weights)._shares(k, torch.Generator().manual_seed(seed))
    assert sum(shares) == k
    for share, weight in zip(shares, weights, strict=True):
        assert math.floor(k * weight / sum(weights) - 1e-9) <= share <= math.ceil(k * weight / sum(weights) + 1e-9)


def test_shares_are_right_on_average():
    by, generator = Mixture([Uniform()] * 3, [0.9, 0.05, 0.05]), torch.Generator().manual_seed(0)
    total = torch.zeros(3)
    for _ in range(2000):
        total += torch.tensor(by._shares(1, generator))
    # three standard deviations of a share of 0.05 are 0.015
    torch.testing.assert_close(total / 2000, torch.tensor([0.9, 0.05, 0.05]), rtol=0, atol=0.02)


def test_everyone_gives_its_best_that_is_left():
    by = Mixture([TopScore("loss"), First(10), TopScore("loss")])
    assert by.select(POOL, 6, generator=torch.Generator()).tolist() == [9, 8, 0, 1, 7, 6]


def test_what_one_cannot_give_is_asked_of_the_others():
    by = Mixture([TopScore("loss"), First(1)])
    assert by.select(POOL, 6, generator=torch.Generator()).tolist() == [9, 8, 7, 0, 6, 5]
    assert Mixture([First(2), First(3)]).select(POOL, 8, generator=torch.Generator()).tolist() == [0, 1, 2]


def test_scores_and_weights_come_from_who_gave_the_row():
    by = Mixture([Prioritized("loss"), Uniform(), Nearest("feature")])
    assert by.needs == ("loss", "feature")
    chosen = by.rank(POOL, 6, query={"feature": torch.ones(1, 10)}, generator=torch.Generator().manual_seed(0))
    assert chosen.score is not None
    assert chosen.score[:2].tolist() == chosen.index[:2].double().tolist()
    assert chosen.score[2:4].isnan().all()
    assert chosen.score[4:].tolist() == pytest.approx([10**-0.5] * 2)
    assert chosen.weight is not None
    assert chosen.weight[2:].tolist() == [1.0] * 4
    plain = Mixture([Uniform(), First(3)]).rank(POOL, 4, generator=torch.Generator())
    assert plain.score is None
    assert plain.weight is None


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="selectors is empty"):
        Mixture([])
    with pytest.raises(ValueError, match="weights has 1 numbers for 2 selectors"):
        Mixture([Uniform(), Uniform()], [1.0])
    for weights in ([0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="expected finite numbers of at least 0, not all 0"):
            Mixture([Uniform(), Uniform()], weights)
