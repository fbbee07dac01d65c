from __future__ import annotations

import pytest
import torch

from memreplay.core.retrievers import Nearest, exact_search, scan
from memreplay.core.retrievers.best import Best
from memreplay.core.retrievers.narrow import PANEL, UNIT, Narrow

needs_shortlists = pytest.mark.skipif(not scan.shortlists(), reason="no compiled search on this machine")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ranked(scores, k):
    """Rows by score, then by place: (q, k)."""
    order = [sorted(range(len(line)), key=lambda i: (-line[i], i))[:k] for line in scores.tolist()]
    return torch.tensor(order)


@pytest.mark.parametrize("dim", [1, 16, 100, 3000])
@pytest.mark.parametrize("kind", ["normal", "one large", "tiny", "huge", "zero"])
def test_no_product_exceeds_its_bound(kind, dim):
    x, d = numbers(50, dim), numbers(21, dim, seed=1)
    if kind == "one large":
        x[:, 0], d[:, 0] = 1e4, -1e4
    if kind in ("tiny", "huge"):
        d *= 1e-20 if kind == "tiny" else 1e18
    if kind == "zero":
        d[5] = 0
    narrow = Narrow(d)
    assert narrow.panels.shape == (2, -(-dim // 16) * 8, PANEL, 2)
    length = x.norm(dim=1, keepdim=True)
    rounded = (x * UNIT / length).round().double()
    panels = narrow.panels.transpose(1, 2).reshape(2 * PANEL, -1)[:21, :dim].double()
    most = (rounded @ panels.t() * narrow.reach[:21] + narrow.slack[:21]) * length
    exact = x.double() @ d.double().t()
    assert not (most < exact).any()
    if kind in ("normal", "one large"):
        assert (most - exact <= 3 * narrow.slack[:21] * length).all()
        assert (narrow.slack[:21] < 0.01 * d.norm(dim=1)).all()


@needs_shortlists
@pytest.mark.parametrize("q", [1, 8, 16, 37])
@pytest.mark.parametrize("dim", [1, 15, 16, 70])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (97, 5), (500, 40)])
@pytest.mark.parametrize("levels", [2, 100])
def test_equals_sorting_where_float32_is_exact(q, dim, n, k, levels):
    """Small whole numbers: all products are exact, and many are equal."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-levels, levels, (n, dim), generator=generator).float()
    d = torch.randint(-levels, levels, (q, dim), generator=generator).float()
    bias = torch.randint(-levels, levels, (n,), generator=generator).float()
    scale = torch.randint(0, 3, (n,), generator=generator).float()
    for b, s in ((None, None), (bias, None), (None, scale), (bias, scale)):
        best = Best(q, k)
        narrow = Narrow(d)
        for part in (slice(0, n // 3), slice(n // 3, n)):
            best.search(x[part], narrow, part.start, *(None if y is None else y[part] for y in (b, s)))
        scores = x @ d.t()
        scores = scores if b is None else scores + b[:, None]
        scores = (scores if s is None else scores * s[:, None]).t()
        top = best.top().ordered()
        assert torch.equal(top.index, ranked(scores, k))
        assert torch.equal(top.scores, scores.gather(1, top.index))


@needs_shortlists
def test_few_scores_are_calculated():
    x, d = numbers(20_000, 128), numbers(32, 128, seed=1)
    best = Best(32, 10)
    assert 32 * 10 <= best.search(x, Narrow(d), 0) < 32 * 20_000 / 100
    assert torch.equal(best.top().ordered().index, (d.double() @ x.double().t()).topk(10).indices)


@needs_shortlists
def test_rows_too_near_to_each_other_for_int16():
    """Steps far below those of the rounding, exact in float32; no row may be lost."""
    x = torch.ones(3_000, 64)
    x[:, 0] += torch.randperm(3_000, generator=torch.Generator().manual_seed(0)) * 2**-20
    best = Best(16, 20)
    d = torch.zeros(16, 64)
    d[:, 0] = 1
    calculated = best.search(x, Narrow(d), 0)
    assert calculated > 16 * 1_000
    assert torch.equal(best.top().ordered().index, x[:, 0].topk(20).indices.expand(16, -1))


@needs_shortlists
def test_rows_and_directions_whose_length_is_not_known():
    x, d = numbers(300, 64), numbers(18, 64, seed=1)
    x[3], x[4], x[5], d[7], d[9] = 0, x[4] * 1e-18, x[5] * 1e18, 0, d[9] * 1e-18
    best = Best(18, 300)
    best.search(x, Narrow(d), 0)
    top = best.top().ordered()
    exact = (x.double() @ d.double().t()).t()
    torch.testing.assert_close(exact.gather(1, top.index), exact.sort(1, descending=True).values, rtol=1e-4, atol=1e-5)


@needs_shortlists
def test_arrays_that_do_not_fit_are_refused():
    best, narrow = Best(3, 2), Narrow(numbers(3, 20))
    with pytest.raises(ValueError, match="rows have 380 bytes, directions 240"):
        best.search(numbers(5, 19), narrow, 0)
    with pytest.raises(ValueError, match="directions 320"):
        best.search(numbers(5, 20), Narrow(numbers(4, 20)), 0)
    with pytest.raises(ValueError, match="rows have 400 bytes"):
        best.search(numbers(5, 20), narrow, 0, bias=torch.zeros(4))


@needs_shortlists
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", ["normal", "identical", "half"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot", "mahalanobis"])
def test_searches_by_shortlist_equal_those_without(monkeypatch, metric, kind, threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(exact_search, "ROWS", 256)
    monkeypatch.setattr(exact_search, "QUERIES", 64)
    x, queries = numbers(3_000, 80), numbers(100, 80, seed=1)
    x = {"normal": x, "identical": x[:1].expand(3_000, -1) + 1e-3 * x, "half": x.half()}[kind]
    by = Nearest("feature", metric)
    scores, index = by.search({"feature": x}, {"feature": queries}, 7)
    monkeypatch.setattr(scan.compiled, "shortlists", 0)
    again, same = by.search({"feature": x}, {"feature": queries}, 7)
    torch.testing.assert_close(scores, again, rtol=1e-5, atol=1e-5)
    assert (index == same).float().mean() > (0.98 if kind == "identical" else 0.999)
