"""Who is kept: laws of the samples (chi-square, closed forms) and exact winners, whatever the batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, permutations
from random import Random

import numpy as np
import pytest
import torch

from memreplay.core.selection import ClassBalanced, TopScore
from memreplay.core.stores import Store
from memreplay.core.stores.admission import Admission
from memreplay.core.stores.keeping import Fifo, Reservoir, WeightedReservoir

Sampler = Callable[[int, int], Iterable[int]]
"""(rows in the stream, seed) -> numbers of the rows kept."""


# -- the check --------------------------------------------------------------------------------------------------


def p_value(observed: Sequence[float], expected: Sequence[float], scale: float = 1.0) -> float:
    """Of the chi-square statistic, multiplied by ``scale``."""
    statistic = scale * sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    half = torch.tensor([len(observed) - 1, statistic], dtype=torch.float64) / 2
    return float(torch.special.gammaincc(half[0], half[1]))


def uniformity(sample: Sampler, k: int, n: int, repetitions: int, bins: int) -> float:
    """How likely counts this uneven are when each of ``n`` rows is among the ``k`` kept with probability k / n.

    A sample without replacement of fixed size spreads less than independent draws: the factor is (n - 1) / (n - k).
    The stream is cut in ``bins`` of equal size.
    """
    counts = np.zeros(n)
    for seed in range(repetitions):
        kept = list(sample(n, seed))
        assert len(kept) == len(set(kept)) == min(k, n)
        counts[kept] += 1
    binned = counts.reshape(bins, -1).sum(1).tolist()
    return p_value(binned, [repetitions * k / bins] * bins, scale=(n - 1) / (n - k))


REPETITIONS = {1: 1000, 7: 1000, 100: 30}


def bins_of(k: int, factor: int) -> int:
    """Bins of k rows each; short streams are looked at row by row."""
    return factor * k if factor * k <= 14 else factor


def spans(n: int, batch: int) -> Iterator[tuple[int, int]]:
    return ((start, min(n, start + batch)) for start in range(0, n, batch))


def competition(
    k: int, n: int, batch: int, seed: int, labels: list[int] | None = None, weights: np.ndarray | None = None
) -> list[int]:
    """Numbers of the rows kept by the books of a store, without the store."""
    books = Admission(k, torch.Generator().manual_seed(seed), labels is not None)
    for start, stop in spans(n, batch):
        if labels is None and weights is None and (accepted := books.foreseen(stop - start)) is not None:
            books.take_in(accepted, stop - start)
        else:
            of_batch = None if labels is None else labels[start:stop]
            books.offer(stop - start, of_batch, None if weights is None else weights[start:stop])
    return books.ids[: books.size].tolist()


def of_books(k: int, batch: int) -> Sampler:
    return lambda n, seed: competition(k, n, batch, seed)


def offered(store: Store, n: int, batch: int, **columns: torch.Tensor) -> Store:
    columns = {"row": torch.arange(n), **columns}
    for start, stop in spans(n, batch):
        store.add({name: values[start:stop] for name, values in columns.items()})
    return store


def kept(store: Store) -> list[int]:
    return store.rows()["row"].tolist()


def of_store(k: int, batch: int) -> Sampler:
    return lambda n, seed: kept(offered(Store(k, seed=seed), n, batch))


# -- reservoir --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3, 64, 1000])
@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("factor", [2, 7])
def test_reservoir_is_uniform(factor: int, k: int, batch: int) -> None:
    assert uniformity(of_books(k, batch), k, factor * k, REPETITIONS[k], bins_of(k, factor)) > 0.001


@pytest.mark.parametrize(("k", "factor", "batch"), [(1, 2, 1), (1, 7, 3), (7, 7, 64), (100, 2, 1000)])
def test_a_store_with_a_reservoir_is_uniform(factor: int, k: int, batch: int) -> None:
    repetitions = REPETITIONS[k] // 3
    assert uniformity(of_store(k, batch), k, factor * k, repetitions, bins_of(k, factor)) > 0.001


@pytest.mark.parametrize("batch", [64, 1000])
@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("n", [2000, 7000])
def test_reservoir_is_uniform_over_long_streams(n: int, k: int, batch: int) -> None:
    assert uniformity(of_books(k, batch), k, n, {1: 250, 7: 60, 100: 10}[k], bins=20) > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 64, 1000])
@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("n", ["2k", "7k", 2000, 7000])
def test_a_store_with_a_reservoir_is_uniform_at_length(n: int | str, k: int, batch: int) -> None:
    if isinstance(n, str):
        n = int(n[0]) * k
        assert uniformity(of_store(k, batch), k, n, {1: 5000, 7: 6000, 100: 300}[k], bins=n) > 0.001
    else:
        assert uniformity(of_store(k, batch), k, n, {1: 1000, 7: 300, 100: 100}[k], bins=20) > 0.001


def off_by_one(k: int) -> Sampler:
    """A reservoir that keeps the j-th row with probability k / (j - 1)."""

    def sample(n: int, seed: int) -> list[int]:
        random, held = Random(seed), list(range(k))
        for row in range(k, n):
            slot = random.randrange(row)
            if slot < k:
                held[slot] = row
        return held

    return sample


def frozen_counter(k: int, batch: int) -> Sampler:
    """A reservoir that draws all rows of a batch with the count of rows seen before the batch."""

    def sample(n: int, seed: int) -> list[int]:
        random, held = Random(seed), list(range(k))
        for start, stop in spans(n, batch):
            seen = max(k, start)
            for row in range(seen, stop):
                slot = random.randrange(seen + 1)
                if slot < k:
                    held[slot] = row
        return held

    return sample


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("factor", [2, 7])
def test_the_check_rejects_a_reservoir_off_by_one(factor: int, k: int) -> None:
    assert uniformity(off_by_one(k), k, factor * k, REPETITIONS[k], bins_of(k, factor)) < 0.001


@pytest.mark.parametrize(("k", "factor", "batch"), [(1, 7, 3), (1, 7, 64), (7, 2, 64), (7, 7, 64), (7, 7, 1000)])
def test_the_check_rejects_a_frozen_counter(k: int, factor: int, batch: int) -> None:
    assert uniformity(frozen_counter(k, batch), k, factor * k, REPETITIONS[k], bins_of(k, factor)) < 0.001


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_subset_is_equally_likely(batch: int) -> None:
    n, k, repetitions = 7, 3, 1200
    counts = Counter(tuple(sorted(competition(k, n, batch, seed))) for seed in range(repetitions))
    subsets = list(combinations(range(n), k))
    assert p_value([counts[s] for s in subsets], [repetitions / len(subsets)] * len(subsets)) > 0.001


# -- one class beside others --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize(
    ("capacity", "stream"),
    [
        (9, [0, 1, 2] * 7),
        (7, [0, 1, 2] * 7),  # shares that cannot be equal
        (4, [0, 0, 1, 2] * 7),
        (5, [0] * 10 + [1] * 10 + [2] * 10 + [0, 1, 2] * 3),  # one class after the other, then all again
    ],
)
def test_each_class_is_a_uniform_sample_of_its_own_stream(capacity: int, stream: list[int], batch: int) -> None:
    labels = np.array(stream)
    counts = np.zeros(len(stream))
    shares = set()
    for seed in range(600):
        rows = competition(capacity, len(stream), batch, seed, labels=stream)
        counts[rows] += 1
        shares.add(tuple(np.bincount(labels[rows], minlength=3).tolist()))
    assert len(shares) == 1, "how many rows a class gets does not depend on chance"
    for label, k in enumerate(*shares):
        n = stream.count(label)
        assert p_value(counts[labels == label].tolist(), [600 * k / n] * n, scale=(n - 1) / (n - k)) > 0.001


# -- weights ----------------------------------------------------------------------------------------------------


def successive(weights: Sequence[float], k: int) -> dict[tuple[int, ...], float]:
    """Probability of each set of ``k`` rows drawn one after the other in proportion to the weights left."""
    law: Counter[tuple[int, ...]] = Counter()
    for order in permutations(range(len(weights)), k):
        probability, left = 1.0, sum(weights)
        for row in order:
            probability *= weights[row] / left
            left -= weights[row]
        law[tuple(sorted(order))] += probability
    return law


@pytest.mark.parametrize("batch", [1, 64])
def test_weighted_reservoir_of_one_row_is_proportional_to_the_weights(batch: int) -> None:
    weights = np.array([1.0, 3.0, 2.0, 5.0, 4.0] * 6)
    counts = Counter(competition(1, 30, batch, seed, weights=weights)[0] for seed in range(1000))
    expected = (1000 * weights / weights.sum()).tolist()
    assert p_value([counts[row] for row in range(30)], expected) > 0.001


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("k", [1, 3])
def test_weighted_reservoir_is_successive_sampling(k: int, batch: int) -> None:
    weights = [1.0, 0.2, 5.0, 2.0, 1.0, 0.5, 3.0]
    law, repetitions = successive(weights, k), 1500
    counts = Counter(
        tuple(sorted(competition(k, 7, batch, seed, weights=np.array(weights)))) for seed in range(repetitions)
    )
    assert counts.keys() <= law.keys()
    # sets too rare for a chi-square are counted together
    rare = [subset for subset, p in law.items() if repetitions * p < 8]
    often = [subset for subset in law if subset not in rare]
    observed = [counts[s] for s in often] + [sum(counts[s] for s in rare)] * bool(rare)
    expected = [repetitions * law[s] for s in often] + [repetitions * sum(law[s] for s in rare)] * bool(rare)
    assert p_value(observed, expected) > 0.001


def test_weighted_reservoir_in_each_class() -> None:
    weights = np.array([1.0, 4.0, 2.0, 1.0, 3.0, 2.0, 1.0, 2.0] * 3)
    labels = np.array([0, 1] * 12)
    counts = np.zeros(24)
    for seed in range(2000):
        counts[competition(2, 24, 5, seed, labels=labels.tolist(), weights=weights)] += 1
    for label in (0, 1):
        own = labels == label
        assert p_value(counts[own].tolist(), (2000 * weights[own] / weights[own].sum()).tolist()) > 0.001


def test_a_store_weighs_by_its_column() -> None:
    weights = torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0, 0.0])
    counts = Counter[int]()
    for seed in range(600):
        counts.update(kept(offered(Store(1, keep=WeightedReservoir("weight"), seed=seed), 6, 2, weight=weights)))
    assert counts[5] == 0, "a row without weight is never kept"
    assert p_value([counts[row] for row in range(5)], (600 * weights[:5] / weights.sum()).tolist()) > 0.001


# -- however the stream is cut ------------------------------------------------------------------------------------


POLICIES = [
    Reservoir(),
    WeightedReservoir("weight"),
    Fifo(),
    TopScore("score"),
    ClassBalanced(Reservoir()),
    ClassBalanced(WeightedReservoir("weight")),
    ClassBalanced(Fifo()),
    ClassBalanced(TopScore("score")),
]


@pytest.mark.parametrize("capacity", [1, 30, 500])
@pytest.mark.parametrize("keep", POLICIES, ids=repr)
def test_the_cuts_of_the_stream_do_not_matter(keep: object, capacity: int, assert_same: Callable) -> None:
    n = 800
    generator = torch.Generator().manual_seed(1)
    columns = {
        "label": torch.randint(5, (n,), generator=generator),
        "weight": torch.rand(n, generator=generator) * (torch.rand(n, generator=generator) < 0.9),
        "score": torch.randint(100, (n,), generator=generator).float(),
    }
    states = [offered(Store(capacity, keep=keep), n, batch, **columns).state_dict() for batch in (1, 3, 64, 1000)]
    random = Random(0)
    uneven, start = Store(capacity, keep=keep), 0
    while start < n:
        stop = start + random.choice([0, 1, 2, 400])
        uneven.add(
            {"row": torch.arange(n)[start:stop], **{name: values[start:stop] for name, values in columns.items()}}
        )
        start = stop
    for state in [*states[1:], uneven.state_dict()]:
        assert_same(state, states[0])


# -- exact winners ----------------------------------------------------------------------------------------------


def top_rows(scores: Sequence[float], k: int) -> list[int]:
    """The rows with the highest scores; of equal ones the older."""
    return sorted(sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k])


@pytest.mark.parametrize("distinct", [5, 10**6])
@pytest.mark.parametrize("batch", [1, 17, 1000])
@pytest.mark.parametrize("k", [1, 40, 600])
def test_top_score_keeps_exactly_the_highest(k: int, batch: int, distinct: int) -> None:
    scores = torch.randint(distinct, (900,), generator=torch.Generator().manual_seed(k))
    store = Store(k, keep=TopScore("score"))
    slots = torch.cat(
        [
            store.add({"row": torch.arange(900)[i : i + batch], "score": scores[i : i + batch]})
            for i in range(0, 900, batch)
        ]
    )
    assert sorted(kept(store)) == top_rows(scores.tolist(), k)
    assert slots.shape == (900,)


@pytest.mark.parametrize("batch", [1, 17, 1000])
def test_fifo_keeps_the_last(batch: int) -> None:
    for n in (20, 40, 41, 300):
        store = offered(Store(40, keep=Fifo()), n, batch)
        assert sorted(kept(store)) == list(range(max(0, n - 40), n))


def water_filling(sizes: Sequence[int], capacity: int) -> tuple[list[int], int]:
    """Equal shares rounded down, and how many rows are left over for some of the classes that have more."""
    level = max(level for level in range(capacity + 1) if sum(min(size, level) for size in sizes) <= capacity)
    shares = [min(size, level) for size in sizes]
    return shares, min(capacity, sum(sizes)) - sum(shares)


@pytest.mark.parametrize("inner", [Reservoir(), Fifo(), TopScore("score"), WeightedReservoir("score")], ids=repr)
@pytest.mark.parametrize("capacity", [1, 4, 10, 33, 100])
def test_classes_get_equal_shares(inner: object, capacity: int) -> None:
    generator = torch.Generator().manual_seed(capacity)
    for counts in ([5, 5, 5], [1, 20, 200], [100, 2, 30, 3, 30], [40]):
        labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
        labels = labels[torch.randperm(len(labels), generator=generator)]
        score = torch.rand(len(labels), generator=generator) + 0.1
        if capacity < len(counts):
            continue  # more classes than rows: see below
        store = offered(Store(capacity, keep=ClassBalanced(inner)), len(labels), 7, label=labels, score=score)
        shares, left = water_filling(counts, capacity)
        held = Counter(store.rows()["label"].tolist())
        extra = [held[label] - share for label, share in enumerate(shares)]
        assert set(extra) <= {0, 1}
        assert sum(extra) == left


def test_more_classes_than_rows() -> None:
    store = offered(Store(3, keep=ClassBalanced(Reservoir())), 50, 7, label=torch.arange(50) % 10)
    labels = store.rows()["label"].tolist()
    assert len(labels) == len(set(labels)) == 3


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_each_class_keeps_its_highest(batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (400,), generator=generator)
    scores = torch.randint(50, (400,), generator=generator)
    store = offered(Store(40, keep=ClassBalanced(TopScore("score"))), 400, batch, label=labels, score=scores)
    for label in range(4):
        own = (labels == label).nonzero().flatten()
        best = own[top_rows(scores[own].tolist(), 10)].tolist()
        assert sorted(row for row in kept(store) if labels[row] == label) == best


# -- after rows were removed --------------------------------------------------------------------------------------


def without_odd_rows(k: int, before: int, seed: int) -> Admission:
    """The books of a reservoir after ``before`` rows, of which those with odd numbers were removed."""
    books = Admission(k, torch.Generator().manual_seed(seed), False)
    books.offer(before)
    books.remove(np.flatnonzero(books.ids[: books.size] % 2))
    return books


def test_a_reservoir_refilled_after_removals_is_uniform() -> None:
    k, before, n, repetitions = 20, 100, 1000, 400
    counts = np.zeros(n)
    for seed in range(repetitions):
        books = without_odd_rows(k, before, seed)
        for start, stop in spans(n - before, 64):
            books.offer(stop - start)
        assert books.size == k, "so long a stream fills it again"
        counts[books.ids] += 1
    left = np.array([row for row in range(n) if row >= before or row % 2 == 0])
    assert counts.sum() == counts[left].sum()
    bins = counts[left].reshape(19, -1).sum(1).tolist()
    scale = (len(left) - 1) / (len(left) - k)
    assert p_value(bins, [repetitions * k / 19] * 19, scale) > 0.001


@pytest.mark.parametrize("how", ["remove", "resize"])
def test_free_slots_are_refilled_at_the_rate_of_before(how: str) -> None:
    """Of the rows up to m, k / m are kept. Of later rows, as long as there is room: those with keys above the k-th or
    the (k + 1)-th highest of m, which is a share of k / (m + 1) or (k + 1) / (m + 1) on average."""
    k, before, more, repetitions = 50, 500, 150, 300
    old, new = 0, 0
    for seed in range(repetitions):
        if how == "remove":
            books = without_odd_rows(k, before, seed)
        else:
            books = Admission(k, torch.Generator().manual_seed(seed), False)
            books.offer(before)
            books.resize(10 * k)
        books.offer(more)
        old += int((books.ids[: books.size] < before).sum())
        new += int((books.ids[: books.size] >= before).sum())
    rate = k / before
    # binomial in the rows, and the threshold, a Beta variable, differs between repetitions
    deviation = (rate * (1 - rate) / more / repetitions + rate**2 * (1 - rate) / k / repetitions) ** 0.5
    assert k / (before + 1) - 3 * deviation < new / more / repetitions < (k + 1) / (before + 1) + 3 * deviation
    assert abs(old / repetitions - (k / 2 if how == "remove" else k)) < 3 * (k / 4 / repetitions) ** 0.5 + 1e-9


@pytest.mark.parametrize("keep", [TopScore("score"), ClassBalanced(TopScore("score"))], ids=repr)
def test_a_threshold_never_falls(keep: object) -> None:
    scores = torch.tensor([5.0, 9.0, 7.0, 3.0, 8.0])
    store = Store(3, keep=keep)
    store.add({"score": scores, "label": torch.zeros(5, dtype=torch.int64)})
    assert sorted(store.rows()["score"].tolist()) == [7.0, 8.0, 9.0]  # 5 was lost
    store.remove(store.rows().ids[store.rows()["score"] == 8.0])
    slots = store.add({"score": torch.tensor([4.0, 5.0, 5.5, 6.0]), "label": torch.zeros(4, dtype=torch.int64)})
    assert sorted(store.rows()["score"].tolist()) == [6.0, 7.0, 9.0]
    assert slots.tolist()[:3] == [-1, -1, -1]
    store.resize(5)
    store.add({"score": torch.tensor([5.25, 5.75]), "label": torch.zeros(2, dtype=torch.int64)})
    assert sorted(store.rows()["score"].tolist()) == [5.75, 6.0, 7.0, 9.0]  # 5.5 was lost since


@pytest.mark.parametrize("keep", [TopScore("score"), ClassBalanced(TopScore("score"))], ids=repr)
def test_rows_given_up_by_shrinking_count_as_lost(keep: object) -> None:
    store = Store(5, keep=keep)
    store.add({"score": torch.arange(1.0, 6), "label": torch.zeros(5, dtype=torch.int64)})
    store.resize(2)
    store.resize(5)
    slots = store.add({"score": torch.tensor([2.0, 3.0, 3.5]), "label": torch.zeros(3, dtype=torch.int64)})
    assert slots.tolist() == [-1, -1, 2]


@pytest.mark.parametrize("keep", POLICIES, ids=repr)
@pytest.mark.parametrize(("n", "capacity"), [(1000, 5), (1000, 999), (2000, 600)])
def test_shrinking_gives_up_the_lowest_keys(n: int, capacity: int, keep: object) -> None:
    generator = torch.Generator().manual_seed(1)
    columns = {"label": torch.randint(5, (n,), generator=generator), "weight": torch.rand(n, generator=generator)}
    columns["score"] = torch.rand(n, generator=generator)
    store = offered(Store(n, keep=keep), n, 500, **columns)
    grouped = isinstance(keep, ClassBalanced)
    keys = {
        i: k
        for i, k in zip(store.rows().ids.tolist(), store.state_dict()["tensors"]["books.key"].tolist(), strict=True)
    }
    store.resize(capacity)
    held = store.rows()
    assert len(store) == len(held.ids.unique()) == capacity
    labels = columns["label"] if grouped else torch.zeros(n, dtype=torch.int64)
    sizes: list[int] = []
    for label in labels.unique().tolist():
        own = sorted((i for i in keys if labels[i] == label), key=lambda i: -keys[i])
        mine = sorted((i for i in held.ids.tolist() if labels[i] == label), key=lambda i: -keys[i])
        assert mine == own[: len(mine)]
        sizes.append(len(mine))
    shares, left = water_filling(torch.bincount(labels).tolist(), capacity)
    assert sum(sizes) - sum(shares) == left
    assert {size - share for size, share in zip(sizes, shares, strict=True)} <= {0, 1}


# -- merging ----------------------------------------------------------------------------------------------------


def two_streams(keep: object, capacity: int, columns: dict[str, torch.Tensor], cut: int) -> tuple[Store, Store, Store]:
    """Two stores that saw the rows before and from ``cut``, and one that saw all."""
    parts = []
    for part in (slice(0, cut), slice(cut, None), slice(None)):
        store = Store(capacity, keep=keep, seed=len(parts))
        store.add({name: values[part] for name, values in columns.items()})
        parts.append(store)
    return parts[0], parts[1], parts[2]


@pytest.mark.parametrize("distinct", [20, 10**6])
@pytest.mark.parametrize("cut", [0, 3, 100, 500, 997, 1000])
@pytest.mark.parametrize(
    "keep", [TopScore("score"), Fifo(), ClassBalanced(TopScore("score")), ClassBalanced(Fifo())], ids=repr
)
def test_two_stores_merge_to_what_one_would_hold(keep: object, cut: int, distinct: int) -> None:
    generator = torch.Generator().manual_seed(cut)
    n = 1000
    columns = {
        "row": torch.arange(n),
        "label": torch.randint(4, (n,), generator=generator),
        "score": torch.randint(distinct, (n,), generator=generator),
    }
    one, other, whole = two_streams(keep, 40, columns, cut)
    one.merge(other)
    assert one.seen == n
    more = {name: values[torch.randperm(n, generator=generator)] for name, values in columns.items()}
    for _ in range(2):  # and goes on like one
        rows, expected = one.rows(), whole.rows()
        assert sorted(rows.ids.tolist()) == sorted(expected.ids.tolist())
        assert (rows["row"] == columns["row"][rows.ids % n]).all() or _ == 1
        one.add(more)
        whole.add(more)


@pytest.mark.parametrize("further", [0, 15])
def test_merged_reservoirs_are_one_uniform_sample(further: int) -> None:
    n, cut, k, repetitions = 30, 9, 4, 400
    counts = np.zeros(n + further)
    for seed in range(repetitions):
        one, other = Store(k, seed=2 * seed), Store(k, seed=2 * seed + 1)
        one.add({"row": torch.arange(cut)})
        other.add({"row": torch.arange(cut, n)})
        one.merge(other)
        one.add({"row": torch.arange(n, n + further)})
        assert len(one) == k
        counts[kept(one)] += 1
    total = n + further
    assert p_value(counts.tolist(), [repetitions * k / total] * total, (total - 1) / (total - k)) > 0.001


def test_reservoirs_with_the_same_keys_are_not_merged(unchanged: Callable) -> None:
    one, other = offered(Store(5, seed=3), 20, 5), offered(Store(5, seed=3), 20, 5)
    with unchanged(one), pytest.raises(ValueError, match="seed"):
        one.merge(other)


def test_only_like_merges_with_like(unchanged: Callable) -> None:
    one = offered(Store(5, keep=Fifo()), 20, 5)
    with unchanged(one):
        with pytest.raises(ValueError, match=r"Reservoir\(\).*Fifo\(\)"):
            one.merge(offered(Store(5), 20, 5))
        other = Store(5, keep=Fifo())
        other.add({"row": torch.arange(3.0)})
        with pytest.raises(ValueError, match=r"float32[\s\S]*int64"):
            one.merge(other)


# -- what add returns -------------------------------------------------------------------------------------------


def cuts(n: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    start, random = 0, Random(0)
    while start < n:
        stop = min(n, start + random.choice(sizes))
        yield start, stop
        start = stop


@pytest.mark.parametrize("keep", POLICIES, ids=repr)
def test_add_tells_where_rows_went(keep: object) -> None:
    n = 1500
    generator = torch.Generator().manual_seed(2)
    columns = {
        "row": torch.arange(n),
        "label": torch.randint(5, (n,), generator=generator),
        "weight": torch.rand(n, generator=generator),
        "score": torch.rand(n, generator=generator),
    }
    store = Store(300, keep=keep)
    for start, stop in cuts(n, [1, 10, 400]):
        slots = store.add({name: values[start:stop] for name, values in columns.items()})
        held = store.rows()
        assert slots.dtype == torch.int64
        assert held.slots.tolist() == list(range(len(store)))
        assert {i for i in held.ids.tolist() if i >= start} == {start + i for i, slot in enumerate(slots) if slot >= 0}
        won = slots >= 0
        assert held["row"][slots[won]].tolist() == columns["row"][start:stop][won].tolist()
        assert held["row"].tolist() == held.ids.tolist()
