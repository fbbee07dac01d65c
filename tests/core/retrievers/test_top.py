from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memreplay.core.retrievers.top import Top
from memreplay.core.retrievers.vectors import Vectors


def expected(scores, k):
    """By score, then by place."""
    order = [sorted(range(len(row)), key=lambda i: (-row[i], i))[:k] for row in scores.tolist()]
    return torch.tensor(order, dtype=torch.int64).view(len(scores), min(k, scores.shape[1]))


def assert_is_top(found, scores, k):
    torch.testing.assert_close(found.scores, scores.gather(1, expected(scores, k)), rtol=0, atol=0)
    assert torch.equal(scores.gather(1, found.index), found.scores)
    assert all(len(set(row)) == len(row) for row in found.index.tolist())


@settings(max_examples=60)
@given(
    q=st.integers(0, 3),
    n=st.integers(1, 700),
    k=st.integers(0, 40),
    levels=st.sampled_from([1, 3, 10**6]),
    seed=st.integers(0, 99),
)
def test_of_long_and_short_rows(q, n, k, levels, seed):
    scores = torch.randint(levels, (q, n), generator=torch.Generator().manual_seed(seed)).float()
    found = Top.of(scores.t(), k, start=5)
    assert_is_top(Top(found.scores, found.index - 5).ordered(), scores, min(k, n))


@settings(max_examples=60)
@given(
    q=st.integers(1, 4),
    widths=st.lists(st.sampled_from([1, 31, 32, 64, 320]), min_size=1, max_size=5),
    k=st.integers(0, 50),
    levels=st.sampled_from([1, 4, 10**6]),
    order=st.sampled_from(["random", "rising", "falling"]),
    seed=st.integers(0, 99),
)
def test_extended_by_pieces(q, widths, k, levels, order, seed):
    n = sum(widths)
    scores = torch.randint(levels, (q, n), generator=torch.Generator().manual_seed(seed)).float()
    if order != "random":
        scores = scores.sort(1, descending=order == "falling").values
    found, start = Top.none(q, Vectors({"x": scores}, "x")), 0
    for piece in scores.split(widths, dim=1):
        found = found.extended(piece.t(), k, start)
        start += piece.shape[1]
    assert_is_top(found.ordered(), scores, min(k, n))


@pytest.mark.parametrize("worst", [-torch.inf, torch.inf])
def test_infinite_scores_keep_their_columns(worst):
    scores = torch.full((2, 96), worst)
    scores[1, 70] = 1.0
    found = Top.none(2, Vectors({"x": scores}, "x"))
    for start in range(0, 96, 32):
        found = found.extended(scores[:, start : start + 32].t(), 3, start)
    assert_is_top(found.ordered(), scores, 3)


def test_equal_scores_come_by_column():
    assert Top(torch.tensor([[1.0, 2.0, 1.0]]), torch.tensor([[9, 4, 2]])).ordered().index.tolist() == [[4, 2, 9]]
