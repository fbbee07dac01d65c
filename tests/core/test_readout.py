from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from memreplay.core.memory import ReplayMemory
from memreplay.core.readout import CacheReadout, CalibratedPrototypes, KNearest, NearestClassMean
from memreplay.core.stores import Store
from memreplay.core.stores.gaussian import GaussianStore


def rows(n: int = 60, dim: int = 5, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    label = torch.tensor([9, 2, 5])[torch.randint(3, (n,), generator=generator)]
    return {"feature": feature, "label": label}


QUERY = torch.randn(17, 5, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(x * x for x in b))


def squared(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def softmax(values: list[float]) -> list[float]:
    weights = [math.exp(value - max(values)) for value in values]
    return [weight / sum(weights) for weight in weights]


def by_class(data: dict[str, Tensor]) -> dict[int, list[list[float]]]:
    found: dict[int, list[list[float]]] = {}
    for feature, label in zip(data["feature"].tolist(), data["label"].tolist(), strict=True):
        found.setdefault(label, []).append(feature)
    return dict(sorted(found.items()))


def mean(vectors: list[list[float]]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def check(prediction: object, expected: list[list[float]], classes: list[int]) -> None:
    assert prediction.classes.tolist() == classes
    torch.testing.assert_close(prediction.probabilities, torch.tensor(expected, dtype=torch.float64))
    best = [classes[max(range(len(row)), key=row.__getitem__)] for row in expected]
    assert prediction.labels.tolist() == best


@pytest.mark.parametrize(
    ("metric", "similarity"),
    [
        ("cosine", cosine),
        ("euclidean", lambda a, b: -squared(a, b)),
        ("dot", lambda a, b: sum(x * y for x, y in zip(a, b, strict=True))),
    ],
)
def test_nearest_class_mean_is_a_softmax_over_means(metric, similarity):
    data = rows()
    means = {label: mean(vectors) for label, vectors in by_class(data).items()}
    expected = [softmax([similarity(q, m) / 0.5 for m in means.values()]) for q in QUERY.tolist()]
    check(NearestClassMean(metric, temperature=0.5)(data, QUERY), expected, list(means))


@pytest.mark.parametrize(
    ("metric", "similarity"), [("cosine", cosine), ("euclidean", lambda a, b: -math.sqrt(squared(a, b)))]
)
def test_k_nearest_is_a_weighted_vote(metric, similarity):
    data = rows()
    classes = sorted(set(data["label"].tolist()))
    expected = []
    for q in QUERY.tolist():
        scored = [
            (similarity(q, x), label) for x, label in zip(data["feature"].tolist(), data["label"].tolist(), strict=True)
        ]
        near = sorted(scored, reverse=True)[:7]
        votes = softmax([score / 0.3 for score, _ in near])
        share = {label: 0.0 for label in classes}
        for vote, (_, label) in zip(votes, near, strict=True):
            share[label] += vote
        expected.append([share[label] for label in classes])
    check(KNearest(7, temperature=0.3, metric=metric)(data, QUERY), expected, classes)


def test_k_nearest_with_fewer_rows_than_k_asks_all_of_them():
    data = rows(4)
    one, many = KNearest(4)(data, QUERY), KNearest(100)(data, QUERY)
    assert torch.equal(one.probabilities, many.probabilities)


def test_calibrated_prototypes_move_novel_means_towards_base_means():
    data = rows()
    unit = {}
    for label, vectors in by_class(data).items():
        centre = mean(vectors)
        unit[label] = [x / math.sqrt(squared(centre, [0.0] * 5)) for x in centre]
    weights = softmax([16.0 * cosine(unit[9], unit[2]), 16.0 * cosine(unit[9], unit[5])])
    drift = [weights[0] * a + weights[1] * b for a, b in zip(unit[2], unit[5], strict=True)]
    length = math.sqrt(squared(drift, [0.0] * 5))
    moved = [0.7 * a + 0.3 * b / length for a, b in zip(unit[9], drift, strict=True)]
    prototypes = [unit[2], unit[5], moved]
    expected = [softmax([cosine(q, p) / 0.1 for p in prototypes]) for q in QUERY.tolist()]
    check(CalibratedPrototypes(base=(2, 5), shift=0.3, temperature=0.1)(data, QUERY), expected, [2, 5, 9])


def test_calibrated_prototypes_without_shift_are_cosine_class_means():
    data = rows()
    plain = NearestClassMean()(data, QUERY)
    calibrated = CalibratedPrototypes(base=[2], shift=0.0)(data, QUERY)
    torch.testing.assert_close(calibrated.probabilities, plain.probabilities)


def test_cache_sums_affinities_per_class(monkeypatch):
    monkeypatch.setattr("memreplay.core.readout._CHUNK", 200)  # several chunks of queries
    data = rows()
    groups = by_class(data)
    logits = [
        [2.0 * sum(math.exp(-3.0 * (1 - cosine(q, x))) for x in vectors) for vectors in groups.values()]
        for q in QUERY.tolist()
    ]
    check(CacheReadout(beta=3.0, alpha=2.0)(data, QUERY), [softmax(row) for row in logits], list(groups))


def test_a_store_and_the_statistics_of_the_same_rows_predict_alike():
    data = rows()
    store, gaussian = ReplayMemory(Store(100)), ReplayMemory(GaussianStore())
    for memory in (store, gaussian):
        memory.remember(**data)
    for readout in (NearestClassMean("euclidean"), CalibratedPrototypes(base=(2,))):
        one, other = store.predict(QUERY, readout), gaussian.predict(QUERY, readout)
        torch.testing.assert_close(one.probabilities, other.probabilities)
        assert torch.equal(one.classes, other.classes)


def test_half_precision_rows_are_read_in_single():
    data = rows()
    half = {"feature": data["feature"].half(), "label": data["label"]}
    for readout in (NearestClassMean(), KNearest(), CacheReadout()):
        prediction = readout(half, QUERY.half())
        assert prediction.probabilities.dtype == torch.float32
        assert (prediction.labels == readout(data, QUERY).labels).float().mean() > 0.9


@pytest.mark.parametrize("readout", [NearestClassMean(), KNearest(), CalibratedPrototypes(base=[2]), CacheReadout()])
def test_errors_name_what_is_wrong(readout):
    data = rows()
    with pytest.raises(ValueError, match=r"feature has shape \(3, 4\); expected \(B, 5\)"):
        readout(data, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no column 'feature'"):
        readout({"label": data["label"]}, QUERY)
    with pytest.raises(ValueError, match="no column 'label'"):
        readout({"feature": data["feature"]}, QUERY)
    with pytest.raises(ValueError, match="rows is empty"):
        readout({name: values[:0] for name, values in data.items()}, QUERY)


def test_settings_are_checked():
    for make, message in [
        (lambda: NearestClassMean("manhattan"), "metric is 'manhattan'"),
        (lambda: NearestClassMean(temperature=0.0), "temperature is 0.0"),
        (lambda: KNearest(0), "k is 0"),
        (lambda: CalibratedPrototypes([1], shift=1.5), "shift is 1.5"),
        (lambda: CacheReadout(beta=-1.0), "beta is -1.0"),
    ]:
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match=r"base is \[77\]; none of them is among the classes held, \[2, 5, 9\]"):
        CalibratedPrototypes(base=[77])(rows(), QUERY)
