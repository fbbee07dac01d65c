from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare

from memreplay.core.retrievers import Prioritized
from memreplay.core.selection import Pool

POOL = Pool({"loss": torch.tensor([0.5, -2.0, 0.0, 1.0])})
BY = Prioritized("loss", alpha=0.7, beta=0.5, epsilon=0.1)
MASS = [(p + 0.1) ** 0.7 for p in (0.5, 2.0, 0.0, 1.0)]


def test_one_row_is_drawn_in_proportion():
    generator = torch.Generator().manual_seed(0)
    counts = Counter(BY.select(POOL, 1, generator=generator).item() for _ in range(4000))
    assert chisquare([counts[i] for i in range(4)], [4000 * mass / sum(MASS) for mass in MASS]).pvalue > 1e-3


def test_more_rows_are_drawn_one_after_the_other_among_those_left():
    generator = torch.Generator().manual_seed(1)
    counts = Counter(tuple(BY.select(POOL, 2, generator=generator).tolist()) for _ in range(4000))
    expected = {
        (i, j): 4000 * MASS[i] / sum(MASS) * MASS[j] / (sum(MASS) - MASS[i]) for i, j in permutations(range(4), 2)
    }
    assert chisquare([counts[pair] for pair in expected], list(expected.values())).pvalue > 1e-3


def test_importance_weights():
    chosen = BY.rank(POOL, 3, generator=torch.Generator().manual_seed(0))
    raw = [(4 * MASS[i] / sum(MASS)) ** -0.5 for i in chosen.index.tolist()]
    assert chosen.weight is not None
    assert chosen.weight.tolist() == pytest.approx([w / max(raw) for w in raw])
    assert chosen.score is not None
    assert chosen.score.tolist() == POOL["loss"][chosen.index].tolist()


def test_extremes():
    flat = Prioritized("loss", alpha=0.0).rank(POOL, 9, generator=torch.Generator())
    assert flat.index.sort().values.tolist() == [0, 1, 2, 3]
    assert flat.weight is not None
    assert flat.weight.tolist() == [1.0] * 4
    huge = Pool({"loss": torch.tensor([1e300, 1e-300, 0.0], dtype=torch.float64)})
    chosen = Prioritized("loss", alpha=3.0, beta=1.0).rank(huge, 3, generator=torch.Generator())
    assert chosen.index[0] == 0
    assert chosen.weight is not None
    assert chosen.weight.isfinite().all()
    empty = BY.rank(Pool({"loss": torch.zeros(0)}), 2, generator=torch.Generator())
    assert empty.index.tolist() == []
    assert empty.weight is not None
    assert empty.weight.tolist() == []


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="column 'loss' is nan in row 1; expected finite priorities"):
        BY.select({"loss": torch.tensor([1.0, float("nan")])}, 1, generator=torch.Generator())
    for name, value in (("alpha", -0.1), ("beta", float("inf")), ("epsilon", 0.0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Prioritized("loss", **{name: value})
