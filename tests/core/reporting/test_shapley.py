from itertools import combinations
from math import factorial

import pytest
import torch
from torch import Tensor

from memreplay import KNearest, Store
from memreplay.core.reporting import KNNShapley


def brute_force(order: list[int], match: list[bool], k: int) -> Tensor:
    """Shapley values by their definition, over all subsets of the rows; ``order`` holds them by distance."""
    n = len(order)

    def worth(rows: frozenset[int]) -> float:
        return sum(match[row] for row in [row for row in order if row in rows][:k]) / k

    values = torch.zeros(n, dtype=torch.float64)
    for row in range(n):
        others = [other for other in range(n) if other != row]
        for size in range(n):
            weight = factorial(size) * factorial(n - 1 - size) / factorial(n)
            for chosen in combinations(others, size):
                without = frozenset(chosen)
                values[row] += weight * (worth(without | {row}) - worth(without))
    return values


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_values_are_those_over_all_subsets(n: int, k: int) -> None:
    generator = torch.Generator().manual_seed(10 * n + k)
    feature = torch.randn(n, 2, generator=generator)
    label = torch.randint(2, (n,), generator=generator)
    query, of = torch.randn(3, 2, generator=generator), torch.tensor([0, 1, 1])
    rows = {"feature": feature, "label": label}
    for metric in ("euclidean", "dot", "cosine"):
        found = KNNShapley(k, metric).of_each(rows, query, of)  # type: ignore[arg-type]
        for i in range(3):
            closeness = {
                "euclidean": -(feature - query[i]).norm(dim=1),
                "dot": feature @ query[i],
                "cosine": torch.cosine_similarity(feature, query[i][None]),
            }[metric]
            order = sorted(range(n), key=lambda row: -float(closeness[row]))
            torch.testing.assert_close(found[i], brute_force(order, (label == of[i]).tolist(), k))


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_of_rows_at_the_same_distance_the_earlier_is_nearer(k: int) -> None:
    feature = torch.tensor([[1.0], [-1.0], [1.0], [0.0], [-1.0], [1.0]])
    label = torch.tensor([0, 1, 1, 1, 0, 0])
    rows = {"feature": feature, "label": label}
    found = KNNShapley(k, "euclidean").of_each(rows, torch.zeros(1, 1), torch.tensor([1]))
    torch.testing.assert_close(found[0], brute_force([3, 0, 1, 2, 4, 5], (label == 1).tolist(), k))


@pytest.mark.parametrize("n", [3, 10, 400])
def test_values_add_up_to_the_vote(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memreplay.core.reporting.shapley._CHUNK", 3 * n)  # several parts
    generator = torch.Generator().manual_seed(n)
    rows = {"feature": torch.randn(n, 5, generator=generator), "label": torch.randint(3, (n,), generator=generator)}
    query, label = torch.randn(8, 5, generator=generator), torch.randint(3, (8,), generator=generator)
    values = KNNShapley(10)
    every = values.of_each(rows, query, label)
    said = KNearest(10, temperature=float("inf"))(rows, query)
    vote = (said.probabilities * (said.classes == label[:, None])).sum(1).double() * min(n, 10) / 10
    torch.testing.assert_close(every.sum(1), vote, atol=1e-6, rtol=0)
    torch.testing.assert_close(values.mean(rows, query, label), every.mean(0))
    some = torch.randint(n, (8, 2), generator=generator)
    assert torch.equal(values.of_each(rows, query, label, some), every.gather(1, some))


def test_a_wrong_label_has_the_lowest_value() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(3, 8, generator=generator)
    label = torch.arange(60) % 3
    feature = centres[label] + torch.randn(60, 8, generator=generator)
    wrong = label.clone()
    wrong[7] = 2  # it is of class 1
    store = Store(60)
    store.add({"feature": feature, "label": wrong})
    asked = torch.arange(90) % 3
    query = centres[asked] + torch.randn(90, 8, generator=generator)
    assert int(KNNShapley(5).mean(store.rows(), query, asked).argmin()) == 7


def test_mistakes_are_named() -> None:
    rows = {"feature": torch.zeros(2, 3), "label": torch.zeros(2, dtype=torch.int64)}
    with pytest.raises(ValueError, match=r"k is 0; expected at least 1"):
        KNNShapley(0)
    with pytest.raises(ValueError, match=r"metric is 'mahalanobis'; expected 'cosine'"):
        KNNShapley(metric="mahalanobis")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"label has shape \(2,\); expected \(1,\)"):
        KNNShapley().of_each(rows, torch.zeros(1, 3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"feature has no rows"):
        KNNShapley().mean(rows, torch.zeros(0, 3), torch.zeros(0))
    assert KNNShapley().of_each(rows, torch.zeros(0, 3), torch.zeros(0)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"no column 'label'"):
        KNNShapley().mean({"feature": torch.zeros(2, 3)}, torch.zeros(1, 3), torch.zeros(1))
