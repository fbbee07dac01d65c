import json

import pytest
import torch

from memreplay import KNearest, Store
from memreplay.core.reporting import KNNShapley, explain


@pytest.fixture
def store() -> Store:
    generator = torch.Generator().manual_seed(0)
    store = Store(30)
    label = torch.arange(80) % 4 + 10
    store.add({"feature": torch.randn(80, 6, generator=generator) + label[:, None] % 3, "label": label})
    return store


@pytest.mark.parametrize("by", [KNearest(7), KNearest(5, float("inf"), "euclidean"), KNearest(99, 1.0, "dot")])
def test_shares_add_up_to_the_probability(store: Store, by: KNearest) -> None:
    rows, query = store.rows(), torch.randn(9, 6, generator=torch.Generator().manual_seed(1))
    evidence = explain(rows, query, by)
    said = by(rows, query)
    assert torch.equal(evidence.labels, said.labels)
    torch.testing.assert_close((evidence.shares * evidence.supports).sum(1), said.probabilities.max(1).values)
    torch.testing.assert_close(evidence.shares.sum(1), torch.ones(9))
    held = store.rows(evidence.ids.flatten())
    assert torch.equal(held["label"].view_as(evidence.classes), evidence.classes)
    values = KNNShapley(by.k, by.metric).of_each(rows, query, said.labels)  # type: ignore[arg-type]
    assert torch.equal(evidence.values, values.gather(1, evidence.index))


def test_another_class_than_the_predicted_one(store: Store) -> None:
    rows, query = store.rows(), torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    evidence = explain(rows, query, KNearest(6), label=torch.tensor([11, 99]))
    assert torch.equal(evidence.supports, torch.stack([evidence.classes[0] == 11, torch.zeros(6, dtype=torch.bool)]))
    assert (evidence.values[1] == 0).all()


def test_it_is_told_in_words_and_numbers(store: Store) -> None:
    evidence = explain(store.rows(), torch.ones(1, 6), KNearest(8))
    told = json.loads(json.dumps(evidence.told(0)))
    assert told["class"] == int(evidence.labels[0])
    assert {row["class"] for row in told["for"]} == {told["class"]}
    assert told["class"] not in {row["class"] for row in told["against"]}
    assert sum(row["share"] for row in told["for"] + told["against"]) == pytest.approx(1, abs=1e-5)
    assert [row["id"] for row in told["for"]] == evidence.ids[0][evidence.supports[0]].tolist()


def test_mistakes_are_named(store: Store) -> None:
    with pytest.raises(ValueError, match=r"by has the metric 'mahalanobis'"):
        explain(store.rows(), torch.ones(1, 6), KNearest(metric="mahalanobis"))
    with pytest.raises(ValueError, match=r"feature has shape \(1, 5\)"):
        explain(store.rows(), torch.ones(1, 5))
    with pytest.raises(ValueError, match=r"label has shape \(2,\); expected \(1,\)"):
        explain(store.rows(), torch.ones(1, 6), label=torch.zeros(2))
