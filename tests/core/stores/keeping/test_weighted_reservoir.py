from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare

from memreplay.core.selection import rank
from memreplay.core.stores.keeping import Fifo, Jumping, TopScore, WeightedReservoir

ROWS = {"w": torch.tensor([0.5, 3.0, 0.0, 1.0, 1.5])}
W = ROWS["w"].tolist()


def test_one_row_is_kept_in_proportion_to_its_weight():
    generator = torch.Generator().manual_seed(0)
    counts = Counter(rank(WeightedReservoir("w"), ROWS, 1, generator=generator).index.item() for _ in range(3000))
    assert chisquare([counts[i] for i in (0, 1, 3, 4)], [500 * W[i] for i in (0, 1, 3, 4)]).pvalue > 1e-3
    assert counts[2] == 0


def test_two_rows_are_kept_as_if_drawn_one_after_the_other():
    generator = torch.Generator().manual_seed(1)
    draws = (rank(WeightedReservoir("w"), ROWS, 2, generator=generator).index.tolist() for _ in range(3000))
    counts = Counter(map(tuple, draws))
    expected = {(i, j): 3000 * W[i] / 6 * W[j] / (6 - W[i]) for i, j in permutations((0, 1, 3, 4), 2)}
    assert chisquare([counts[pair] for pair in expected], list(expected.values())).pvalue > 1e-3


def test_extreme_weights_keep_their_order():
    # u ** (1 / w) would be 0 or 1 for all of these
    rows = {"w": torch.tensor([1e-300, 1e300, 1e-290, 0.0], dtype=torch.float64)}
    keys = WeightedReservoir("w").key(rows, torch.Generator().manual_seed(0))
    assert keys.argsort(descending=True).tolist() == [1, 2, 0, 3]
    assert keys[3] == -torch.inf


def test_only_samplers_jump():
    assert isinstance(WeightedReservoir("w"), Jumping)
    assert WeightedReservoir("w").weight(ROWS).tolist() == W
    assert not isinstance(Fifo(), Jumping)
    assert not isinstance(TopScore("w"), Jumping)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_bad_weight_is_named(bad):
    with pytest.raises(ValueError, match=f"column 'w' is {bad} in row 1; expected finite weights of at least 0"):
        WeightedReservoir("w").key({"w": torch.tensor([1.0, bad])}, torch.Generator())
    with pytest.raises(ValueError, match="column 'w' is missing"):
        WeightedReservoir("w").weight({"weight": torch.ones(1)})
