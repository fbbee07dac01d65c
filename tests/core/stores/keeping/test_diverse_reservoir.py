"""The diverse reservoir beside a plain one with the same keys, and its choice beside all distances."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from memreplay import ClassBalanced, DiverseReservoir, Half, Reservoir, Store
from memreplay.core.stores.keeping.reservoir import log_uniform

K = 12


def stream(n: int, seed: int = 0, classes: int = 3) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"input": torch.randn(n, 2, generator=g), "label": torch.randint(classes, (n,), generator=g)}


def held(store: Store) -> dict[str, torch.Tensor]:
    """The rows with their keys, in the order in which they arrived."""
    state = store.state_dict()["tensors"]
    key = next(values for name, values in state.items() if name.split(".")[-1] == "key")
    rows = store.rows()
    order = rows.ids.argsort()
    return {"id": rows.ids[order], "key": key[order], "label": rows.columns["label"][order]}


@pytest.mark.parametrize("choices", [1, 3, 100])
def test_keys_and_classes_are_those_of_a_reservoir(choices):
    rows = stream(300)
    store = Store(K, keep=DiverseReservoir(choices=choices), seed=3)
    best: list[tuple[float, int]] = []
    generator = torch.Generator()
    for row in range(300):
        generator.set_state(store.state_dict()["tensors"]["books.generator"])
        key = float(log_uniform(1, generator))
        store.add({name: values[row : row + 1] for name, values in rows.items()})
        best = sorted([*best, (key, int(rows["label"][row]))])[-K:]
    found = held(store)
    assert sorted(zip(found["key"].tolist(), found["label"].tolist(), strict=True)) == best


def test_the_row_that_leaves_is_the_nearest_to_another_of_its_class():
    rows = stream(300, seed=1)
    store = Store(K, keep=DiverseReservoir(choices=100), seed=0)
    left = 0
    for row in range(300):
        before = held(store)["id"].tolist() if len(store) else []
        store.add({name: values[row : row + 1] for name, values in rows.items()})
        for gone in set(before) - set(held(store)["id"].tolist()):
            left += 1
            members = torch.tensor([i for i in before if rows["label"][i] == rows["label"][gone]])
            distance = torch.cdist(rows["input"][members].double(), rows["input"][members].double())
            nearest = distance.fill_diagonal_(torch.inf).amin(1)
            assert nearest[members == gone].item() <= nearest.min().item() * (1 + 1e-4)
    assert left > 20


def test_rows_that_come_together_compete_as_one_after_the_other():
    counts: Counter[int] = Counter()
    for seed in range(300):
        store = Store(4, keep=DiverseReservoir(choices=1), seed=seed)
        store.add(stream(20, classes=1))
        assert len(store) == 4
        counts.update(store.rows().ids.tolist())
    expected = 300 * 4 / 20
    chi_square = sum((counts[row] - expected) ** 2 / (expected * (1 - 4 / 20)) for row in range(20)) * 19 / 20
    assert chi_square < 43.8  # 0.1 % of 19 degrees of freedom; with one choice it is a uniform sample


def test_what_is_kept_is_farther_apart_than_in_a_reservoir():
    def nearest(keep) -> float:
        store = Store(30, keep=keep, seed=0)
        store.add(stream(2000, classes=1))
        x = store.rows().columns["input"]
        return float(torch.cdist(x, x).fill_diagonal_(torch.inf).amin(1).median())

    assert nearest(DiverseReservoir()) > 1.5 * nearest(Reservoir())


def test_it_resumes_bit_for_bit(assert_same):
    whole, parts = (Store(K, keep=DiverseReservoir(), seed=7) for _ in range(2))
    for start in range(0, 200, 10):
        batch = {name: values[start : start + 10] for name, values in stream(200).items()}
        whole.add(batch)
        again = Store(K, keep=DiverseReservoir(), seed=99)
        again.load_state_dict(parts.state_dict())
        again.add(batch)
        parts = again
    assert_same(whole.state_dict(), parts.state_dict())


def test_it_takes_compressed_columns_and_one_class_and_shares_of_classes():
    for keep in (DiverseReservoir(label=None), ClassBalanced(DiverseReservoir())):
        store = Store(K, keep=keep, columns={"input": Half()})
        for seed in range(9):
            store.add(stream(20, seed))
        assert len(store) == K
    assert Counter(store.rows().columns["label"].tolist()) == {0: 4, 1: 4, 2: 4}


def test_choices_is_a_number_of_rows():
    with pytest.raises(ValueError, match="choices is 0; expected at least 1"):
        DiverseReservoir(choices=0)


def test_the_column_must_be_there():
    rows = {**stream(40), "key": torch.cat([torch.full((2,), -9.0), torch.full((38,), torch.nan)])}
    with pytest.raises(ValueError, match="no column 'feature'"):
        DiverseReservoir("feature", label=None).select(rows, 2, generator=torch.Generator())
