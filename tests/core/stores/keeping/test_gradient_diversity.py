from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from memreplay.core import scores
from memreplay.core.gradients import DenseGradients
from memreplay.core.selection import Pool, rank
from memreplay.core.selection.uniform import sample_distinct
from memreplay.core.stores import Growable, Store, incoming, pool, table
from memreplay.core.stores.keeping import GradientDiversity, Reservoir, StoredGradientDiversity, gradient_diversity


def by_input(rows):
    return rows["input"]


def stream(n, d=3, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def row_by_row(held, scores, new, k, sample, generator):
    """Algorithm 2 with one gradient at a time; ``held`` and ``new`` are lists of gradients."""
    held, scores = list(held), list(scores)
    if not held:
        held, scores, new = list(new[:k]), [1.1] * min(k, len(new)), new[k:]
        if not new:
            return held, scores
    compared = [held[i] for i in sample_distinct(len(held), sample, generator).tolist()]
    own = [max(cosine(g, h) for h in compared) + 1 for g in new]
    room = max(0, k - len(held))
    chances = torch.rand(max(0, len(new) - room), 2, dtype=torch.float64, generator=generator).tolist()
    for g, c in zip(new, own, strict=True):
        if len(held) < k:
            held.append(g)
            scores.append(c)
            continue
        place, luck = chances.pop(0)
        if c < 1:
            i, below = 0, scores[0]
            while below <= place * sum(scores):
                i += 1
                below += scores[i]
            if luck < scores[i] / (scores[i] + c):
                held[i], scores[i] = g, c
    return held, scores


@pytest.mark.parametrize("policy", [GradientDiversity(by_input, sample=4), StoredGradientDiversity("input", sample=4)])
def test_a_stream_gives_what_the_published_loop_gives(policy):
    ours, reference = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    pool_inputs, keys = torch.empty(0, 3), torch.empty(0, dtype=torch.float64)
    held, scores = [], []
    for batch in stream(300).split([7, 5, 1, 30, 90, 167]):
        pool = {
            "input": torch.cat([pool_inputs, batch]),
            "key": torch.cat([keys, torch.full((len(batch),), torch.nan, dtype=torch.float64)]),
        }
        chosen = rank(policy, pool, 20, generator=ours)
        order = sorted(range(len(held)), key=scores.__getitem__)  # the pool below holds them in this order
        held, scores = [held[i] for i in order], [scores[i] for i in order]
        held, scores = row_by_row(held, scores, batch.tolist(), 20, 4, reference)
        assert chosen.score is not None
        assert chosen.score.tolist() == sorted(chosen.score.tolist())
        pairs = sorted(zip(chosen.score.tolist(), pool["input"][chosen.index].tolist(), strict=True))
        expected = sorted(zip(scores, held, strict=True))
        assert [row for _, row in pairs] == [pytest.approx(row) for _, row in expected]
        assert [score for score, _ in pairs] == pytest.approx([score for score, _ in expected], rel=1e-5)
        pool_inputs, keys = pool["input"][chosen.index], chosen.score
    assert (keys < 1).any()


@pytest.mark.parametrize("columns", [{}, {"label": Growable(width=2)}], ids=["plain", "growable"])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_store_holds_row_by_row_what_the_published_loop_holds(columns, compiled, monkeypatch):
    if not compiled:
        for module in (gradient_diversity, incoming, pool, table):
            monkeypatch.setattr(module, "loops", None)
    store = Store(20, keep=GradientDiversity(by_input, sample=4), columns=columns, seed=5)
    reference = torch.Generator().manual_seed(5)
    held, scores, seen = [], [], 0
    for batch in stream(300).split([7, 5, 1, 30, 90, 167]):
        ids = torch.arange(seen, seen + len(batch))
        slots = store.add({"input": batch, "label": ids.unsqueeze(1).float()})
        seen += len(batch)
        held, scores = row_by_row(held, scores, batch.tolist(), 20, 4, reference)
        rows = store.rows()
        torch.testing.assert_close(rows["input"], torch.tensor(held))
        torch.testing.assert_close(store.state_dict()["tensors"]["books.key"], torch.tensor(scores).double())
        assert torch.equal(rows["label"][:, 0], rows.ids.float())
        there = slots >= 0
        assert torch.equal(rows.ids[slots[there]], ids[there])
        assert there.sum() == (rows.ids >= ids[0]).sum()
    assert min(scores) < 1


def test_a_store_that_took_over_the_rows_of_another_policy_scores_them_first():
    store = Store(20, keep=Reservoir(), seed=0)
    store.add({"input": stream(20)})
    store.resize(20, keep=GradientDiversity(by_input))
    store.add({"input": stream(5, seed=1)})
    keys = store.state_dict()["tensors"]["books.key"]
    assert ((keys >= 0) & (keys <= 2)).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.integers(1, 30), st.integers(0, 30), st.integers(0, 2**31), st.booleans())
