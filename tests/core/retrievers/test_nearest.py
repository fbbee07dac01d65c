from __future__ import annotations

import pytest
import torch

from memreplay.core.retrievers import Nearest, exact_search
from memreplay.core.selection import Pool

pytestmark = pytest.mark.usefixtures("loops")

METRICS = ("cosine", "euclidean", "dot", "mahalanobis")


def brute_force(x, q, metric, shrinkage=0.1):
    """All scores in float64, from the definitions: (Q, N)."""
    x, q = x.double().flatten(1), q.double().flatten(1)
    if metric == "dot":
        return q @ x.t()
    if metric == "cosine":
        return torch.nn.functional.cosine_similarity(q[:, None], x[None], dim=2)
    offset = q[:, None] - x[None]
    if metric == "euclidean":
        return -offset.square().sum(2).sqrt()
    s = torch.cov(x.t(), correction=0).view(x.shape[1], -1)
    s = (1 - shrinkage) * s + (shrinkage * s.trace() / len(s) or 1) * torch.eye(len(s), dtype=torch.float64)
    return -torch.einsum("qnd,de,qne->qn", offset, s.inverse(), offset).sqrt()


def data(n, q, d=6, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator)
    x = (torch.randn(n, d, generator=generator) @ mix + 3).to(dtype)
    return x, (torch.randn(q, d, generator=generator) @ mix + 3).to(dtype)


@pytest.fixture
def small_tiles(monkeypatch):
    """Queries by 8 and rows by 64, so that little data already takes many tiles."""
    monkeypatch.setattr(exact_search, "QUERIES", 8)
    monkeypatch.setattr(exact_search, "ROWS", 64)


def assert_matches(scores, index, reference, k, rtol=1e-5):
    """Each line of ``index`` names rows whose true scores are the k highest, in order, up to rounding."""
    best = reference.sort(dim=1, descending=True).values[:, :k]
    assert index.dtype == torch.int64
    assert all(len(set(row)) == len(row) for row in index.tolist())
    torch.testing.assert_close(scores.double(), best, rtol=rtol, atol=rtol)
    torch.testing.assert_close(reference.gather(1, index), best, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("n", "q", "k"), [(1, 1, 1), (5, 3, 9), (700, 1, 10), (700, 21, 10), (300, 9, 200), (700, 2, 1)]
)
@pytest.mark.usefixtures("small_tiles")
def test_search_equals_brute_force(metric, n, q, k):
    x, queries = data(n, q)
    scores, index = Nearest("feature", metric).search({"feature": x}, {"feature": queries}, k)
    assert scores.shape == index.shape == (q, min(k, n))
    assert_matches(scores, index, brute_force(x, queries, metric), k)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
@pytest.mark.usefixtures("small_tiles")
def test_other_dtypes(metric, dtype):
    x, queries = data(400, 10, dtype=dtype)
    scores, index = Nearest("feature", metric).search({"feature": x}, {"feature": queries.double()}, 7)
    assert scores.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert_matches(scores, index, brute_force(x, queries, metric), 7, 1e-12 if dtype is torch.float64 else 1e-5)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("q", [1, 20])
@pytest.mark.usefixtures("small_tiles")
def test_a_draw_ranks_rows_by_their_best_query(metric, q):
    x, queries = data(500, q)
    pool = Pool({"feature": x})
    chosen = Nearest("feature", metric).rank(pool, 30, query={"feature": queries}, generator=torch.Generator())
    assert chosen.score is not None
    reference = brute_force(x, queries, metric).amax(0, keepdim=True)
    assert_matches(chosen.score[None], chosen.index[None], reference, 30)
    everything = Nearest("feature", metric).select(pool, 900, query={"feature": queries}, generator=torch.Generator())
    assert everything.sort().values.tolist() == list(range(500))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1, 3, 4, 7, 1001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_query_and_rows_in_any_layout(metric, n, dtype):
    x, queries = data(n, 1, dtype=dtype)
    reference = brute_force(x, queries, metric)
    for rows in (x, x.t().contiguous().t(), torch.cat([x, x], dim=1)[:, :6]):
        scores, index = Nearest("feature", metric).search({"feature": rows}, {"feature": queries}, 10)
        assert_matches(scores, index, reference, 10)


@pytest.mark.filterwarnings("error")
def test_numbers_too_large_are_no_warning():
    x = torch.tensor([[3e38, 3e38], [1.0, 0.0]])
    scores, index = Nearest(metric="dot").search({"feature": x}, {"feature": torch.tensor([[2.0, 1.0]])}, 2)
    assert scores.tolist() == [[torch.inf, 2.0]]
    assert index.tolist() == [[0, 1]]


