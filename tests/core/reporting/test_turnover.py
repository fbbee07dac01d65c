from collections import Counter

import pytest
import torch

from memreplay import ClassBalanced, Fifo, Reservoir, Store
from memreplay.core.reporting import Kept, Turnover
from memreplay.core.selection import Selector


@pytest.mark.parametrize("keep", [Reservoir(), Fifo(), ClassBalanced(Reservoir())])
@pytest.mark.parametrize("pending", [0, 7, 10**6])
def test_every_row_offered_is_refused_gone_or_held(
    keep: Selector, pending: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memreplay.core.reporting.turnover._PENDING", pending)
    generator = torch.Generator().manual_seed(0)
    store, turnover = Store(20, keep=keep, seed=1), Turnover()
    offered: Counter[int] = Counter()
    taken: Counter[int] = Counter()
    held: dict[int, int] = {}  # by slot, the class: rows leave a slot when another takes it
    gone: Counter[int] = Counter()
    for _ in range(40):
        batch = {"label": torch.randint(3, (7,), generator=generator) + 5}
        slots = store.add(batch)
        turnover.note(batch, slots)
        batch["label"] += 100  # the caller's own again
        for label, slot in zip((batch["label"] - 100).tolist(), slots.tolist(), strict=True):
            offered[label] += 1
            if slot >= 0:
                taken[label] += 1
                if slot in held:
                    gone[held[slot]] += 1
                held[slot] = label
    there = Counter(held.values())
    assert turnover.table(store.rows()["label"]) == {
        of: Kept(offered[of], offered[of] - taken[of], gone[of], there[of]) for of in (5, 6, 7)
    }
    assert turnover.summary(store.rows()["label"])["5"]["offered"] == offered[5]


def test_what_is_forgotten_is_gone() -> None:
    store, turnover = Store(10), Turnover()
    batch = {"label": torch.tensor([1, 1, 2])}
    turnover.note(batch, store.add(batch))
    store.forget(label=1)
    assert turnover.table(store.rows()["label"]) == {1: Kept(2, 0, 2, 0), 2: Kept(1, 0, 0, 1)}


def test_rows_from_before_are_left_out() -> None:
    store, turnover = Store(6, keep=Fifo()), Turnover()
    store.add({"label": torch.tensor([1, 1, 2, 2])})
    for label in (1, 3):
        batch = {"label": torch.tensor([label, label])}
        seen = store.seen
        turnover.note(batch, store.add(batch), seen)
    rows = store.rows()
    assert turnover.table(rows["label"], rows.ids) == {1: Kept(2, 0, 0, 2), 3: Kept(2, 0, 0, 2)}
    store.remove(rows.ids[-2:])
    again = Turnover()
    again.load_state_dict(turnover.state_dict())
    rows = store.rows()
    table = again.table(rows["label"], rows.ids)
    assert sum(kept.gone for kept in table.values()) == 2
    assert all(kept.offered == kept.refused + kept.gone + kept.held for kept in table.values())


def test_nothing_to_count() -> None:
    turnover = Turnover()
    turnover.note({"feature": torch.zeros(3, 2)}, torch.zeros(3))
    assert turnover.table(torch.tensor([1])) == {}
    for labels in (torch.zeros(3), torch.zeros(3, 2, dtype=torch.int64)):
        turnover = Turnover()
        turnover.note({"label": labels}, torch.zeros(3))
        assert turnover.table(torch.tensor([1])) == {}
    turnover = Turnover()
    turnover.note({"label": torch.zeros(3, dtype=torch.int64)}, None)
    assert turnover.table(torch.tensor([1])) == {}
    turnover = Turnover()
    with pytest.raises(ValueError, match=r"slots has 2 rows; expected 3, as column 'label' has"):
        turnover.note({"label": torch.arange(3)}, torch.zeros(2))
