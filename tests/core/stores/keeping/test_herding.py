from __future__ import annotations

import pytest
import torch

from memreplay.core.selection import ClassBalanced, Pool
from memreplay.core.stores.keeping import Herding


def icarl(x, m, normalize):
    """Algorithm 4 of the iCaRL paper, word for word, in float64."""
    x = x.double().flatten(1)
    if normalize:
        x = torch.nn.functional.normalize(x, dim=1)
    mu, total, chosen = x.mean(0), torch.zeros(x.shape[1], dtype=torch.float64), []
    for i in range(m):
        distance = (mu - (x + total) / (i + 1)).norm(dim=1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total += x[chosen[-1]]
    return chosen


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", ["normal", "relu", "offset", "clusters"])
def test_the_order_is_that_of_icarl(normalize, kind):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 24, generator=generator)
    x = {"normal": x, "relu": x.relu(), "offset": x + 20, "clusters": x + 9 * x[torch.arange(400) % 5]}[kind]
    for dtype in (torch.float32, torch.float64):
        chosen = Herding(normalize=normalize).select({"feature": x.to(dtype)}, 60, generator=generator)
        assert chosen.tolist() == icarl(x, 60, normalize)


def test_long_runs_stay_exact():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 8, generator=generator).relu() + 0.5
    chosen = Herding(normalize=False).select({"feature": x.double()}, 1200, generator=generator).tolist()
    assert chosen == icarl(x, 1200, normalize=False)


def test_the_mean_of_a_prefix_is_near_the_mean():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 10, generator=generator)
    chosen = Herding(normalize=False).select({"feature": x}, 50, generator=generator)
    for m in (10, 50):
        error = (x[chosen[:m]].mean(0) - x.mean(0)).norm()
        # the error of herding falls with 1 / m, that of random rows with 1 / sqrt(m)
        assert error < 0.5 * (10 / m) ** 0.5


def test_rows_of_any_shape_and_dtype():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)).half()
    chosen = Herding("map").select({"map": x.view(60, 3, 2, 2)}, 9, generator=torch.Generator())
    assert chosen.tolist() == icarl(x, 9, normalize=True)


def test_duplicates_zeros_and_small_pools():
    same = Herding().select({"feature": torch.ones(4, 2)}, 9, generator=torch.Generator())
    assert same.sort().values.tolist() == [0, 1, 2, 3]
    zeros = Herding().select({"feature": torch.zeros(3, 2)}, 2, generator=torch.Generator())
    assert len(zeros.unique()) == 2
    empty = Herding().select({"feature": torch.zeros(0, 2)}, 2, generator=torch.Generator())
    assert empty.dtype == torch.int64
    assert empty.tolist() == []


def test_within_classes():
    x = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
    label = torch.arange(90) % 3
    pool = Pool({"feature": x, "label": label})
    chosen = ClassBalanced(Herding()).select(pool, 12, generator=torch.Generator())
    for c in range(3):
        members = (label == c).nonzero().squeeze(1)
        expected = members[torch.tensor(icarl(x[members], 4, normalize=True))]
        assert chosen[label[chosen] == c].tolist() == expected.tolist()
