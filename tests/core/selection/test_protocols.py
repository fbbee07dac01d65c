from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memreplay.core.selection import Greedy, Keyed, Pool, Ranker, Uniform, rank, top


class Shortest:
    """A user's keyed policy: nothing inherited."""

    def key(self, batch, generator):
        return -batch["length"].double()


class EverySecond:
    """A user's greedy selector, careless about dtype."""

    needs = ("label",)

    def select(self, pool, k, *, query=None, generator):
        return torch.arange(0, len(pool["label"]), 2, dtype=torch.int32)[:k]


def test_user_classes_speak_the_protocols():
    assert isinstance(Shortest(), Keyed)
    assert not isinstance(Shortest(), Greedy)
    assert isinstance(EverySecond(), Greedy)
    assert isinstance(Uniform(), Greedy)


def test_rank_serves_both_protocols():
    pool = {"length": torch.tensor([4, 1, 9, 1]), "label": torch.arange(4)}
    keyed = rank(Shortest(), pool, 3, generator=torch.Generator())
    assert keyed.index.tolist() == [1, 3, 0]
    assert keyed.score is not None
    assert keyed.score.tolist() == [-1, -1, -4]
    greedy = rank(EverySecond(), pool, 3, generator=torch.Generator())
    assert greedy.index.tolist() == [0, 2]
    assert greedy.index.dtype == torch.int64
    assert greedy.score is None


def test_rank_refuses_what_is_no_selector():
    with pytest.raises(TypeError, match="3 is no selector"):
        rank(3, {"label": torch.zeros(1)}, 1, generator=torch.Generator())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Ranker must override rank"):
        Ranker().select({"label": torch.zeros(1)}, 1, generator=torch.Generator())
    with pytest.raises(ValueError, match="k is -2"):
        rank(Shortest(), {"length": torch.zeros(1)}, -2, generator=torch.Generator())


@given(scores=st.lists(st.integers(-3, 3), max_size=30), k=st.integers(0, 35))
def test_top_is_a_stable_sort(scores, k):
    chosen = top(torch.tensor(scores, dtype=torch.float32), k)
    expected = sorted(range(len(scores)), key=lambda i: -scores[i])[:k]
    assert chosen.index.tolist() == expected
    assert chosen.score is not None
    assert chosen.score.tolist() == [scores[i] for i in expected]


def test_top_with_infinities():
    assert top(torch.tensor([-torch.inf, 1.0, torch.inf, -torch.inf]), 3).index.tolist() == [2, 1, 0]


def test_pool_reads_takes_and_cuts():
    pool = Pool.of({"label": torch.tensor([5, 6, 7, 8]), "feature": torch.arange(8.0).view(4, 2)})
    assert Pool.of(pool) is pool
    assert (pool.size, len(pool), list(pool)) == (4, 2, ["label", "feature"])
    part = pool.subset(torch.tensor([3, 1]))
    assert part.size == 2
    assert part["label"].tolist() == [8, 6]
    assert part.subset(torch.tensor([1])).take(torch.tensor([0]))["feature"].tolist() == [[2.0, 3.0]]
    assert part.chunk("label", 1, 2).tolist() == [6]
    taken = pool.take(torch.tensor([0]))
    taken["label"][0] = 0
    assert pool["label"][0] == 5
    with pytest.raises(KeyError, match="no column 'logits'"):
        pool["logits"]


def test_what_is_derived_is_built_once():
    pool, calls = Pool({"label": torch.zeros(1)}), []
    for _ in range(2):
        assert pool.derived("index", lambda: calls.append(1) or len(calls)) == 1
    assert pool.subset(torch.tensor([0])).derived("index", lambda: "its own") == "its own"
