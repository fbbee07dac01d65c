"""Store: what its operations promise. Who is kept is in test_admission, how values are held in test_columns."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import ismemberdescriptor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from memreplay.core.batch import Batch, jagged, texts
from memreplay.core.retrievers import Nearest
from memreplay.core.selection import ClassBalanced, Selector, TopScore, Uniform
from memreplay.core.stores import BFloat16, ColumnKind, Growable, Half, Quantized, Ragged, Rows, Store
from memreplay.core.stores.keeping import Fifo, Herding, KCenter, Reservoir, WeightedReservoir


def batch(n: int, seed: int = 0, classes: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "feature": torch.randn(n, 3, generator=generator),
        "label": torch.randint(classes, (n,), generator=generator),
        "score": torch.rand(n, generator=generator),
    }


def filled(capacity: int = 20, n: int = 50, seed: int = 0, **options: Any) -> Store:
    store = Store(capacity, seed=seed, **options)
    store.add(batch(n))
    return store


POLICIES = [
    Reservoir(),
    Fifo(),
    TopScore("score"),
    WeightedReservoir("score"),
    Herding(),
    ClassBalanced(Reservoir()),
    ClassBalanced(TopScore("score")),
    ClassBalanced(Herding()),
]
any_policy = pytest.mark.parametrize("keep", POLICIES, ids=repr)


# -- drawing ----------------------------------------------------------------------------------------------------


@any_policy
def test_drawn_rows_are_those_that_were_added(keep: Any) -> None:
    store, given = filled(keep=keep), batch(50)
    for rows in (store.draw(7), store.draw(20), store.rows(), store.draw(5, TopScore("score")), store.draw(100)):
        assert len(rows) == len(rows.ids.unique()) == min(20, len(rows))
        assert store.rows().ids[rows.slots].tolist() == rows.ids.tolist()
        for name, values in given.items():
            assert torch.equal(rows[name], values[rows.ids])


def test_draw_gives_all_it_has() -> None:
    store = Store(10)
    assert len(store.draw(3)) == len(store.draw(0)) == len(store.rows()) == 0
    store.add(batch(4))
    assert sorted(store.draw(9).ids.tolist()) == [0, 1, 2, 3]
    assert len(store.draw(0)) == 0
    assert store.draw(0)["feature"].shape == (0, 3)


@pytest.mark.parametrize(("n", "k"), [(6, 2), (6, 3), (6, 5), (40, 3)])
def test_uniform_draws_are_uniform(n: int, k: int) -> None:
    store = Store(n)
    store.add({"row": torch.arange(n)})
    repetitions = 3000
    drawn = torch.stack([store.draw(k)["row"] for _ in range(repetitions)])
    for position in range(k):  # every place in the order, too
        counts = torch.bincount(drawn[:, position], minlength=n).double()
        statistic = ((counts - repetitions / n).square() / (repetitions / n)).sum()
        assert torch.special.gammaincc(torch.tensor((n - 1) / 2).double(), statistic / 2) > 0.001
    assert all(len(set(rows)) == k for rows in drawn.tolist())


def test_draws_by_class_share_equally() -> None:
    store = Store(100)
    store.add({"label": torch.tensor([0] * 80 + [1] * 15 + [2] * 5)})
    assert Counter(store.draw(15, ClassBalanced(Uniform()))["label"].tolist()) == {0: 5, 1: 5, 2: 5}
    assert Counter(store.draw(31, ClassBalanced(Uniform()))["label"].tolist()) == {0: 13, 1: 13, 2: 5}


def test_draw_by_query_scores_with_the_best_over_the_queries() -> None:
    store = Store(10)
    store.add({"feature": torch.eye(5)})
    query = {"feature": torch.eye(5)[[3, 1]] + 0.1 * torch.eye(5)[[4, 4]]}
    rows = store.draw(3, Nearest("feature", metric="dot"), query=query)
    assert sorted(rows.slots[:2].tolist()) == [1, 3]
    assert rows.slots[2] == 4
    assert rows.scores is not None
    assert torch.allclose(rows.scores, torch.tensor([1.0, 1.0, 0.1]))


def test_draws_are_copies(assert_same: Callable) -> None:
    kinds = {"half": Half(), "quantized": Quantized(), "wide": Growable(), "text": Ragged()}
    store = Store(4, keep=Fifo(), columns=kinds)
    columns = {name: torch.randn(4, 3) for name in ("plain", "half", "quantized", "wide")}
    store.add({**columns, "text": ["a", "bb", "", "dddd"]})
    before = store.state_dict()
    for rows in (store.draw(4, TopScore("id")), store.rows(), store.rows([1, 2])):
        for values in [*rows.values(), rows.slots, rows.ids]:
            (values.values() if values.is_nested else values).fill_(7)
    rows = store.rows()
    assert_same(store.state_dict(), before)
    kept = {name: values.clone() for name, values in rows.items()}
    store.update(rows, plain=torch.zeros(4, 3), text=["z"] * 4)
    store.add({**{name: torch.ones(4, 3) for name in columns}, "text": ["yy"] * 4})
    store.remove(store.rows())
    for name, values in kept.items():
        assert texts(rows[name]) == texts(values) if name == "text" else torch.equal(rows[name], values)


def test_what_was_added_may_be_overwritten(assert_same: Callable) -> None:
    store = Store(4, columns={"text": Ragged()})
    given = {"x": torch.ones(4, 2), "text": jagged([[1], [2], [3], [4]])}
    store.add(given)
    before = store.state_dict()
    given["x"].zero_()
    given["text"].values().zero_()
    assert_same(store.state_dict(), before)


def test_gradients_stay_outside() -> None:
    store = Store(4, columns={"half": Half(), "text": Ragged()})
    x = torch.randn(3, 2, requires_grad=True)
    store.add({"x": x * 2, "half": x, "text": list(x)})
    store.update([0, 1, 2], x=x * 3)
    assert not any(values.requires_grad for values in store.draw(3).values())
    assert torch.equal(store.rows()["x"], (x * 3).detach())


def test_strides_do_not_matter() -> None:
    store = Store(6)
    x = torch.randn(3, 6).t()
    store.add({"x": x, "y": x[:, 1], "z": x[:, :1].expand(6, 4), "c": torch.complex(x, x).conj()})
    rows = store.rows()
    assert torch.equal(rows["x"], x)
    assert torch.equal(rows["y"], x[:, 1])
    assert torch.equal(rows["z"], x[:, :1].expand(6, 4))
    assert torch.equal(rows["c"], torch.complex(x, -x))
    store.update([2, 0], x=x[[2, 0]] * 2, c=torch.complex(x, x)[[2, 0]].conj())
    assert torch.equal(store.rows([0])["x"], x[:1] * 2)


def test_columns_may_come_in_any_order() -> None:
    store = filled(n=10)
    store.add(dict(reversed(batch(5).items())))
    assert torch.equal(store.rows()["feature"][10:], batch(5)["feature"])


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_rows_of_one_store_go_into_another(n: int) -> None:
    one, other = filled(), Store(20)
    other.add(batch(1))
    other.add(one.draw(n))
    assert len(other) == n + 1
    other.consolidate(Herding(), 5, candidates=one.draw(3))


# -- random numbers ---------------------------------------------------------------------------------------------


def everything(store: Store, folder: Path) -> None:
    store.add(batch(30, seed=1))
    store.draw(5)
    store.draw(5, ClassBalanced(TopScore("score")))
    store.search({"feature": torch.ones(2, 3)}, 3)
    store.update(store.draw(3), score=torch.zeros(3))
    store.remove(store.draw(2))
    store.forget(label=1)
    store.refresh(lambda x: x + 1, read="feature", write="feature")
    store.consolidate(ClassBalanced(Herding()), 10, candidates=batch(5, seed=2))
    store.resize(8)
    store.resize(30, keep=Reservoir())
    store.add(batch(40, seed=3))
    store.save(folder)
    Store.load(folder).load_state_dict(store.state_dict())
    store.summary()
    repr(store.draw(3))


@any_policy
def test_global_random_numbers_are_not_touched(keep: Any, tmp_path: Path) -> None:
    store = filled(keep=keep)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]
    everything(store, tmp_path)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2]
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@any_policy
def test_results_do_not_depend_on_global_random_numbers(keep: Any, tmp_path: Path, assert_same: Callable) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        store = filled(keep=keep)
        everything(store, tmp_path / str(seed))
        states.append(store.state_dict())
    assert_same(*states)


def test_the_seed_changes_results_and_the_same_seed_does_not() -> None:
    kept = [sorted(filled(seed=seed).rows().ids.tolist()) for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]
    drawn = [filled(100, seed=seed).draw(10).ids.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    tensors = Store(5, seed=3).state_dict()["tensors"]
    assert not torch.equal(tensors["draw_generator"], tensors["books.generator"])


@any_policy
def test_what_is_recalled_does_not_change_what_is_kept(keep: Any) -> None:
    quiet, busy = filled(keep=keep), filled(keep=keep)
    for seed in range(5):
        quiet.add(batch(20, seed))
        busy.draw(7)
        busy.draw(3, ClassBalanced(Uniform()))
        busy.search({"feature": torch.ones(1, 3)}, 2)
        busy.rows()
        busy.summary()
        busy.state_dict()
        busy.add(batch(20, seed))
        assert torch.equal(quiet.rows().ids, busy.rows().ids)


# -- budget -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "row"),
    [
        ({}, 12 + 8 + 4),
        ({"feature": Half()}, 6 + 8 + 4),
        ({"feature": Quantized(), "score": BFloat16()}, 3 + 4 + 8 + 2),
        ({"feature": Growable(width=10)}, 40 + 8 + 4),
    ],
)
@pytest.mark.parametrize(("keep", "books"), [(Reservoir(), 24), (ClassBalanced(Reservoir()), 32)])
def test_budget_counts_columns_and_books(columns: Mapping[str, ColumnKind], row: int, keep: Any, books: int) -> None:
    store = Store(budget=5000, keep=keep, columns=columns)
    assert store.capacity == 0
    store.add(batch(500))
    assert len(store) == store.capacity == 5000 // (row + books)
    assert store.nbytes == len(store) * (row + books) <= 5000


@pytest.mark.parametrize(
    ("text", "expected"), [("1KB", 1000), ("1KiB", 1024), ("0.5 MB", 500_000), ("2000", 2000), (3000, 3000)]
)
def test_budget_in_words(text: str | int, expected: int) -> None:
    store = Store(budget=text)
    store.add({"x": torch.zeros(1)})
    assert store.capacity == expected // 28


@any_policy
def test_a_column_that_widens_costs_rows_of_the_budget(keep: Any) -> None:
    store = Store(budget=3000, keep=keep, columns={"logits": Growable()})
    generator = torch.Generator().manual_seed(0)
    given: list[Tensor] = []
    for width in (3, 3, 10, 5, 40):
        logits = torch.randn(60, width, generator=generator)
        slots = store.add({**batch(60, seed=width), "logits": logits})
        given += logits.unbind()
        assert store.nbytes <= 3000
        rows = store.rows()
        assert rows.ids[slots[slots >= 0]].tolist() == [len(given) - 60 + i for i in range(60) if slots[i] >= 0]
        for i, got in zip(rows.ids.tolist(), rows["logits"], strict=True):
            assert torch.equal(got[: len(given[i])], given[i])
    held = len(store)
    store.update(store.draw(1), logits=torch.zeros(1, 100))
    assert store.nbytes <= 3000
    assert len(store) < held


def test_refreshed_features_keep_to_the_budget() -> None:
    store = Store(budget=3000)
    store.add(batch(100))
    store.refresh(lambda x: x.repeat(1, 10), read="feature", write="feature")
    assert store.rows()["feature"].shape[1] == 30
    assert 2800 <= store.nbytes <= 3000


def test_resize_ends_the_budget() -> None:
    store = Store(budget=3000)
    store.add(batch(100))
    store.resize(200)
    store.add(batch(500))
    assert len(store) == 200


# -- update -----------------------------------------------------------------------------------------------------


def test_update_overwrites_by_id_and_counts_those_gone() -> None:
    store = filled(20, 20)
    rows = store.draw(6)
    store.remove(rows.ids[:2])
    assert store.update(rows, score=torch.arange(6.0)) == 4
    assert store.skipped == 2
    assert store.rows(rows.ids[2:])["score"].tolist() == [2.0, 3.0, 4.0, 5.0]
    untouched = [i for i in range(20) if i not in rows.ids.tolist()]
    assert torch.equal(store.rows(untouched)["score"], batch(20)["score"][untouched])
    assert torch.equal(store.rows(rows.ids[2:])["feature"], batch(20)["feature"][rows.ids[2:]])
    assert store.update(rows.ids, score=torch.zeros(6)) == 4
    assert store.update(rows.ids.tolist(), score=torch.zeros(6)) == 4
    assert store.update([], score=torch.zeros(0)) == 0


def test_rows_that_moved_are_still_found() -> None:
    store = filled(20, 20)
    rows = store.draw(20)
    store.remove(rows.ids[::2])
    store.add(batch(5))
    assert store.update(rows, score=torch.arange(20.0)) == 10
    assert store.rows(rows.ids[1::2])["score"].tolist() == list(range(1, 20, 2))


def test_of_one_row_updated_twice_the_last_value_stays() -> None:
    kinds = {"wide": Growable(), "text": Ragged(), "feature": Half()}
    store = Store(5, columns=kinds)
    store.add(
        {"feature": torch.zeros(3, 2), "wide": torch.zeros(3, 2), "text": ["a", "b", "c"], "label": torch.arange(3)}
    )
    new = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    store.update([1, 0, 1], feature=new, wide=new, text=["x", "yy", "zzz"], label=torch.tensor([7, 8, 9]))
    rows = store.rows([0, 1, 2])
    assert rows["feature"].tolist() == rows["wide"].tolist() == [[2, 2], [3, 3], [0, 0]]
    assert texts(rows["text"]) == ["yy", "zzz", "c"]
    assert rows["label"].tolist() == [8, 9, 2]


def test_update_does_not_change_who_is_kept() -> None:
    one, other = filled(keep=TopScore("score")), filled(keep=TopScore("score"))
    other.update(other.rows(), score=torch.zeros(20))
    one.add(batch(50, seed=1))
    other.add(batch(50, seed=1))
    assert torch.equal(one.rows().ids, other.rows().ids)


def test_a_new_label_moves_a_row_to_that_class() -> None:
    store = Store(10, keep=ClassBalanced(Fifo()))
    store.add({"label": torch.tensor([0] * 9 + [1])})
    store.update([0, 1, 2, 3, 4], label=torch.full((5,), 1))
    assert store.summary()["classes"] == {0: 4, 1: 6}
    store.add({"label": torch.tensor([2, 2, 2])})
    assert store.summary()["classes"] == {0: 3, 1: 4, 2: 3}


# -- removing ---------------------------------------------------------------------------------------------------


def test_remove() -> None:
    store = filled(20, 20)
    assert store.remove([3, 3, 5]) == 2
    assert store.remove(torch.tensor([3, 7])) == 1
    assert store.skipped == 1
    assert store.remove(store.draw(4)) == 4
    assert store.remove([]) == 0
    assert store.remove([-1, 1000]) == 0
    assert store.skipped == 3
    assert len(store) == 13
    rows = store.rows()
    assert torch.equal(rows["feature"], batch(20)["feature"][rows.ids])


@any_policy
def test_remove_all_and_start_again(keep: Any) -> None:
    store = filled(keep=keep)
    store.remove(store.rows())
    assert len(store) == len(store.draw(3)) == store.nbytes == 0
    store.consolidate(ClassBalanced(Herding()), 5)
    store.add({**batch(30, seed=4), "score": torch.rand(30) + 10})
    assert 0 < len(store) <= 20


def test_forget() -> None:
    store = filled(50)
    labels = batch(50)["label"]
    assert store.forget(label=2) == int((labels == 2).sum())
    assert store.forget(label=[0, 3, 77]) == int(((labels == 0) | (labels == 3)).sum())
    assert store.forget(label=2) == 0
    assert set(store.rows()["label"].tolist()) == {1}
    assert [entry["rows"] for entry in store.audit] == [int((labels == 2).sum()), int((labels % 3 == 0).sum()), 0]
    assert store.audit[1] == {"where": {"label": [0, 3, 77]}, "rows": store.audit[1]["rows"], "seen": 50}
    json.dumps(store.audit)


def test_forget_several_columns_means_all_of_them() -> None:
    store = Store(10)
    store.add({"label": torch.tensor([0, 0, 1, 1]), "source": torch.tensor([5, 6, 5, 6])})
    assert store.forget(label=np.int64(0), source=torch.tensor([6, 9])) == 1
    assert store.rows().ids.sort().values.tolist() == [0, 2, 3]


@pytest.mark.parametrize("inner", [Reservoir(), TopScore("score")], ids=repr)
def test_a_forgotten_class_starts_anew(inner: Any) -> None:
    store = Store(9, keep=ClassBalanced(inner))
    store.add({"label": torch.tensor([0, 1, 2] * 20), "score": torch.rand(60) + 5})
    store.forget(label=1)
    assert store.summary()["classes"] == {0: 3, 2: 3}
    store.add({"label": torch.ones(3, dtype=torch.int64), "score": torch.zeros(3)})  # below all that was lost
    assert store.summary()["classes"] == {0: 3, 1: 3, 2: 3}
    store.add({"label": torch.ones(30, dtype=torch.int64), "score": torch.ones(30)})
    assert store.summary()["classes"] == {0: 3, 1: 3, 2: 3}


def all_bytes(tensor: Tensor) -> bytes:
    """The whole memory behind a tensor, be it a view or not."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy().tobytes()


