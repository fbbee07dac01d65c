from __future__ import annotations

import pytest
import torch

from memreplay.core.retrievers import vectors
from memreplay.core.stores.keeping import KCenter, k_center


def farthest_first(x, m):
    """All distances, in float64."""
    x = x.double().flatten(1)
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    chosen = [int((x - x.mean(0)).norm(dim=1).argmin())]
    radius = [torch.inf]
    while len(chosen) < m:
        nearest = distance[chosen].amin(0)
        nearest[chosen] = -1
        chosen.append(int(nearest.argmax()))
        radius.append(nearest.max().item())
    return chosen, radius


@pytest.fixture(params=[1, 2, 16, 256])
def front(request, monkeypatch):
    """Fronts so small that they are renewed all the time, up to one that holds every row; and blocks of 50 rows."""
    monkeypatch.setattr(k_center, "FRONT", request.param)
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 50 * 24 * 4)


@pytest.mark.parametrize("kind", ["normal", "relu", "offset", "clusters", "line"])
@pytest.mark.usefixtures("front")
def test_the_order_is_that_of_all_distances(kind):
    x = torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
    kinds = {
        "normal": x,
        "relu": x.relu(),
        "offset": x + 100,
        "clusters": x + 9 * x[torch.arange(300) % 5],
        "line": x[:, :1] * torch.ones(24),
    }
    chosen = KCenter().rank(vectors.Pool({"feature": kinds[kind]}), 40, generator=torch.Generator())
    expected, radius = farthest_first(kinds[kind], 40)
    assert chosen.index.tolist() == expected
    assert chosen.score is not None
    # differences of float32 squares: what is lost is small beside the largest distance
    assert chosen.score.tolist() == pytest.approx(radius, rel=1e-4, abs=2e-5 * radius[1])


def test_duplicates_come_last_and_once():
    x = torch.tensor([[0.0], [0.0], [5.0], [5.0], [1.0]]).repeat(1, 3)
    chosen = KCenter().select({"feature": x}, 9, generator=torch.Generator()).tolist()
    assert sorted(chosen) == [0, 1, 2, 3, 4]
    assert x[chosen[:3], 0].sort().values.tolist() == [0.0, 1.0, 5.0]


def test_the_radius_is_at_most_twice_the_best():
    x = torch.rand(9, 2, generator=torch.Generator().manual_seed(3))
    distance = torch.cdist(x, x)
    chosen = KCenter().select({"feature": x}, 3, generator=torch.Generator())
    reached = distance[chosen].amin(0).max()
    best = min(distance[torch.tensor([a, b, c])].amin(0).max() for a in range(9) for b in range(a) for c in range(b))
    assert best <= reached <= 2 * best


def test_small_pools_and_other_dtypes():
    assert KCenter().select({"feature": torch.zeros(0, 2)}, 2, generator=torch.Generator()).tolist() == []
    assert KCenter().select({"feature": torch.zeros(3, 2)}, 0, generator=torch.Generator()).tolist() == []
    assert KCenter("price").select({"price": torch.tensor([1, 9, 2])}, 2, generator=torch.Generator()).tolist() == [
        2,
        1,
    ]