def test_a_challenge_is_the_same_in_python(m, n, held, seed, ties):
    if gradient_diversity.loops is None:
        pytest.skip("memreplay was installed without a C compiler")
    random = np.random.default_rng(seed)
    free = int(random.integers(0 if held else 1, n + 1))
    squares = random.random(m + n) * random.integers(0, 2, m + n)
    products = random.normal(size=(m, n)) * 0.5
    keys = random.random(held) * 2
    if ties:
        products, keys = products.round(1), keys.round(1)
    found = []
    for way in (gradient_diversity.loops.challenge, gradient_diversity._challenge):
        slots, scores = np.zeros(n, np.int64), np.zeros(n)
        chances = np.random.default_rng(seed).random((n - free, 2))
        assert way(products, squares, keys.copy(), free, chances, slots, scores) == -1
        found.append((slots, scores))
        endless = np.append(squares[:-1], np.inf)
        assert way(products, endless, keys, free, chances, slots.copy(), scores.copy()) == m + n - 1
    for fast, slow in zip(*found, strict=True):
        assert np.array_equal(fast, slow)


def test_gradients_in_factors_keep_the_same_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    g = torch.Generator().manual_seed(1)
    pool = {"input": stream(200).double(), "label": torch.randint(2, (200,), generator=g)}
    pool["key"] = torch.cat([torch.full((20,), 1.1), torch.full((180,), torch.nan)])
    chosen = [
        rank(GradientDiversity(lambda rows, f=f: f(model, rows), sample=2), pool, 20, generator=g.manual_seed(2))
        for f in (scores.factored_gradients, scores.per_sample_gradients)
    ]
    assert chosen[0].index.tolist() == chosen[1].index.tolist()
    assert max(chosen[0].index) >= 20
    torch.testing.assert_close(chosen[0].score, chosen[1].score)


def test_the_lottery_has_the_published_odds():
    # two opposite rows are held with scores 0.6 and 1.4; the new row is at a right angle to one and opposes the other
    pool = Pool(
        {
            "input": torch.tensor([[1.0, 0.0], [0.9, -0.1], [-1.0, 0.4]]),
            "key": torch.tensor([0.6, 1.4, torch.nan], dtype=torch.float64),
        }
    )
    c = 1 + max(cosine(pool["input"][2].tolist(), pool["input"][i].tolist()) for i in (0, 1))
    generator = torch.Generator().manual_seed(0)
    lost = Counter()
    for _ in range(2000):
        chosen = GradientDiversity(by_input).select(pool, 2, generator=generator).tolist()
        lost[({0, 1, 2} - set(chosen)).pop()] += 1
    first, second = 0.3 * 0.6 / (0.6 + c), 0.7 * 1.4 / (1.4 + c)
    expected = [2000 * first, 2000 * second, 2000 * (1 - first - second)]
    assert chisquare([lost[i] for i in range(3)], expected).pvalue > 1e-3


def test_gradients_are_asked_for_only_where_needed():
    asked = []

    def gradients(rows):
        asked.append(rows["input"][:, 0].tolist())
        return rows["input"]

    key = torch.cat([torch.full((50,), 0.5), torch.full((4,), torch.nan)])
    pool = {"input": torch.arange(54.0).view(54, 1), "key": key}
    GradientDiversity(gradients, sample=6).select(pool, 50, generator=torch.Generator())
    (rows,) = asked
    assert rows[6:] == [50.0, 51.0, 52.0, 53.0]
    assert len(set(rows[:6])) == 6
    assert max(rows[:6]) < 50
    GradientDiversity(gradients).select({"input": torch.ones(3, 1)}, 3, generator=torch.Generator())
    assert len(asked) == 1


def test_similar_rows_never_enter_a_full_memory():
    pool = {"input": torch.ones(40, 2), "key": torch.cat([torch.full((5,), 1.1), torch.full((35,), torch.nan)])}
    before = pool["key"].clone()
    chosen = rank(GradientDiversity(by_input), pool, 5, generator=torch.Generator())
    assert chosen.index.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(pool["key"], before, equal_nan=True)


