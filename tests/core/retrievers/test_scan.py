from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from memreplay.core.retrievers import Nearest, scan
from memreplay.core.retrievers.scan import COMPARISONS, compare, in_threads
from memreplay.core.retrievers.vectors import Vectors
from memreplay.core.selection import Pool

needs_compiled = pytest.mark.skipif(scan.compiled is None, reason="no C compiler built _scan.c")


def brute_force(x, v, how):
    x, v = x.double(), v.double()
    match how:
        case "dot":
            return x @ v
        case "cosine":
            length = x.norm(dim=1)
            return torch.where(length > 0, (x @ v) / length, 0)
    return -(x - v).square().sum(1)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@needs_compiled
@pytest.mark.parametrize("how", COMPARISONS)
@pytest.mark.parametrize("dim", [1, 7, 8, 9, 16, 31, 384])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 103])
def test_compare(how, dim, n):
    x, v, out = numbers(n, dim), numbers(dim, seed=1), torch.full((n,), torch.nan)
    if n > 2:
        x[2] = 0
    compare(x, v, how, out)
    torch.testing.assert_close(out.double(), brute_force(x, v, how), rtol=1e-5, atol=1e-5)


@needs_compiled
@pytest.mark.parametrize("size", [1e-30, 1e-22, 1e22, 3e38])
def test_cosines_of_lengths_whose_squares_leave_the_range(size):
    x, out = torch.full((5, 384), size), torch.empty(5)
    compare(x, torch.ones(384) / 384**0.5, "cosine", out)
    torch.testing.assert_close(out, torch.ones(5))


@needs_compiled
def test_products_times_the_inverse_lengths_are_the_cosines_to_the_last_bit():
    x, v = numbers(103, 31), numbers(31, seed=1)
    x[3], x[50], x[102] = 0, 1e22, 1e-22
    cosines, products, scale = torch.empty(103), torch.empty(103), torch.empty(103)
    compare(x, v, "cosine", cosines, scale)
    compare(x, v, "dot", products)
    known = ~scale.isnan()
    assert (~known).nonzero().flatten().tolist() == [3, 50, 102]
    assert torch.equal((products * scale)[known], cosines[known])
    torch.testing.assert_close(scale[known], x.norm(dim=1).reciprocal()[known])
    with pytest.raises(ValueError, match="out 412, scale 408"):
        compare(x, v, "cosine", cosines, scale[1:])


@needs_compiled
@pytest.mark.parametrize("odd", [False, True])
def test_a_second_search_with_one_query_finds_the_same(odd):
    x = numbers(1000, 24)
    if odd:
        x[17] *= 1e25  # its square has no room in float32
    pool, by = Pool({"feature": x}), Nearest()
    for seed in (1, 2, 1):
        query = {"feature": numbers(1, 24, seed=seed)}
        scores, slots = by.search(pool, query, 20)
        alone = by.search({"feature": x}, query, 20)
        assert torch.equal(scores, alone[0])
        assert torch.equal(slots, alone[1])
        torch.testing.assert_close(
            scores[0].double(), (F.normalize(x.double()) @ F.normalize(query["feature"].double()).T)[slots[0], 0]
        )
        assert (pool.known(("inverse lengths", "feature")) is None) == odd


@needs_compiled
def test_arrays_that_do_not_fit_are_refused():
    rows, vector, out = numbers(4, 3).numpy(), numbers(3).numpy(), torch.empty(4).numpy()
    with pytest.raises(ValueError, match="rows have 48 bytes, query 8, out 16"):
        scan.compiled.compare(rows, vector[:2], out, 0)
    with pytest.raises(ValueError, match="rows have 48 bytes"):
        scan.compiled.compare(rows, vector, out, 3)
    state = [torch.zeros(2, 6), torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2), torch.zeros(1, dtype=torch.int64)]
    with pytest.raises(ValueError, match="tile has 24 bytes, scores 48, index 96, least 8, taken 8"):
        scan.compiled.keep_best(numbers(3, 2).numpy(), None, None, *(x.numpy() for x in state), 0)
    with pytest.raises(ValueError, match="scores has 48 bytes"):
        scan.compiled.finish(state[0].numpy(), state[1].numpy()[:1], state[3].numpy())
    assert not any(x.any() for x in state)


@needs_compiled
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int32])
def test_vectors_are_compared_in_parts(monkeypatch, threads, dtype):
    monkeypatch.setattr("memreplay.core.retrievers.vectors.BLOCK_BYTES", 256)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, v = (3 * numbers(101, 6)).to(dtype), numbers(6, seed=1)
    rows = Vectors({"x": x}, "x")
    for how in COMPARISONS:
        expected = brute_force(x, v, how)
        torch.testing.assert_close(rows.compared(v, how).double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(rows.compared(v, how, slice(40, 90)).double(), expected[40:90], rtol=1e-5, atol=1e-5)


def test_an_error_in_a_thread_is_seen(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def work(part):
        if part.start:
            raise ValueError("in a thread")

    with pytest.raises(ValueError, match="in a thread"):
        in_threads(work, [slice(0, 1), slice(1, 2), slice(2, 3)])


@needs_compiled
@pytest.mark.parametrize("metric", ["dot", "cosine", "euclidean", "mahalanobis"])
@pytest.mark.parametrize(("n", "q", "k"), [(1, 1, 3), (2_000, 1, 10), (2_000, 3, 10), (5_000, 70, 5), (300, 9, 200)])
def test_with_and_without_the_compiled_loops(monkeypatch, metric, n, q, k):
    x, queries = numbers(n, 24), numbers(q, 24, seed=1)
    by = Nearest("feature", metric)
    scores, index = by.search({"feature": x}, {"feature": queries}, k)
    monkeypatch.setattr(scan, "compiled", None)
    again, same = by.search({"feature": x}, {"feature": queries}, k)
    torch.testing.assert_close(scores, again, rtol=1e-5, atol=1e-5)
    assert torch.equal(index, same)