def traces(store: Store, pattern: bytes) -> list[str]:
    """Where in its own memory the store holds ``pattern``."""

    seen: dict[int, object] = {}

    def found(thing: object) -> list[str]:
        if id(thing) in seen:
            return []
        seen[id(thing)] = thing
        if isinstance(thing, Tensor):
            return [f"a tensor {tuple(thing.shape)}"] * (pattern in all_bytes(thing))
        if isinstance(thing, np.ndarray):
            return [f"an array {thing.shape}"] * (pattern in thing.tobytes())
        if isinstance(thing, int) and not isinstance(thing, bool):
            return ["a number"] * (thing.to_bytes(8, "little", signed=True) in pattern)
        if isinstance(thing, dict):
            return [where for pair in thing.items() for part in pair for where in found(part)]
        if isinstance(thing, (list, tuple)):
            return [where for part in thing for where in found(part)]
        if not type(thing).__module__.startswith("memreplay"):
            return []
        slots = {name: getattr(thing, name) for name, part in vars(type(thing)).items() if ismemberdescriptor(part)}
        return found({**getattr(thing, "__dict__", {}), **slots})

    return found({name: value for name, value in vars(store).items() if name != "audit"})


@pytest.mark.parametrize("mapped", [False, True], ids=["RAM", "mapped"])
@pytest.mark.parametrize("keep", [Fifo(), Reservoir(), ClassBalanced(Reservoir()), ClassBalanced(Herding())], ids=repr)
def test_forget_leaves_no_trace(keep: Any, mapped: bool, tmp_path: Path) -> None:
    secret = 987654321987654321
    number = 1.2345678e-5
    pattern = {
        "label": secret.to_bytes(8, "little"),
        "feature": np.float32(number).tobytes() * 3,
        "half": torch.full((3,), number).half().numpy().tobytes() * 2,
        "quantized": (torch.tensor(number) / 127).numpy().tobytes(),
        "logits": np.float32(number).tobytes() * 5,
        "token": secret.to_bytes(8, "little") * 2,
    }

    def made(label: int, value: float) -> dict[str, Any]:
        wide = torch.full((6, 7), value)
        rows = {"feature": wide[:, :4], "half": wide, "quantized": wide, "logits": wide}
        return {**rows, "label": torch.full((6,), label), "token": jagged([[label] * (1 + i) for i in range(6)])}

    kinds = {"half": Half(), "quantized": Quantized(), "logits": Growable(), "token": Ragged()}
    store = Store(12, keep=keep, columns=kinds, path=tmp_path / "scratch" if mapped else None)
    for round_ in range(3):  # some of the class is evicted before, some is still there
        store.add(made(round_, 0.5))
        store.add(made(secret, number))
    store.save(tmp_path / "save")
    for _ in range(9):
        store.search({"feature": torch.ones(1, 4)}, 3)
    data = b"".join(file.read_bytes() for file in (tmp_path / "save").iterdir())
    assert [name for name, part in pattern.items() if part not in data] == []
    assert [name for name, part in pattern.items() if not traces(store, part)] == []
    assert store.forget(label=secret) > 0
    store.save(tmp_path / "save")
    for name, part in pattern.items():
        assert not traces(store, part), name
        for file in tmp_path.rglob("*"):
            assert file.is_dir() or part not in file.read_bytes(), (name, file)


