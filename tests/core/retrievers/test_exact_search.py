from __future__ import annotations

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memreplay.core.retrievers import Nearest, exact_search
from memreplay.core.retrievers.exact_search import ExactSearch
from memreplay.core.retrievers.similarity import Similarity
from memreplay.core.retrievers.vectors import Vectors
from memreplay.core.selection import Pool

pytestmark = pytest.mark.usefixtures("loops")


class PeakMemory(TorchDispatchMode):
    """The most bytes that tensors made inside the block held at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in inputs | self._known:
                storage = tensor.untyped_storage()
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return out

    def _freed(self, identity: int, nbytes: int) -> None:
        self._known.discard(identity)
        self.now -= nbytes


@pytest.mark.parametrize("metric", ["cosine", "mahalanobis"])
@pytest.mark.parametrize(
    ("rows", "queries", "dim", "k", "dtype"),
    [
        (200_000, 100, 8, 10, torch.float16),
        (5_000, 5_000, 4, 10, torch.float32),
        (10_000, 40, 4, 5_000, torch.float32),
        (400, 2_000, 500, 20, torch.bfloat16),
        (300_000, 1, 8, 1_000, torch.float32),
        pytest.param(100_000, 20_000, 4, 1_000, torch.float32, marks=pytest.mark.slow),
        pytest.param(1_000_000, 1_024, 8, 10, torch.float32, marks=pytest.mark.slow),
        pytest.param(3_000_000, 1, 8, 10, torch.float32, marks=pytest.mark.slow),
    ],
)
def test_temporary_memory_is_bounded(metric, rows, queries, dim, k, dtype):
    """All scores, or all vectors of the rows found, would take more than is allowed."""
    generator = torch.Generator().manual_seed(0)
    pool = Pool({"feature": torch.randn(rows, dim, generator=generator).to(dtype)})
    query = {"feature": torch.randn(queries, dim, generator=generator).to(dtype)}
    by = Nearest("feature", metric)
    with PeakMemory() as search:
        scores, index = by.search(pool, query, k)
    assert 0 < search.peak - scores.nbytes - index.nbytes < 64e6
    with PeakMemory() as draw:
        by.rank(pool, k, query=query, generator=generator)
    assert 0 < draw.peak < 64e6


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_long_vectors_are_compared_fewer_at_a_time(metric):
    """A thousand of these queries alone would take more than is allowed."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1_000, 20_000, generator=generator).half()
    with PeakMemory() as search:
        _, index = Nearest("feature", metric).search({"feature": x[:200]}, {"feature": x}, 1)
    assert search.peak < 64e6
    assert index[:200, 0].tolist() == list(range(200))


def test_the_meter():
    with PeakMemory() as memory:
        x = torch.zeros(1000) + 1
        x[:10].mul_(2)
        del x
        torch.zeros(250)
    assert (memory.now, memory.peak) == (0, 8000)


@pytest.mark.parametrize(
    ("queries", "k", "parts"), [(0, 3, []), (8, 3, [8]), (9, 3, [5, 4]), (17, 3, [6, 6, 5]), (8, 8, [4, 4])]
)
def test_queries_are_compared_in_equal_parts(monkeypatch, queries, k, parts):
    monkeypatch.setattr(exact_search, "QUERIES", 8)
    monkeypatch.setattr(exact_search, "ROWS", 64)
    asked = []
    directions = Similarity.directions
    monkeypatch.setattr(Similarity, "directions", lambda self, q: asked.append(len(q)) or directions(self, q))
    rows = Vectors({"x": torch.randn(70, 4, generator=torch.Generator().manual_seed(0))}, "x")
    found = ExactSearch(rows, Similarity()).of_each(Vectors({"x": torch.zeros(queries, 4)}, "x"), k)
    assert asked == parts
    assert found.index.shape == (queries, k)
