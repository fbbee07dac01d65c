"""Resume: a store that was saved and loaded goes on like one that never stopped, bit for bit."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memreplay.core.batch import jagged
from memreplay.core.selection import ClassBalanced, TopScore
from memreplay.core.stores import BFloat16, Growable, Half, Quantized, Ragged, Store
from memreplay.core.stores.keeping import Fifo, GradientDiversity, Herding, KCenter, Reservoir, WeightedReservoir

KINDS = {
    "half": Half(),
    "coarse": BFloat16(),
    "quantized": Quantized(),
    "logits": Growable(),
    "token": Ragged(),
}

POLICIES = {
    "reservoir": Reservoir(),
    "weighted": WeightedReservoir("score"),
    "fifo": Fifo(),
    "top": TopScore("score"),
    "herding": Herding(),
    "k-center": KCenter(),
    "balanced reservoir": ClassBalanced(Reservoir()),
    "balanced weighted": ClassBalanced(WeightedReservoir("score")),
    "balanced fifo": ClassBalanced(Fifo()),
    "balanced top": ClassBalanced(TopScore("score")),
    "balanced herding": ClassBalanced(Herding()),
}

OPERATIONS = ["add"] * 8 + ["draw", "draw by class", "update", "remove", "forget", "resize", "consolidate", "refresh"]


def rows(n: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    x = torch.randn(n, width, generator=generator)
    return {
        "feature": torch.randn(n, 3, generator=generator),
        "label": torch.randint(6, (n,), generator=generator),
        "score": torch.rand(n, generator=generator),
        "half": torch.randn(n, 2, generator=generator),
        "coarse": torch.randn(n, generator=generator),
        "quantized": torch.randn(n, 4, generator=generator),
        "logits": x,
        "token": jagged([[i] * (i % 4) for i in range(n)]),
    }


def step(store: Store, number: int) -> list[list[int]]:
    """One operation, the same for the same number; returns what it gave."""
    choice, generator = random.Random(number), torch.Generator().manual_seed(number)
    operation = choice.choice(OPERATIONS) if number > 2 else "add"
    n = choice.choice([1, 2, 5, 30, 200])
    if operation == "add":
        return [store.add(rows(n, 1 + number // 15, generator)).tolist()]
    if operation == "draw":
        return [store.draw(n).ids.tolist(), store.draw(3, TopScore("score")).ids.tolist()]
    if operation == "draw by class":
        return [store.draw(n, ClassBalanced(TopScore("score"))).ids.tolist()]
    if operation == "update":
        drawn = store.draw(n)
        new = rows(max(1, len(drawn)), 2, generator)
        return [[store.update(drawn, **{name: new[name] for name in ("label", "half", "token")})]] if len(drawn) else []
    if operation == "remove":
        return [[store.remove(store.draw(choice.choice([1, 7])))]]
    if operation == "forget":
        return [[store.forget(label=choice.sample(range(7), 2))]]
    if operation == "resize":
        store.resize(choice.choice([5, 40, 41]))
        return []
    if operation == "consolidate":
        k = choice.randint(1, store.capacity)
        candidates = rows(9, 2, generator) if choice.random() < 0.5 else None
        return [store.consolidate(ClassBalanced(Herding()), k, candidates).tolist()]
    store.refresh(lambda x: x + 1, read="feature", write="feature")
    return []


def new_store(name: str, path: Path | None = None) -> Store:
    return Store(40, keep=POLICIES[name], columns=KINDS, path=path, seed=7)


@pytest.mark.parametrize(
    ("name", "mapped"),
    [*((name, False) for name in POLICIES), ("reservoir", True), ("herding", True), ("balanced top", True)],
)
def test_resume_after_every_step(name: str, mapped: bool, tmp_path: Path, assert_same: Callable) -> None:
    whole, stopped = new_store(name), new_store(name, tmp_path / "0" if mapped else None)
    steps = 60 if not mapped else 20
    for number in range(steps):
        given, expected = step(stopped, number), step(whole, number)
        assert given == expected, number
        if number % 6 == 0:
            stopped.save(tmp_path / "save")
            stopped = Store.load(tmp_path / "save", path=tmp_path / str(number) if mapped else None)
        else:
            other = Store(
                stopped.capacity, keep=POLICIES[name], columns=KINDS, path=tmp_path / str(number) if mapped else None
            )
            other.load_state_dict(stopped.state_dict())
            stopped = other
        assert_same(stopped.state_dict(), whole.state_dict())
        assert stopped.nbytes == whole.nbytes
    for kept, again in zip(whole.rows().values(), stopped.rows().values(), strict=True):
        assert torch.equal(*(part.values() if part.is_nested else part.nan_to_num(7) for part in (kept, again)))


def test_resume_in_a_new_process(tmp_path: Path, assert_same: Callable) -> None:
    stops, end = (13, 37), 60
    for stop in stops:
        for name in POLICIES:
            store = new_store(name)
            for number in range(stop):
                step(store, number)
            store.save(tmp_path / str(stop) / name)
    subprocess.run([sys.executable, __file__, str(tmp_path), str(end)], check=True)
    for name in POLICIES:
        whole = new_store(name)
        for number in range(end):
            step(whole, number)
        for stop in stops:
            assert_same(Store.load(tmp_path / str(stop) / name).state_dict(), whole.state_dict())


def test_a_state_can_be_gone_back_to(assert_same: Callable) -> None:
    for name in ("reservoir", "herding", "balanced weighted", "balanced top"):
        store = new_store(name)
        states, given = [store.state_dict()], []
        for number in range(30):
            given.append(step(store, number))
            states.append(store.state_dict())
        for start in (20, 3, 0):
            if states[start]["meta"]["capacity"] != store.capacity:
                store.resize(states[start]["meta"]["capacity"])
            store.load_state_dict(states[start])
            assert [step(store, number) for number in range(start, 30)] == given[start:]
            assert_same(store.state_dict(), states[30])


def test_states_do_not_share_memory(assert_same: Callable) -> None:
    store = new_store("balanced reservoir")
    for number in range(20):
        step(store, number)
    state, again = store.state_dict(), store.state_dict()
    twin = new_store("balanced reservoir")
    twin.resize(store.capacity)
    twin.load_state_dict(state)
    for tensor in state["tensors"].values():
        if tensor.dtype != torch.bool:
            tensor.zero_()
    state["meta"]["audit"].append("more")
    assert_same(store.state_dict(), again)
    assert_same(twin.state_dict(), again)


def test_streams_that_were_forgotten_do_not_change_their_order(tmp_path: Path, assert_same: Callable) -> None:
    """Which of several classes of the same size gives way first must not depend on a save in between."""
    store = Store(6, keep=ClassBalanced(TopScore("score")))

    def offer(*labels: int) -> dict[str, Tensor]:
        return {"label": torch.tensor(labels), "score": torch.arange(float(len(labels)))}

    store.add(offer(5, 5, 6, 6, 9, 9))
    store.forget(label=5)
    store.add(offer(1, 1))
    store.save(tmp_path)
    loaded = Store.load(tmp_path)
    for label in (7, 8, 3):
        for one in (store, loaded):
            one.add(offer(label))
        assert_same(loaded.state_dict(), store.state_dict())


@pytest.mark.parametrize("inner", ["reservoir", "weighted"])
def test_random_numbers_drawn_beside_the_blocks_are_resumed(inner: str, assert_same: Callable) -> None:
    """Keys are drawn in blocks, the remainders of equal shares one by one, both from the same generator."""
    store = Store(2000, keep=POLICIES[inner])
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        store.add(
            {"label": torch.randint(7, (900,), generator=generator), "score": torch.rand(900, generator=generator)}
        )
        store.consolidate(ClassBalanced(TopScore("score")), 1000 + seed)
        other = Store(2000, keep=POLICIES[inner])
        other.load_state_dict(store.state_dict())
        assert_same(other.state_dict(), store.state_dict())
        if seed % 2:
            store = other
        else:  # both go on
            for one in (store, other):
                one.consolidate(ClassBalanced(TopScore("score")), 900)
                one.add(
                    {
                        "label": torch.zeros(3000, dtype=torch.int64),
                        "score": torch.rand(3000, generator=torch.Generator().manual_seed(9)),
                    }
                )
            assert_same(other.state_dict(), store.state_dict())


@dataclass(frozen=True)
class Noisy:
    """A keyed policy with random numbers of its own."""

    def key(self, batch: Any, generator: torch.Generator) -> Tensor:
        return torch.randn(len(batch["id"]), generator=generator).double()


@pytest.mark.parametrize("keep", [Noisy(), ClassBalanced(Noisy()), GradientDiversity(lambda rows: rows["feature"])])
def test_policies_that_are_not_rebuilt_by_name(keep: Any, tmp_path: Path, assert_same: Callable) -> None:
    store = Store(20, keep=keep)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        store.add(
            {"feature": torch.randn(15, 3, generator=generator), "label": torch.randint(3, (15,), generator=generator)}
        )
        store.save(tmp_path)
        loaded = Store.load(tmp_path, keep=keep)
        more = {
            "feature": torch.randn(30, 3, generator=generator),
            "label": torch.randint(3, (30,), generator=generator),
        }
        assert torch.equal(store.add(more), loaded.add(more))
        assert_same(loaded.state_dict(), store.state_dict())


def test_a_budget_is_resumed(tmp_path: Path, assert_same: Callable) -> None:
    store = Store(budget=2000, columns={"logits": Growable()})
    store.save(tmp_path)
    empty = Store.load(tmp_path)
    for width in (2, 2, 9):
        store.add({"logits": torch.ones(50, width)})
        empty.add({"logits": torch.ones(50, width)})
        assert_same(store.state_dict(), empty.state_dict())
        store.save(tmp_path)
        loaded = Store.load(tmp_path)
        assert_same(store.state_dict(), loaded.state_dict())
        loaded.add({"logits": torch.ones(50, 20)})
        assert loaded.nbytes <= 2000


if __name__ == "__main__":
    folder, end = Path(sys.argv[1]), int(sys.argv[2])
    for part in folder.iterdir():
        for save in part.iterdir():
            resumed = Store.load(save)
            for number in range(int(part.name), end):
                step(resumed, number)
            resumed.save(save)