# -- other sizes, other policies ----------------------------------------------------------------------------------


def test_growing_keeps_everything() -> None:
    store = filled(20)
    before = store.rows()
    store.resize(100)
    assert torch.equal(store.rows().ids, before.ids)
    assert torch.equal(store.rows()["feature"], before["feature"])
    assert store.capacity == 100


@any_policy
@pytest.mark.parametrize("other", POLICIES, ids=repr)
def test_another_policy_ranks_the_rows_held(keep: Any, other: Any) -> None:
    store = filled(30, keep=keep)
    held = store.rows()
    store.resize(10, keep=other)
    rows = store.rows()
    assert store.keep == other
    assert len(rows) == 10
    assert set(rows.ids.tolist()) <= set(held.ids.tolist())
    assert torch.equal(rows["feature"], batch(50)["feature"][rows.ids])
    if other == TopScore("score"):
        assert sorted(rows["score"].tolist()) == held["score"].sort().values[-10:].tolist()
    if other == Fifo():
        assert sorted(rows.ids.tolist()) == held.ids.sort().values[-10:].tolist()
    store.add(batch(50, seed=3))
    assert len(store) == 10


def test_an_empty_store_takes_another_policy() -> None:
    store = Store(5)
    store.resize(6, keep=ClassBalanced(Reservoir()))
    store.add(batch(30))
    assert Counter(store.rows()["label"].tolist()).most_common()[-1][1] == 1