def test_no_gradient_no_direction():
    key = torch.tensor([0.0, 0.0, torch.nan, torch.nan])
    pool = {"input": torch.tensor([[1.0], [1.0], [0.0], [-1.0]]), "key": key}
    chosen = rank(GradientDiversity(by_input), pool, 4, generator=torch.Generator())
    assert chosen.score is not None
    assert dict(zip(chosen.index.tolist(), chosen.score.tolist(), strict=True)) == {0: 0.0, 1: 0.0, 3: 0.0, 2: 1.0}
    # opposite rows held with score 0 have no chance to go: the lottery is still well defined
    assert rank(GradientDiversity(by_input), pool, 2, generator=torch.Generator()).index.tolist() == [0, 1]


def test_fewer_rows_than_held_are_the_most_different():
    pool = {"input": torch.ones(4, 1), "key": torch.tensor([1.5, 0.2, 0.9, 0.3])}
    assert GradientDiversity(by_input).select(pool, 2, generator=torch.Generator()).tolist() == [1, 3]
    assert GradientDiversity(by_input).select(pool, 0, generator=torch.Generator()).tolist() == []


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        (lambda rows: rows["input"][:2], r"gradients has shape \(2, 2\); expected \(3, P\)"),
        (lambda rows: rows["input"].sum(1), r"gradients has shape \(3,\)"),
        (lambda rows: DenseGradients(rows["input"][:2]), r"gradients has shape \(2, P\); expected \(3, P\)"),
        (lambda rows: rows["input"] / 0, "gradients has length (nan|inf) in row 0; expected finite"),
    ],
)
def test_bad_gradients_are_named(gradients, message):
    pool = {"input": torch.ones(3, 2), "key": torch.tensor([1.1, torch.nan, torch.nan])}
    with pytest.raises(ValueError, match=message):
        GradientDiversity(gradients).select(pool, 1, generator=torch.Generator())


def test_other_bad_input_is_named():
    with pytest.raises(ValueError, match=r"pool\['key'\] has -3\.0; expected scores from 0 to 2"):
        GradientDiversity(by_input).select({"key": torch.tensor([0.1, -3.0])}, 1, generator=torch.Generator())
    with pytest.raises(ValueError, match="sample is 0; expected at least 1 row"):
        GradientDiversity(by_input, sample=0)
    with pytest.raises(ValueError, match="has no column 'gradient'"):
        StoredGradientDiversity().select({"label": torch.zeros(3)}, 2, generator=torch.Generator())


def test_needs():
    assert GradientDiversity(by_input).needs == ("key",)
    assert StoredGradientDiversity("g").needs == ("g", "key")


def test_gradients_can_come_when_there_is_a_model():
    rows = {"input": stream(30)}
    store = Store(8, keep=GradientDiversity(sample=4), seed=3)
    with pytest.raises(ValueError, match=r"gradients is None in GradientDiversity\(.*store.complete"):
        store.add({"input": rows["input"][:2]}), store.add({"input": rows["input"][2:]})
    given = Store(8, keep=GradientDiversity(by_input, sample=4), seed=3)
    store = Store(8, keep=GradientDiversity(sample=4), seed=3)
    for start in range(0, 30, 10):
        part = {"input": rows["input"][start : start + 10]}
        store.complete(gradients=by_input)
        given.add(part), store.add(part)
    assert store.rows().ids.tolist() == given.rows().ids.tolist()
    assert store.keep == given.keep
    with pytest.raises(TypeError, match="gradient"):
        store.complete(gradient=by_input)


@pytest.mark.parametrize("own", [False, True], ids=["by another policy", "by its own"])
def test_candidates_of_a_consolidation_get_scores_of_their_own(own) -> None:
    policy = GradientDiversity(by_input, sample=10)
    store = Store(6, keep=policy, seed=0)
    store.add({"input": stream(4)})
    before = store._books.keys[:4].copy()
    candidates = torch.cat([stream(4)[:1], -stream(4)[1:2]])
    slots = store.consolidate(policy if own else Reservoir(), 6, {"input": candidates})
    found = store._books.keys[:6].copy()
    assert (found[:4] == before).all()
    if own:
        expected = [1 + max(cosine(g, h) for h in stream(4).tolist()) for g in candidates.tolist()]
        assert found[slots.numpy()] == pytest.approx(expected, abs=1e-6)
    else:
        assert np.isnan(found[slots.numpy()]).all()
    store.add({"input": stream(3, seed=1)})  # compares those that no score is known of with those held
    assert len(store) == 6
    scores_now = store._books.keys[:6]
    assert ((scores_now > 0) & (scores_now <= 2)).all()
