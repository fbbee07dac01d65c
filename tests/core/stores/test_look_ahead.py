"""What is foreseen is what happens: against a heap, row by row."""

from __future__ import annotations

import heapq
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memreplay.core.stores import Store
from memreplay.core.stores.admission import Admission
from memreplay.core.stores.look_ahead import Accepted, Reserve, contest


def by_heap(held: list[float], rows: list[int], heights: list[float]) -> tuple[dict[int, int], dict[int, float]]:
    """Who sits in each slot at the end (row, or -1 for those held before), and what is lost at each row."""
    heap = [(-height, slot) for slot, height in enumerate(held)]
    heapq.heapify(heap)
    owner, lost = dict.fromkeys(range(len(held)), -1), {}
    for row, height in zip(rows, heights, strict=True):
        worst, slot = heap[0]
        if height >= -worst:
            lost[row] = height
            continue
        lost[row] = -worst
        heapq.heapreplace(heap, (-height, slot))
        owner[slot] = row
    return owner, lost


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 40),
    n=st.integers(1, 60),
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 200), max_size=6),
    scale=st.floats(0.2, 1.5),
)
def test_a_contest_goes_as_with_a_heap(size: int, n: int, seed: int, cuts: list[int], scale: float) -> None:
    random = np.random.default_rng(seed)
    held = random.random(size)
    rows = np.sort(random.choice(200, n, replace=False))
    heights = random.random(n) * scale
    ahead, reserve = contest(rows, heights, 200, Reserve.of(held, np.arange(size), n))
    owner, lost = by_heap(held.tolist(), rows.tolist(), heights.tolist())

    found = dict.fromkeys(range(size), -1)
    keys: dict[int, float] = {}
    edges = [0, *sorted(cuts), 200]
    for start, end in pairwise(edges):
        accepted = ahead.between(start, end)
        assert len(set(accepted.slots.tolist())) == len(accepted.slots)
        found.update(zip(accepted.slots.tolist(), (accepted.rows + start).tolist(), strict=True))
        keys.update(zip((accepted.rows + start).tolist(), accepted.keys.tolist(), strict=True))
        before = [height for row, height in lost.items() if row < end]
        assert ahead.lost_before(end) == (-min(before) if before else -np.inf)
    assert found == owner
    assert all(keys[row] == -heights[rows.tolist().index(row)] for row in found.values() if row >= 0)

    at_end = {slot: held[slot] if row < 0 else heights[rows.tolist().index(row)] for slot, row in owner.items()}
    assert reserve.heights.tolist() == sorted(reserve.heights.tolist(), reverse=True)
    assert {slot: at_end[slot] for slot in reserve.slots.tolist()} == dict(
        zip(reserve.slots.tolist(), reserve.heights.tolist(), strict=True)
    )
    assert set(reserve.slots.tolist()) == {slot for slot, height in at_end.items() if height >= reserve.bound}


def test_the_reserve_of_a_large_store_is_a_part_of_it() -> None:
    heights = np.random.default_rng(0).random(10_000)
    heights_in_order = sorted(heights.tolist(), reverse=True)
    # of the second, the rows that a look at some of them sees are all high
    for held in (heights, heights + (np.arange(10_000) % 9 == 0)):
        reserve = Reserve.of(held, np.arange(10_000), 100)
        assert 625 <= len(reserve.slots) < 1100
        assert reserve.heights.tolist() == sorted(held.tolist(), reverse=True)[: len(reserve.slots)]
    assert len(Reserve.of(heights, np.arange(10_000), 3000).slots) >= 3000
    assert Reserve.of(heights, np.arange(10_000), 10_000).heights.tolist() == heights_in_order


def test_of_equal_rows_the_newest_go_first() -> None:
    random = np.random.default_rng(0)
    heights, ids = random.random(500).round(1), random.permutation(500)
    reserve = Reserve.of(heights, ids, 100)
    order = sorted(range(500), key=lambda slot: (-heights[slot], -ids[slot]))
    assert reserve.slots.tolist() == order[: len(reserve.slots)]
    assert reserve.heights.tolist() == heights[reserve.slots].tolist()


def test_a_slot_won_twice_goes_to_the_later_row() -> None:
    def part(rows: list[int], slots: list[int]) -> Accepted:
        return Accepted(np.array(rows), np.array(slots), np.array(rows, np.float64))

    joined = Accepted.joined([part([0, 1], [5, 6]), part([2, 4], [7, 5])])
    assert joined.rows.tolist() == [1, 2, 4]
    assert joined.slots.tolist() == [6, 7, 5]
    assert joined.keys.tolist() == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_what_is_foreseen_is_what_is_kept(batch: int) -> None:
    """Two books with the same numbers: one is asked beforehand, the other is not."""
    asked, other = (Admission(50, torch.Generator().manual_seed(3), False) for _ in range(2))
    foreseen = 0
    for _ in range(3000 // batch):
        accepted = asked.foreseen(batch)
        expected = other.offer(batch)
        if accepted is None:
            accepted = asked.offer(batch)
        else:
            foreseen += 1
            asked.take_in(accepted, batch)
        assert accepted.rows.tolist() == expected.rows.tolist()
        assert accepted.slots.tolist() == expected.slots.tolist()
    assert foreseen > 0
    assert asked.ids.tolist() == other.ids.tolist()
    state, expected_state = asked.state(), other.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected_state.items())


@pytest.mark.parametrize("classes", [0, 1, 5])
def test_only_wanted_rows_need_to_come(classes: int) -> None:
    from memreplay.core.selection import ClassBalanced
    from memreplay.core.stores.keeping import Reservoir

    keep = ClassBalanced(Reservoir()) if classes else Reservoir()
    whole, part = Store(40, keep=keep, seed=2), Store(40, keep=keep, seed=2)
    random = torch.Generator().manual_seed(0)
    travelled = 0
    for _ in range(100):
        label = torch.randint(max(1, classes), (30,), generator=random)
        batch = {"feature": torch.randn(30, 4, generator=random), "label": label}
        slots = whole.add(batch)
        offered = part.wanted(30, {name: batch[name] for name in part.decides_by})
        if offered is None:
            assert torch.equal(part.add(batch), slots)
            travelled += 30
        else:
            some = {name: values[offered.rows] for name, values in batch.items()}
            assert torch.equal(part.add(some, among=offered), slots)
            travelled += len(offered.rows)
    assert travelled < 1500, "of 3000"
    mine, theirs = whole.state_dict()["tensors"], part.state_dict()["tensors"]
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_rows_that_were_not_wanted_are_refused() -> None:
    store = Store(20)
    for _ in range(50):
        store.add({"x": torch.randn(10, 2)})
    offered = store.wanted(10, {})
    while offered is None or not len(offered.rows):
        store.add({"x": torch.randn(10, 2)})
        offered = store.wanted(10, {})
    seen = store.seen
    with pytest.raises(ValueError, match="expected the rows wanted by this store now"):
        store.add({"x": torch.randn(len(offered.rows) + 1, 2)}, among=offered)
    wrong = offered._replace(rows=(offered.rows + 1) % 10)
    with pytest.raises(ValueError, match="expected the rows wanted by this store now"):
        store.add({"x": torch.randn(len(offered.rows), 2)}, among=wrong)
    assert store.seen == seen