def test_distances_survive_a_large_mean():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 16, generator=generator) + 1000
    queries = x[:5] + 0.01 * torch.randn(5, 16, generator=generator)
    for metric in ("euclidean", "mahalanobis"):
        scores, index = Nearest("feature", metric).search({"feature": x}, {"feature": queries}, 4)
        assert_matches(scores, index, brute_force(x, queries, metric), 4, rtol=2e-4)
        again, itself = Nearest("feature", metric).search({"feature": x}, {"feature": x[:7]}, 1)
        assert itself[:, 0].tolist() == list(range(7))
        assert (again == 0).all()


def test_zero_vectors_are_similar_to_nothing():
    pool = {"feature": torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.0, 5.0]])}
    scores, index = Nearest().search(pool, {"feature": torch.tensor([[1.0, 0.0], [0.0, 0.0]])}, 3)
    assert scores.tolist() == [[0.0, 0.0, -1.0], [0.0, 0.0, 0.0]]
    assert index.tolist() == [[0, 2, 1], [0, 1, 2]]


def test_mahalanobis_by_hand():
    # variances 4 and 1, no correlation: one step along the wide axis counts half
    pool = {"feature": torch.tensor([[2.0, 1.0], [-2.0, 1.0], [2.0, -1.0], [-2.0, -1.0]])}
    query = {"feature": torch.tensor([[2.0, 3.0]])}
    scores, index = Nearest(metric="mahalanobis", shrinkage=0.0).search(pool, query, 2)
    assert index.tolist() == [[0, 1]]
    torch.testing.assert_close(scores, torch.tensor([[-2.0, -(8**0.5)]]))
    scores, index = Nearest(metric="mahalanobis", shrinkage=1.0).search(pool, query, 1)
    torch.testing.assert_close(scores, torch.tensor([[-2 / 2.5**0.5]]))


def test_rows_of_any_shape_and_plain_numbers():
    x, queries = data(40, 3, d=12)
    scores, index = Nearest().search({"feature": x.view(40, 3, 4)}, {"feature": queries.view(3, 3, 4)}, 4)
    assert_matches(scores, index, brute_force(x, queries, "cosine"), 4)
    _, index = Nearest("price", "euclidean").search(
        {"price": torch.tensor([1, 5, 9])}, {"price": torch.tensor([6.0])}, 2
    )
    assert index.tolist() == [[1, 2]]


def test_identical_rows_all_at_once():
    pool = {"feature": torch.ones(5, 3)}
    for metric in METRICS:
        scores, index = Nearest("feature", metric).search(pool, {"feature": torch.ones(1, 3)}, 5)
        assert index.tolist() == [[0, 1, 2, 3, 4]]
        assert scores.unique().numel() == 1


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_stored_nothing_asked(metric):
    by = Nearest("feature", metric)
    x, queries = data(4, 2)
    assert by.search({"feature": x[:0]}, {"feature": queries}, 3)[1].shape == (2, 0)
    assert by.search({"feature": x}, {"feature": queries[:0]}, 3)[1].shape == (0, 3)
    assert by.search({"feature": x}, {"feature": queries}, 0)[0].shape == (2, 0)
    assert by.select({"feature": x[:0]}, 3, query={"feature": queries}, generator=torch.Generator()).tolist() == []
    assert by.select({"feature": x}, 0, query={"feature": queries}, generator=torch.Generator()).tolist() == []


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (None, r"query is None but Nearest\(column='feature'.*expected \{'feature': tensor of shape \(Q, 6\)\}"),
        ({"label": torch.zeros(1)}, r"query has no column 'feature'; it has \['label'\]"),
        ({"feature": torch.zeros(2, 5)}, r"query\['feature'\] has shape \(2, 5\); expected .*\(Q, 6\)"),
        ({"feature": torch.zeros(6)}, r"query\['feature'\] has shape \(6,\); expected .*\(Q, 6\)"),
        ({"feature": torch.zeros(0, 6)}, r"query\['feature'\] has no rows"),
        ({"feature": torch.full((1, 6), torch.nan)}, r"query\['feature'\] holds .* NaN or infinite in row 0; expected"),
        (
            {"feature": torch.cat([torch.zeros(4, 6), torch.full((2, 6), torch.inf)])},
            r"query\['feature'\] holds a number that is NaN or infinite in row 4; expected \{'feature'",
        ),
    ],
)
def test_a_query_that_does_not_fit_is_named(query, message):
    with pytest.raises(ValueError, match=message):
        Nearest().select({"feature": data(4, 1)[0]}, 1, query=query, generator=torch.Generator())


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"metric is 'l2'; expected one of cosine, euclidean, dot, mahalanobis"):
        Nearest(metric="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shrinkage is 1\.5"):
        Nearest(shrinkage=1.5)
    with pytest.raises(ValueError, match=r"shrinkage is 0\.0 but the covariance of 4 rows of 6 numbers is singular"):
        Nearest(metric="mahalanobis", shrinkage=0.0).search(
            {"feature": data(4, 1)[0]}, {"feature": torch.zeros(1, 6)}, 1
        )
    with pytest.raises(ValueError, match="k is -1"):
        Nearest().search({"feature": torch.zeros(2, 2)}, {"feature": torch.zeros(1, 2)}, -1)