# -- consolidation ------------------------------------------------------------------------------------------------


def nearest_to_the_mean(features: Tensor, k: int) -> list[int]:
    """iCaRL's exemplars, as published."""
    features = features.double() / features.double().norm(dim=1, keepdim=True)
    mean, chosen = features.mean(0), []
    for i in range(k):
        total = features[chosen].sum(0)
        distance = ((mean - (features + total) / (i + 1)) ** 2).sum(1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
    return chosen


def test_consolidate_herds_each_class_and_cuts_to_prefixes() -> None:
    store, given = filled(60, 60), batch(60)
    store.consolidate(ClassBalanced(Herding()), 24)
    for k in (24, 16, 8):
        store.consolidate(ClassBalanced(Herding()), k)
        rows = store.rows()
        assert len(rows) == k
        for label in range(4):
            own = (given["label"] == label).nonzero().flatten()
            best = own[nearest_to_the_mean(given["feature"][own], k // 4)].tolist()
            ranks = store.draw(k, TopScore("rank"))
            held = [i for i in reversed(ranks.ids.tolist()) if given["label"][i] == label]
            assert held == best
        # features are not looked at again
        store.update(store.rows(), feature=torch.randn(k, 3, generator=torch.Generator().manual_seed(k)))


@any_policy
def test_consolidate_with_candidates(keep: Any) -> None:
    store, candidates = filled(20, keep=keep), batch(30, seed=9)
    held = store.rows()
    slots = store.consolidate(KCenter(), 12, candidates)
    rows = store.rows()
    assert len(rows) == 12
    assert store.seen == 80
    pool = torch.cat([held["feature"], candidates["feature"]])
    chosen = KCenter().select({"feature": pool}, 12, generator=torch.Generator())
    ids = torch.cat([held.ids, torch.arange(50, 80)])
    assert sorted(rows.ids.tolist()) == sorted(ids[chosen].tolist())
    everything = torch.cat([batch(50)["feature"], candidates["feature"]])
    assert torch.equal(rows["feature"], everything[rows.ids])
    for i, slot in enumerate(slots.tolist()):
        assert (rows.ids[slot] == 50 + i) if slot >= 0 else (50 + i not in rows.ids)
    # what comes later is admitted as ever
    for seed in range(5):
        more = batch(40, seed=20 + seed)
        slots = store.add(more)
        rows = store.rows()
        assert len(rows) == len(rows.ids.unique()) == 20
        won = slots >= 0
        assert torch.equal(rows["feature"][slots[won]], more["feature"][won])


def test_top_score_goes_on_after_consolidation_with_candidates() -> None:
    store = Store(10, keep=TopScore("score"))
    store.add({"score": torch.arange(100.0, 110), "feature": torch.randn(10, 2)})
    store.add({"score": torch.tensor([1.0]), "feature": torch.zeros(1, 2)})
    store.consolidate(TopScore("score"), 10, {"score": torch.arange(200.0, 205), "feature": torch.zeros(5, 2)})
    assert sorted(store.rows()["score"].tolist()) == [*range(105, 110), *range(200, 205)]
    store.add({"score": torch.tensor([106.5, 300.0]), "feature": torch.zeros(2, 2)})
    assert sorted(store.rows()["score"].tolist()) == [106.5, 107, 108, 109, 200, 201, 202, 203, 204, 300]


def test_consolidate_starts_a_store() -> None:
    store = Store(10)
    slots = store.consolidate(Herding(), 4, batch(30))
    assert len(store) == 4
    assert (slots >= 0).sum() == 4


# -- refreshing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 20, 256])
def test_refresh_recomputes_a_column(size: int) -> None:
    store = filled(columns={"feature": Half()})
    calls = []

    def encoder(x: Tensor) -> Tensor:
        calls.append(len(x))
        assert not torch.is_grad_enabled()
        return torch.cat([x, x * 2], dim=1)

    before = store.rows()
    store.refresh(encoder, read="feature", write="feature", batch_size=size)
    assert max(calls) <= size
    assert sum(calls) == 20
    rows = store.rows()
    assert torch.equal(rows["feature"], torch.cat([before["feature"], before["feature"] * 2], dim=1).half().float())
    assert torch.equal(rows.ids, before.ids)
    store.add({**batch(5), "feature": torch.zeros(5, 6)})
    with pytest.raises(ValueError, match=r"\(3,\).*\(6,\)"):
        store.add(batch(5))


def test_refreshed_features_are_found(tmp_path: Path) -> None:
    store = filled(path=tmp_path)
    query = {"feature": torch.tensor([[1.0, 0.0, 0.0]])}
    for _ in range(10):
        store.search(query, 1)
    store.refresh(lambda x: torch.nn.functional.one_hot(torch.arange(len(x)) % 3, 3).float(), "feature", "feature")
    scores, slots = store.search(query, 7)
    assert slots[0].sort().values.tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert scores.tolist() == [[1.0] * 7]


def test_an_encoder_that_fails_changes_nothing(unchanged: Callable) -> None:
    store = filled()
    calls = iter([torch.zeros(8, 5)])

    def fails_later(x: Tensor) -> Tensor:
        return next(calls)

    with unchanged(store):
        with pytest.raises(StopIteration):
            store.refresh(fails_later, "feature", "feature", batch_size=8)
        with pytest.raises(ValueError, match="encoder gave 3 rows; expected 8"):
            store.refresh(lambda x: x[:3], "feature", "feature", batch_size=8)
        with pytest.raises(ValueError, match="'feature' holds numbers that are NaN"):
            store.refresh(lambda x: x * torch.inf, "feature", "feature")
        with pytest.raises(ValueError, match="no column 'input'"):
            store.refresh(lambda x: x)
        with pytest.raises(ValueError, match="batch_size is 0"):
            store.refresh(lambda x: x, "feature", "feature", batch_size=0)


def test_refreshed_labels_move_rows_to_their_classes() -> None:
    store = filled(keep=ClassBalanced(Reservoir()))
    store.refresh(lambda x: torch.zeros(len(x), dtype=torch.int64), read="feature", write="label")
    store.add({**batch(1), "label": torch.tensor([7])})
    assert store.summary()["classes"] == {0: 19, 7: 1}


# -- search and summary -------------------------------------------------------------------------------------------


def test_search_sees_every_change() -> None:
    store = Store(200, keep=Fifo(), columns={"feature": Quantized()})
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 4, generator=generator)
    changes = [
        lambda: store.add({"feature": torch.randn(20, 4, generator=generator)}),
        lambda: store.remove(store.draw(3)),
        lambda: store.update(store.draw(20), feature=torch.randn(20, 4, generator=generator)),
        lambda: store.resize(store.capacity - 3),
        lambda: store.consolidate(Herding(), len(store) - 2),
        lambda: store.refresh(lambda x: x.roll(1, 0), "feature", "feature"),
    ]
    store.add({"feature": torch.randn(90, 4, generator=generator)})
    for change in changes * 3:
        change()
        for _ in range(9):  # often enough for whatever is worth remembering
            scores, slots = store.search({"feature": query}, 5)
        features = torch.nn.functional.normalize(store.rows()["feature"], dim=1)
        expected = torch.nn.functional.normalize(query, dim=1) @ features.t()
        assert scores.shape == slots.shape == (3, 5)
        assert torch.allclose(scores, expected.topk(5).values, atol=1e-5)
        assert torch.allclose(expected.gather(1, slots), scores, atol=1e-5)


def test_search_gives_all_it_has() -> None:
    store = filled(20, 4)
    scores, slots = store.search({"feature": torch.ones(2, 3)}, 10)
    assert scores.shape == slots.shape == (2, 4)
    assert slots.sort().values.tolist() == [[0, 1, 2, 3]] * 2


def test_rows_by_id_come_in_the_order_asked_for() -> None:
    store = filled(50)
    assert store.rows([4, 9, 4]).ids.tolist() == [4, 9, 4]
    assert torch.equal(store.rows(torch.tensor([9, 4]))["feature"], batch(50)["feature"][[9, 4]])
    with pytest.raises(KeyError, match="1 of the 2 rows"):
        store.rows([4, 50])


@any_policy
def test_summary_is_json(keep: Any) -> None:
    store = Store(20, keep=keep, fingerprint="resnet20:1234")
    assert store.summary()["rows"] == 0
    store.add(batch(50))
    store.forget(label=3)
    summary = json.loads(json.dumps(store.summary()))
    assert summary["rows"] == len(store) == sum(summary["classes"].values())
    assert summary["bytes"] == store.nbytes
    assert (summary["seen"], summary["forgotten"], summary["fingerprint"]) == (50, 1, "resnet20:1234")
    assert summary["keep"] == repr(keep)
    assert summary["columns"]["feature"] == {"kind": "Plain()", "dtype": "float32", "shape": [3]}


# -- policies of one's own ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Newest:
    """A greedy policy: keeps what came last, and says so."""

    needs: tuple[str, ...] = ("id",)

    def select(self, pool: Any, k: int, *, query: Any = None, generator: torch.Generator) -> Tensor:
        return pool["id"].argsort(descending=True)[:k]


@dataclass(frozen=True)
class Noisy:
    """A keyed policy with random numbers of its own."""

    def key(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        return torch.randn(len(batch["id"]), generator=generator).double()


def test_a_greedy_policy_of_ones_own() -> None:
    store = Store(5, keep=Newest())
    for start in range(0, 30, 3):
        slots = store.add({"row": torch.arange(start, start + 3)})
        assert sorted(store.rows()["row"].tolist()) == list(range(max(0, start - 2), start + 3))
        assert store.rows()["row"][slots].tolist() == [start, start + 1, start + 2]


def test_a_keyed_policy_of_ones_own(tmp_path: Path) -> None:
    store = Store(5, keep=Noisy())
    keys = torch.cat(
        [torch.randn(3, generator=generator) for generator in [torch.Generator().manual_seed(0)] for _ in range(10)]
    )
    for start in range(0, 30, 3):
        store.add({"row": torch.arange(start, start + 3)})
    assert sorted(store.rows()["row"].tolist()) == sorted(keys.topk(5).indices.tolist())
    store.save(tmp_path)
    with pytest.raises(ValueError, match="pass keep="):
        Store.load(tmp_path)
    assert torch.equal(Store.load(tmp_path, keep=Noisy()).rows()["row"], store.rows()["row"])


@pytest.mark.parametrize("chosen", [[0, 0], [-1], [99], list(range(6))])
def test_a_policy_that_chooses_nonsense_is_stopped(chosen: list[int], unchanged: Callable) -> None:
    class Broken:
        needs = ()

        def select(self, pool: Any, k: int, *, query: Any = None, generator: torch.Generator) -> Tensor:
            torch.rand(5, generator=generator)
            return torch.tensor(chosen)

    store = Store(5, keep=Broken())
    store.add({"row": torch.arange(5)})
    with unchanged(store), pytest.raises(ValueError, match="expected at most 5 distinct rows"):
        store.add({"row": torch.arange(3)})


def test_a_greedy_policy_sees_columns_that_widen() -> None:
    @dataclass(frozen=True)
    class MostLogits:
        needs: tuple[str, ...] = ("logits", "token")

        def select(self, pool: Any, k: int, *, query: Any = None, generator: torch.Generator) -> Tensor:
            assert torch.equal(pool["logits"].isnan(), pool.take(torch.arange(pool.size))["logits"].isnan())
            return pool["logits"].nan_to_num(0).sum(1).argsort(descending=True, stable=True)[:k]

    store = Store(3, keep=MostLogits(), columns={"logits": Growable()})
    for width in (2, 5, 1, 3):
        store.add({"logits": torch.full((4, width), 1.0), "token": torch.full((4, 3), width)})
    assert store.rows()["token"].tolist() == [[5] * 3] * 3


def test_merging_columns_that_widened() -> None:
    one, other = (Store(10, keep=Fifo(), columns={"logits": Growable()}) for _ in range(2))
    one.add({"logits": torch.ones(1, 2)})
    other.add({"logits": torch.ones(1, 3) * 2})
    other.add({"logits": torch.ones(1, 5) * 3})
    one.merge(other)
    expected = [[1.0, 1, 0, 0, 0], [2, 2, 2, 0, 0], [3, 3, 3, 3, 3]]
    assert one.rows([0, 1, 2])["logits"].nan_to_num(0).tolist() == expected


def test_rows_say_what_they_are() -> None:
    assert repr(filled().draw(3)) == "Rows(3; feature: 3 float32, label: scalar int64, score: scalar float32)"
    assert isinstance(filled().draw(3), Rows)
    assert repr(filled()).startswith("Store(20 of 20 rows, keep=Reservoir()")


@pytest.mark.parametrize("keep", [Reservoir(), ClassBalanced(Reservoir()), Fifo()])
def test_a_copy_goes_on_as_the_original_does(keep: Selector) -> None:
    def batch(seed: int) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        return {"feature": torch.randn(16, 4, generator=generator), "label": torch.arange(16) % 3}

    store = Store(12, keep=keep, seed=0)
    for seed in range(20):
        store.add(batch(seed))
        twin = copy.deepcopy(store)
        assert torch.equal(store.add(batch(100 + seed)), twin.add(batch(100 + seed)))
        assert torch.equal(store.rows()["feature"], twin.rows()["feature"])
        before = twin.rows()["feature"].clone()  # what one does later is not seen by the other
        store.update(store.rows().ids[:1], feature=torch.full((1, 4), 7.0))
        assert torch.equal(twin.rows()["feature"], before)


def test_a_store_is_not_pickled() -> None:
    store = Store(4)
    store.add({"feature": torch.zeros(2, 3)})
    for copied in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="cannot be pickled or copied; expected save"):
            copied(store)
