from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memreplay.core.retrievers import scan
from memreplay.core.retrievers.best import Best

pytestmark = pytest.mark.skipif(scan.compiled is None, reason="no C compiler built _scan.c")


def expected(scores, k):
    """By score, then by row: (q, k)."""
    order = [sorted(range(len(line)), key=lambda i: (-line[i], i))[:k] for line in scores.tolist()]
    return torch.tensor(order, dtype=torch.int64).view(len(scores), k)


def check(best, scores, k):
    top = best.top().ordered()
    order = expected(scores, k)
    assert torch.equal(top.index, order)
    assert torch.equal(top.scores, scores.gather(1, order))


@settings(max_examples=80)
@given(
    q=st.sampled_from([1, 2, 63, 64, 65, 130]),
    heights=st.lists(st.integers(1, 140), min_size=1, max_size=5),
    k=st.integers(1, 50),
    levels=st.sampled_from([1, 4, 10**6]),
    order=st.sampled_from(["random", "rising", "falling"]),
    seed=st.integers(0, 99),
)
def test_equals_sorting(q, heights, k, levels, order, seed):
    n = sum(heights)
    k = min(k, n)
    scores = torch.randint(levels, (q, n), generator=torch.Generator().manual_seed(seed)).float()
    if order != "random":
        scores = scores.sort(1, descending=order == "falling").values
    best, start = Best(q, k), 0
    for piece in scores.split(heights, dim=1):
        best.see(piece.t().contiguous(), start)
        start += piece.shape[1]
    check(best, scores, k)


@pytest.mark.parametrize("q", [1, 3])
def test_bias_and_scale(q):
    generator = torch.Generator().manual_seed(0)
    tile, bias, scale = (torch.randn(*shape, generator=generator) for shape in ((500, q), (500,), (500,)))
    for b, s in ((bias, None), (None, scale), (bias, scale)):
        best = Best(q, 7)
        best.see(tile[:200], 0, None if b is None else b[:200], None if s is None else s[:200])
        best.see(tile[200:], 200, None if b is None else b[200:], None if s is None else s[200:])
        whole = (tile + (0 if b is None else b[:, None])) * (1 if s is None else s[:, None])
        check(best, whole.t(), 7)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("worst", [-torch.inf, torch.inf, torch.nan])
def test_scores_that_are_not_finite(q, worst):
    tile = torch.full((300, q), worst)
    tile[70] = 1.0
    best = Best(q, 3)
    best.see(tile, 0)
    check(best, tile.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).t(), 3)


def test_nothing_wanted():
    best = Best(2, 0)
    best.see(torch.zeros(5, 2), 0)
    assert best.top().index.shape == (2, 0)
