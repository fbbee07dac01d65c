"""Who is kept: laws of the samples (chi-square, closed forms) and exact winners, whatever the batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, permutations
from random import Random

import pytest
import torch
from memreplay.core.selection import ClassBalanced, TopScore
from memreplay.core.stores import Store
from memreplay.core.stores.keeping import Fifo, Reservoir, WeightedReservoir

Sampler = Callable[[int, int], Iterable[int]]
"""(rows in the stream, seed) -> numbers of the rows kept."""


# -- the check --------------------------------------------------------------------------------------------------


def p_value(observed: Sequence[float], expected: Sequence[float], scale: float = 1.0, df: int | None = None) -> float:
    """Of the chi-square statistic, multiplied by ``scale``."""
    statistic = scale * sum((o - e) ** 2 / e for o, e in zip(observed, expected, strict=True))
    df = len(observed) - 1 if df is None else df
    return float(torch.special.gammaincc(torch.tensor(df / 2).double(), torch.tensor(statistic / 2).double()))


def uniformity(sample: Sampler, k: int, n: int, repetitions: int, bins: int | None = None) -> float:
    """How likely counts this uneven are when each of ``n`` rows is among the ``k`` kept with probability k / n.

    A sample without replacement of fixed size spreads less than independent draws: the factor is (n - 1) / (n - k).
    The stream is cut in equal ``bins``, one per row if None.
    """
    counts = [0] * n
    for seed in range(repetitions):
        kept = list(sample(n, seed))
        assert len(kept) == len(set(kept)) == min(k, n)
        for row in kept:
            counts[row] += 1
    bins = n if bins is None else bins
    width = n // bins
    binned = [sum(counts[i : i + width]) for i in range(0, n, width)]
    return p_value(binned, [repetitions * k / bins] * bins, scale=(n - 1) / (n - k))


REPETITIONS = {1: 3000, 7: 6000, 100: 150}


def offered(store: Store, n: int, batch: int, **columns: torch.Tensor) -> Store:
    columns = {"row": torch.arange(n), **columns}
    for start in range(0, n, batch):
        store.add({name: values[start : start + batch] for name, values in columns.items()})
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
    assert uniformity(of_store(k, batch), k, factor * k, REPETITIONS[k]) > 0.001


@pytest.mark.parametrize("batch", [64, 1000])
@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("n", [2000, 7000])
def test_reservoir_is_uniform_over_long_streams(n: int, k: int, batch: int) -> None:
    assert uniformity(of_store(k, batch), k, n, {1: 400, 7: 150, 100: 40}[k], bins=20) > 0.001


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 3, 64, 1000])
@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize("n", [2000, 7000])
def test_reservoir_is_uniform_over_long_streams_at_length(n: int, k: int, batch: int) -> None:
    assert uniformity(of_store(k, batch), k, n, {1: 2000, 7: 1000, 100: 500}[k], bins=20) > 0.001


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
        for start in range(0, n, batch):
            for row in range(max(k, start), min(n, start + batch)):
                slot = random.randrange(max(k, start) + 1)
                if slot < k:
                    held[slot] = row
        return held

    return sample


@pytest.mark.parametrize("k", [1, 7])
@pytest.mark.parametrize("factor", [2, 7])
def test_the_check_rejects_a_reservoir_off_by_one(factor: int, k: int) -> None:
    assert uniformity(off_by_one(k), k, factor * k, REPETITIONS[k]) < 0.001


@pytest.mark.parametrize(("k", "factor", "batch"), [(1, 7, 3), (1, 7, 64), (7, 2, 64), (7, 7, 3), (7, 7, 64)])
def test_the_check_rejects_a_frozen_counter(k: int, factor: int, batch: int) -> None:
    assert uniformity(frozen_counter(k, batch), k, factor * k, REPETITIONS[k]) < 0.001


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_every_subset_is_equally_likely(batch: int) -> None:
    n, k, repetitions = 7, 3, 3500
    counts = Counter(tuple(sorted(of_store(k, batch)(n, seed))) for seed in range(repetitions))
    subsets = list(combinations(range(n), k))
    assert p_value([counts[s] for s in subsets], [repetitions / len(subsets)] * len(subsets)) > 0.001


# -- one class beside others --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 5, 64])
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
    labels = torch.tensor(stream)
    counts = torch.zeros(len(stream), dtype=torch.float64)
    sizes = {label: Counter[int]() for label in range(3)}
    for seed in range(1500):
        store = offered(Store(capacity, keep=ClassBalanced(Reservoir()), seed=seed), len(stream), batch, label=labels)
        counts[kept(store)] += 1
        for label, size in Counter(store.rows()["label"].tolist()).items():
            sizes[label][size] += 1
    assert sum(max(size) for size in sizes.values()) == capacity
    for label in range(3):
        assert len(sizes[label]) == 1, "the share of a class does not depend on chance"
        (k,) = sizes[label]
        n = stream.count(label)
        of_class = counts[labels == label].tolist()
        assert p_value(of_class, [1500 * k / n] * n, scale=(n - 1) / (n - k)) > 0.001


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


def weighted(k: int, weights: torch.Tensor, batch: int, seed: int) -> list[int]:
    store = Store(k, keep=WeightedReservoir("weight"), seed=seed)
    return kept(offered(store, len(weights), batch, weight=weights))


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_weighted_reservoir_of_one_row_is_proportional_to_the_weights(batch: int) -> None:
    weights = torch.linspace(1, 5, 40, dtype=torch.float64)[
        torch.randperm(40, generator=torch.Generator().manual_seed(3))
    ]
    counts = Counter(weighted(1, weights, batch, seed)[0] for seed in range(2500))
    expected = (2500 * weights / weights.sum()).tolist()
    assert p_value([counts[row] for row in range(40)], expected) > 0.001


@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("k", [1, 3])
def test_weighted_reservoir_is_successive_sampling(k: int, batch: int) -> None:
    weights = [1.0, 0.2, 5.0, 2.0, 1.0, 0.5, 3.0]
    law = successive(weights, k)
    counts = Counter(tuple(sorted(weighted(k, torch.tensor(weights), batch, seed))) for seed in range(5000))
    assert counts.keys() <= law.keys()
    # sets too rare for a chi-square are counted together
    rare = [subset for subset, p in law.items() if 5000 * p < 5]
    often = [subset for subset in law if subset not in rare]
    observed = [counts[s] for s in often] + [sum(counts[s] for s in rare)] * bool(rare)
    expected = [5000 * law[s] for s in often] + [5000 * sum(law[s] for s in rare)] * bool(rare)
    assert p_value(observed, expected) > 0.001


def test_weighted_reservoir_in_each_class() -> None:
    weights = torch.tensor([1.0, 4.0, 2.0, 1.0, 3.0, 2.0, 1.0, 2.0])
    labels = torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
    counts = torch.zeros(8)
    for seed in range(3000):
        store = Store(2, keep=ClassBalanced(WeightedReservoir("weight")), seed=seed)
        counts[kept(offered(store, 8, 3, weight=weights, label=labels))] += 1
    for label in (0, 1):
        own = labels == label
        assert p_value(counts[own].tolist(), (3000 * weights[own] / weights[own].sum()).tolist()) > 0.001


def test_rows_without_weight_are_never_kept() -> None:
    weights = torch.tensor([0.0, 1.0] * 50)
    for batch in (1, 100):
        assert all(row % 2 for row in weighted(20, weights, batch, seed=0))


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


@pytest.mark.parametrize("capacity", [1, 10, 700])
@pytest.mark.parametrize("keep", POLICIES, ids=repr)
def test_the_cuts_of_the_stream_do_not_matter(keep: object, capacity: int, assert_same: Callable) -> None:
    n = 2500
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
        stop = start + random.choice([0, 1, 2, 700])
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
    store = Store(40, keep=Fifo())
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


def remove_half_then_refill(k: int, before: int, n: int, seed: int) -> list[int]:
    """Rows of odd number leave after ``before`` rows; the stream goes on up to row ``n - 1``."""
    store = offered(Store(k, seed=seed), before, 64)
    store.remove(store.rows().ids[store.rows()["row"] % 2 == 1])
    for start in range(before, n, 64):
        store.add({"row": torch.arange(start, min(n, start + 64))})
    return kept(store)


def test_a_reservoir_refilled_after_removals_is_uniform() -> None:
    k, before, n = 20, 100, 1000
    left = [row for row in range(n) if row >= before or row % 2 == 0]
    counts = Counter(row for seed in range(600) for row in remove_half_then_refill(k, before, n, seed))
    assert sum(counts.values()) == 600 * k, "so long a stream fills it again"
    assert counts.keys() <= set(left)
    bins = [sum(counts[row] for row in left[i : i + 50]) for i in range(0, len(left), 50)]
    assert p_value(bins, [600 * k / len(bins)] * len(bins), scale=(len(left) - 1) / (len(left) - k)) > 0.001


@pytest.mark.parametrize("how", ["remove", "resize"])
def test_slots_that_become_free_take_only_rows_above_the_threshold(how: str) -> None:
    """Old and new rows are kept with the same probability k / m, the rate before slots became free.

    That of new rows is the mean of ``1 - F(threshold)`` for the k-th or the (k + 1)-th highest of m keys.
    """
    k, before, n, repetitions = 50, 500, 1000, 400
    old = new = 0
    for seed in range(repetitions):
        store = offered(Store(k, seed=seed), before, 64)
        if how == "remove":
            store.remove(store.rows().ids[store.rows()["row"] % 2 == 1])
        else:
            store.resize(10 * k)
        store.add({"row": torch.arange(before, n)})
        rows = torch.tensor(kept(store))
        full = len(store) == store.capacity
        if full:  # the threshold rose further: no statement
            continue
        old += int((rows < before).sum())
        new += int((rows >= before).sum())
    if how == "resize":
        rate = new / (repetitions * (n - before))
        deviation = (0.1 * 0.9 / (repetitions * (n - before)) + 0.1**2 / k / repetitions) ** 0.5
        assert k / (before + 1) - 4 * deviation < rate < (k + 1) / (before + 1) + 4 * deviation
        assert old == repetitions * k
    else:
        assert new > 0


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
    store.add({"score": torch.tensor([5.4, 5.6]), "label": torch.zeros(2, dtype=torch.int64)})
    assert sorted(store.rows()["score"].tolist()) == [5.6, 6.0, 7.0, 9.0]  # 5.5 was lost since


@pytest.mark.parametrize("keep", POLICIES, ids=repr)
@pytest.mark.parametrize(("n", "capacity"), [(2000, 5), (2000, 1999), (3000, 600)])
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
    for label in labels.unique().tolist():
        own = sorted((i for i in keys if labels[i] == label), key=lambda i: -keys[i])
        mine = sorted((i for i in held.ids.tolist() if labels[i] == label), key=lambda i: -keys[i])
        assert mine == own[: len(mine)]
        assert abs(len(mine) - capacity / len(labels.unique())) < 1


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


def test_merged_reservoirs_are_one_uniform_sample() -> None:
    n, cut, k = 60, 18, 6
    for further in (0, 24):
        counts = [0] * (n + further)
        for seed in range(2500):
            one, other, _ = two_streams(Reservoir(), k, {"row": torch.arange(n)}, cut)
            one, other = offered(Store(k, seed=2 * seed), cut, 5), Store(k, seed=2 * seed + 1)
            other.add({"row": torch.arange(cut, n)})
            one.merge(other)
            if further:
                one.add({"row": torch.arange(n, n + further)})
            assert len(one) == k
            for row in kept(one):
                counts[row] += 1
        total = n + further
        assert p_value(counts, [2500 * k / total] * total, scale=(total - 1) / (total - k)) > 0.001


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
