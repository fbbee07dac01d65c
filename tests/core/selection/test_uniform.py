from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from memreplay.core.selection import Pool, Uniform, rank
from memreplay.core.selection.uniform import sample_distinct


@given(n=st.integers(0, 60), k=st.integers(0, 70), seed=st.integers(0, 1000))
def test_distinct_and_in_range(n, k, seed):
    index = sample_distinct(n, k, torch.Generator().manual_seed(seed))
    assert index.dtype == torch.int64
    assert len(index) == len(index.unique()) == min(n, k)
    assert ((index >= 0) & (index < n)).all()


# 2 of 5 goes through distinct draws with replacement, 3 of 5 through a permutation
@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_ordered_choice_is_equally_likely(k):
    generator = torch.Generator().manual_seed(k)
    choices = list(permutations(range(5), k))
    repetitions = 100 * len(choices)
    counts = Counter(tuple(sample_distinct(5, k, generator).tolist()) for _ in range(repetitions))
    assert chisquare([counts[choice] for choice in choices]).pvalue > 1e-3


def test_the_cost_does_not_depend_on_the_pool():
    assert len(sample_distinct(10**15, 5, torch.Generator()).unique()) == 5


def test_only_the_generator_decides():
    pool = Pool({"label": torch.zeros(50)})
    state = torch.random.get_rng_state()
    one = Uniform().select(pool, 9, generator=torch.Generator().manual_seed(3))
    other = rank(Uniform(), pool, 9, generator=torch.Generator().manual_seed(3))
    assert torch.equal(one, other.index)
    assert other.score is None
    assert other.weight is None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_negative_k_is_named():
    with pytest.raises(ValueError, match="k is -1"):
        Uniform().select({"label": torch.zeros(3)}, -1, generator=torch.Generator())
