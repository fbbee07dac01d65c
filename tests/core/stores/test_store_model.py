"""Store against a slow and obvious model, driven by hypothesis: every policy, column kind and medium."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from memreplay.core.batch import jagged
from memreplay.core.retrievers import Nearest
from memreplay.core.selection import ClassBalanced, Keyed, Selector, TopScore, Uniform
from memreplay.core.stores import BFloat16, Growable, Half, Quantized, Ragged, Rows, Store
from memreplay.core.stores.keeping import Fifo, GradientDiversity, Herding, KCenter, Reservoir, WeightedReservoir

POLICIES: list[Selector] = [
    TopScore("score"),
    Fifo(),
    ClassBalanced(TopScore("score")),
    ClassBalanced(Fifo()),
    Reservoir(),
    WeightedReservoir("score"),
    ClassBalanced(Reservoir()),
    ClassBalanced(WeightedReservoir("score")),
    Herding(),
    KCenter(),
    GradientDiversity(lambda rows: rows["feature"]),
    ClassBalanced(Herding()),
    ClassBalanced(KCenter()),
]

SCHEMAS: list[dict[str, Any]] = [
    {},
    {"feature": Half(), "extra": BFloat16()},
    {"feature": Quantized()},
    {"extra": Growable()},
    {"feature": BFloat16(), "extra": Growable(width=3)},
    {"feature": Half(), "extra": Ragged()},
]


class Competition:
    """Who stays, row by row and by the book: a policy whose keys are known, with or without classes."""

    def __init__(self, keep: Selector, capacity: int) -> None:
        self.grouped = isinstance(keep, ClassBalanced)
        self.by_score = isinstance(inner(keep), TopScore)
        self.known = isinstance(inner(keep), (TopScore, Fifo))
        self.capacity = capacity
        self.keys: dict[int, float] = {}
        self.classes: dict[int, int] = {}
        self.lost: dict[int, float] = {}  # of each class, in which they appeared: the highest key that was lost

    def enlist(self, i: int, score: float, label: int) -> None:
        """Row ``i`` is held, without competition."""
        self.keys[i] = score if self.by_score else float(i)
        self.classes[i] = label if self.grouped else 0

    def offer(self, i: int, score: float, label: int) -> None:
        key, own = score if self.by_score else float(i), label if self.grouped else 0
        self.lost.setdefault(own, -torch.inf)
        if key <= self.lost[own]:
            return
        if len(self.keys) == self.capacity:
            largest = self.largest()
            gives = own if self.size(own) >= max(1, self.size(largest) - 1) else largest
            worst = self.worst(gives)
            if gives == own and key <= self.keys[worst]:
                self.lost[own] = key
                return
            self.lose(worst)
        self.enlist(i, score, label)

    def size(self, label: int) -> int:
        return sum(other == label for other in self.classes.values())

    def largest(self) -> int:
        return max(self.lost, key=self.size)  # the first of several

    def worst(self, label: int) -> int:
        return min((i for i in self.keys if self.classes[i] == label), key=lambda i: (self.keys[i], -i))

    def lose(self, i: int) -> None:
        label = self.classes[i]
        self.lost[label] = max(self.lost[label], self.keys[i])
        self.remove(i)

    def remove(self, i: int) -> None:
        del self.keys[i], self.classes[i]

    def take_stock(self) -> None:
        for label in sorted(set(self.classes.values()) - self.lost.keys()):
            self.lost[label] = -torch.inf

    def shrink(self, capacity: int) -> None:
        self.capacity = capacity
        while len(self.keys) > capacity:
            self.lose(self.worst(self.largest()))

    def join(self, other: Competition, first: int) -> None:
        """All rows of another competition, whose row 0 is row ``first`` here, as if they had come here."""
        for i, key in other.keys.items():
            self.enlist(first + i, key, other.classes[i])
        self.take_stock()
        later = 0.0 if self.by_score else float(first)
        for label, lost in other.lost.items():
            self.lost[label] = max(self.lost.get(label, -torch.inf), lost + later)
        for i in [i for i, key in self.keys.items() if key < self.lost[self.classes[i]]]:
            self.remove(i)
        self.shrink(self.capacity)


def inner(keep: Selector) -> Selector:
    """The policy within the classes."""
    return keep.inner if isinstance(keep, ClassBalanced) else keep


class StoreMachine(RuleBasedStateMachine):
    """The model: every row held, by id, as it was given; and, where keys are known, who must be held."""

    @initialize(
        capacity=st.sampled_from([1, 3, 6, 10, 20]),
        keep=st.sampled_from(POLICIES),
        kinds=st.sampled_from(SCHEMAS),
        mapped=st.booleans(),
        seed=st.integers(0, 1000),
        n=st.sampled_from([1, 4, 30]),
    )
    def start(self, capacity: int, keep: Selector, kinds: dict[str, Any], mapped: bool, seed: int, n: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.media, self.mapped, self.kinds = 0, mapped, kinds
        self.store = Store(capacity, keep=keep, columns=kinds, path=self.medium(), seed=seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.rows: dict[int, dict[str, Tensor]] = {}
        self.seen = self.skipped = self.forgotten = 0
        self.competition = Competition(keep, capacity)
        self.pristine = True  # nothing was removed: a store with room takes every row
        self.offer(n, [0, 0, 1, 2], 2)

    def teardown(self) -> None:
        self.folder.cleanup()

    def medium(self) -> Path | None:
        self.media += 1
        return Path(self.folder.name) / f"medium-{self.media}" if self.mapped else None

    def batch(self, n: int, labels: list[int], width: int) -> dict[str, Tensor]:
        g = self.generator
        extra: Tensor = torch.randn(n, generator=g)
        if isinstance(self.kinds.get("extra"), Growable):
            extra = torch.randn(n, width, generator=g)
        elif isinstance(self.kinds.get("extra"), Ragged):
            extra = jagged([torch.randn((i * width) % 4, 2, generator=g) for i in range(n)])
        return {
            "feature": torch.randn(n, 3, generator=g),
            "label": torch.tensor([labels[i % len(labels)] for i in range(n)]),
            "score": torch.randint(1, 40, (n,), generator=g).float(),  # with ties
            "extra": extra,
        }

    def note(self, batch: dict[str, Tensor], first: int, index: list[int]) -> None:
        parts = {name: values.unbind() for name, values in batch.items()}
        for row in index:
            self.rows[first + row] = {name: values[row] for name, values in parts.items()}

    def follow(self, rows: Rows) -> None:
        """Where chance or a greedy rule decides, the model believes the store who is held."""
        self.rows = {i: self.rows[i] for i in rows.ids.tolist()}

    sizes = st.sampled_from([0, 1, 1, 2, 3, 5, 8, 13, 40])
    some_labels = st.lists(st.integers(0, 5), min_size=1, max_size=4)

    # each run leaves out some rules; rows must come in all of them

    @rule(n=sizes, labels=some_labels, width=st.integers(1, 4))
    def add(self, n: int, labels: list[int], width: int) -> None:
        self.offer(n, labels, width)

    @rule(labels=some_labels)
    def add_many(self, labels: list[int]) -> None:
        self.offer(40, labels, 3)

    @rule(n=st.integers(1, 8), labels=some_labels)
    def add_one_by_one(self, n: int, labels: list[int]) -> None:
        for i in range(n):
            self.offer(1, [labels[i % len(labels)]], 2)

    def offer(self, n: int, labels: list[int], width: int) -> None:
        batch = self.batch(max(n, 1), labels, width)
        if not n:
            batch["extra"] = torch.zeros(0, 1, 2) if isinstance(self.kinds.get("extra"), Ragged) else batch["extra"][:0]
            batch = {name: values[:0] if name != "extra" else values for name, values in batch.items()}
        before, first = set(self.rows), self.seen
        slots = self.store.add(batch).tolist()
        self.seen += n
        held = self.store.rows().ids.tolist()
        assert len(slots) == n
        for row, slot in enumerate(slots):
            assert held[slot] == first + row if slot >= 0 else first + row not in held
        assert set(held) <= before | set(range(first, first + n))
        if len(before) + n <= self.store.capacity and self.pristine:
            assert len(held) == len(before) + n
        if n:
            self.note(batch, first, list(range(n)))
            if self.competition.known:
                for row in range(n):
                    self.competition.offer(first + row, batch["score"][row].item(), int(batch["label"][row]))
                assert set(held) == set(self.competition.keys)
            self.follow(self.store.rows())

    @rule(capacity=st.sampled_from([1, 4, 12]), n=st.sampled_from([1, 3, 12, 40]), labels=some_labels)
    def merge(self, capacity: int, n: int, labels: list[int]) -> None:
        seed = int(torch.randint(10**9, (), generator=self.generator))
        other = Store(capacity, keep=self.store.keep, columns=self.kinds, seed=seed)
        batch, first = self.batch(n, labels, 2), self.seen
        other.add(batch)
        if not isinstance(inner(self.store.keep), Keyed):
            with pytest.raises(TypeError, match="only stores whose rows have keys"):
                self.store.merge(other)
            return
        theirs = other.rows().ids.tolist()
        self.store.merge(other)
        self.seen += n
        self.note(batch, first, list(range(n)))
        held = self.store.rows().ids.tolist()
        assert set(held) <= self.rows.keys() - {first + row for row in range(n) if row not in theirs}
        if self.competition.known:
            competition = Competition(self.store.keep, capacity)
            for row in range(n):
                competition.offer(row, batch["score"][row].item(), int(batch["label"][row]))
            self.competition.join(competition, first)
            assert set(held) == set(self.competition.keys)
        elif self.pristine and n <= capacity:
            assert len(held) == min(self.store.capacity, len(self.rows))
        self.pristine &= n <= capacity and len(held) == len(self.rows)
        self.follow(self.store.rows())

    @rule(n=st.integers(0, 25), by=st.sampled_from([Uniform(), TopScore("score"), ClassBalanced(Uniform())]))
    def draw(self, n: int, by: Selector) -> None:
        rows = self.store.draw(n, by)
        assert len(rows) == min(n, len(self.rows)) == len(set(rows.ids.tolist()))
        assert self.store.rows().ids[rows.slots].tolist() == rows.ids.tolist()
        self.compare(rows)
        if isinstance(by, TopScore):
            best = sorted((row["score"].item() for row in self.rows.values()), reverse=True)[:n]
            assert rows["score"].tolist() == best

    @rule(n=st.integers(1, 25), metric=st.sampled_from(["dot", "euclidean"]))
    @precondition(lambda self: self.rows)
    def draw_nearest(self, n: int, metric: Any) -> None:
        query = torch.randn(3, 3, generator=self.generator)
        rows = self.store.draw(n, Nearest("feature", metric), query={"feature": query})
        features = self.store.rows()["feature"]
        similarity = -torch.cdist(query, features) if metric == "euclidean" else query @ features.t()
        best = similarity.amax(0)
        assert rows.scores is not None
        assert torch.allclose(rows.scores, best.sort(descending=True).values[:n], atol=1e-4)
        assert torch.allclose(rows.scores, best[rows.slots], atol=1e-4)
        self.compare(rows)

    @rule(n=st.integers(1, 8), more=st.integers(0, 40), labels=some_labels, away=st.booleans())
    def return_to_rows(self, n: int, more: int, labels: list[int], away: bool) -> None:
        """Rows as drawn, of which some are evicted, moved or removed before they are addressed."""
        drawn = self.store.draw(n)
        if more:
            self.offer(more, labels, 2)
        ids = drawn.ids.tolist()
        alive = [row for row, i in enumerate(ids) if i in self.rows]
        self.skipped += len(ids) - len(alive)
        if away:
            assert self.store.remove(drawn) == len(alive)
            self.drop({ids[row] for row in alive})
            return
        score = torch.randint(1, 40, (len(ids),), generator=self.generator).float()
        assert self.store.update(drawn, score=score) == len(alive)
        for row in alive:
            self.rows[ids[row]]["score"] = score[row]

    @rule(k=st.integers(1, 8), metric=st.sampled_from(["cosine", "dot", "euclidean"]))
    @precondition(lambda self: self.rows)
    def search(self, k: int, metric: Any) -> None:
        query = torch.randn(2, 3, generator=self.generator)
        scores, slots = self.store.search({"feature": query}, k, Nearest("feature", metric))
        features = self.store.rows()["feature"]
        if metric == "euclidean":
            expected = -torch.cdist(query, features)
        else:
            normal = torch.nn.functional.normalize if metric == "cosine" else lambda x: x
            expected = normal(query) @ normal(features).t()
        best = expected.topk(min(k, len(features))).values
        assert scores.shape == slots.shape == best.shape
        assert torch.allclose(scores, best, atol=1e-4)
        assert torch.allclose(expected.gather(1, slots), scores, atol=1e-4)

    @rule(
        data=st.data(),
        columns=st.sets(st.sampled_from(["feature", "label", "score", "extra"])),
        width=st.integers(1, 5),
    )
    def update(self, data: st.DataObject, columns: set[str], width: int) -> None:
        ids = data.draw(st.lists(st.integers(0, self.seen + 2), unique=True, max_size=6))
        ids += [i for i in list(self.rows)[:3] if i not in ids]
        if not ids:
            return
        batch = self.batch(len(ids), [6, 7, 0], width)
        alive = [row for row, i in enumerate(ids) if i in self.rows]
        assert self.store.update(ids, **{name: batch[name] for name in sorted(columns)}) == len(alive)
        self.skipped += len(ids) - len(alive)
        for row in alive:
            for name in columns:
                self.rows[ids[row]][name] = batch[name].unbind()[row]
            if "label" in columns and self.competition.grouped and self.competition.known:
                self.competition.classes[ids[row]] = int(batch["label"][row])
        if "label" in columns:
            self.competition.take_stock()

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.integers(0, self.seen), max_size=5))
        ids += list(self.rows)[: data.draw(st.integers(0, 3))]
        alive = {i for i in ids if i in self.rows}
        assert self.store.remove(ids) == len(alive)
        self.skipped += sum(i not in alive for i in ids)
        self.drop(alive)

    @rule(labels=some_labels)
    def forget(self, labels: list[int]) -> None:
        gone = {i for i, row in self.rows.items() if int(row["label"]) in labels}
        assert self.store.forget(label=labels) == len(gone)
        self.forgotten += 1
        self.drop(gone)
        if self.competition.grouped:
            for label in labels:
                self.competition.lost.pop(label, None)

    def drop(self, gone: set[int]) -> None:
        self.pristine &= not gone
        for i in gone:
            del self.rows[i]
            if self.competition.known:
                self.competition.remove(i)

    @rule(capacity=st.integers(1, 25))
    def resize(self, capacity: int) -> None:
        self.store.resize(capacity)
        assert len(self.store) == min(capacity, len(self.rows))
        if self.competition.known:
            self.competition.shrink(capacity)
            assert set(self.store.rows().ids.tolist()) == set(self.competition.keys)
        self.competition.capacity = capacity
        self.pristine &= len(self.rows) == self.seen
        self.follow(self.store.rows())

    @rule(capacity=st.integers(1, 25), keep=st.sampled_from(POLICIES))
    def change_policy(self, capacity: int, keep: Selector) -> None:
        self.store.resize(capacity, keep=keep)
        assert self.store.keep == keep
        assert len(self.store) == min(capacity, len(self.rows))
        self.competition = Competition(keep, capacity)
        if not self.competition.grouped:
            self.competition.lost[0] = -torch.inf
        for i, row in self.rows.items():
            self.competition.enlist(i, row["score"].item(), int(row["label"]))
        self.competition.take_stock()
        if self.competition.known:
            self.competition.shrink(capacity)
            assert set(self.store.rows().ids.tolist()) == set(self.competition.keys)
        self.pristine &= len(self.rows) == self.seen
        self.follow(self.store.rows())

    @rule(
        keep=st.sampled_from(
            [Herding(), KCenter(), ClassBalanced(Herding()), TopScore("score"), ClassBalanced(Uniform())]
        ),
        k=st.integers(1, 25),
        n=st.sampled_from([0, 0, 1, 6, 20]),
        labels=some_labels,
        width=st.integers(1, 4),
    )
    def consolidate(self, keep: Any, k: int, n: int, labels: list[int], width: int) -> None:
        k = min(k, self.store.capacity)
        candidates = self.batch(n, labels, width) if n else None
        first = self.seen
        slots = self.store.consolidate(keep, k, candidates).tolist()
        self.seen += n
        rows = self.store.rows()
        assert len(rows) == min(k, len(self.rows) + n)
        assert len(slots) == n
        for row, slot in enumerate(slots):
            assert rows.ids[slot] == first + row if slot >= 0 else first + row not in rows.ids
        if n:
            assert candidates is not None
            self.note(candidates, first, list(range(n)))
        if isinstance(keep, TopScore):
            best = sorted((row["score"].item() for row in self.rows.values()), reverse=True)[:k]
            assert sorted(rows["score"].tolist(), reverse=True) == best
        if self.competition.known:
            for i, row in list(self.rows.items()):
                if i not in rows.ids:
                    self.competition.remove(i) if i < first else None
                elif i >= first:
                    self.competition.enlist(i, row["score"].item(), int(row["label"]))
            self.competition.take_stock()
        self.pristine &= len(rows) == len(self.rows)
        self.follow(rows)

    @rule(width=st.integers(1, 5), size=st.sampled_from([1, 4, 256]))
    def refresh(self, width: int, size: int) -> None:
        self.store.refresh(lambda x: -2 * x, read="feature", write="feature", batch_size=size)
        rows = self.store.rows()
        for i, feature in zip(rows.ids.tolist(), rows["feature"], strict=True):
            given = self.rows[i]["feature"]
            assert torch.allclose(feature, -2 * given, atol=0.02 * float(given.abs().max()))
            self.rows[i]["feature"] = feature

    @rule(by_file=st.booleans())
    def save_and_load(self, by_file: bool) -> None:
        state = self.store.state_dict()
        if by_file:
            folder = Path(self.folder.name) / "save"
            self.store.save(folder)
            self.store = Store.load(folder, keep=self.store.keep, path=self.medium())
        else:
            fresh = Store(self.store.capacity, keep=self.store.keep, columns=self.kinds, path=self.medium())
            fresh.load_state_dict(state)
            self.store = fresh
        again = self.store.state_dict()
        assert again["meta"] == state["meta"]
        assert all(same_bits(again["tensors"][name], tensor) for name, tensor in state["tensors"].items())

    def compare(self, rows: Rows) -> None:
        parts = {name: values.unbind() for name, values in rows.items()}
        for n, i in enumerate(rows.ids.tolist()):
            for name, given in self.rows[i].items():
                assert is_stored(self.kinds.get(name), given, parts[name][n]), (name, given, parts[name][n])

    @invariant()
    def rows_are_those_that_were_given(self) -> None:
        if not hasattr(self, "store"):
            return
        rows = self.store.rows()
        assert len(rows) == len(self.store) == len(self.rows) <= self.store.capacity
        assert rows.slots.tolist() == list(range(len(rows)))
        assert len(set(rows.ids.tolist())) == len(rows)
        assert set(rows.ids.tolist()) == set(self.rows)
        self.compare(rows)

    @invariant()
    def counters_are_right(self) -> None:
        if not hasattr(self, "store"):
            return
        assert (self.store.seen, self.store.skipped, len(self.store.audit)) == (self.seen, self.skipped, self.forgotten)
        books = 32 if self.competition.grouped and isinstance(inner(self.store.keep), Keyed) else 24
        assert self.store.nbytes == len(self.rows) * books + self.column_bytes()
        if self.rows:
            labels = [int(row["label"]) for row in self.rows.values()]
            assert self.store.summary()["classes"] == {label: labels.count(label) for label in sorted(set(labels))}

    def column_bytes(self) -> int:
        n, rows = len(self.rows), self.rows.values()
        feature = {Half: 6, BFloat16: 6, Quantized: 3 + 4}.get(type(self.kinds.get("feature")), 12)
        extra: int = 4 * n
        if isinstance(self.kinds.get("extra"), BFloat16):
            extra = 2 * n
        elif isinstance(kind := self.kinds.get("extra"), Growable):
            extra = 4 * n * (max(kind.width, self.store.rows()["extra"].shape[1]) if n else 0)
        elif isinstance(self.kinds.get("extra"), Ragged):
            extra = sum(16 + row["extra"].nbytes for row in rows)
        return n * (feature + 8 + 4) + extra


def is_stored(kind: Any, given: Tensor, got: Tensor) -> bool:
    """Whether ``got`` is what a column of ``kind`` makes of the row ``given``."""
    if isinstance(kind, Quantized):
        return bool((got - given).abs().max() <= given.abs().max() / 254 * (1 + 1e-4) + 1e-30)
    if isinstance(kind, Growable):
        return torch.equal(got[: len(given)], given) and bool(got[len(given) :].isnan().all())
    narrow = {Half: torch.float16, BFloat16: torch.bfloat16}.get(type(kind), given.dtype)
    return torch.equal(got, given.to(narrow).to(given.dtype))


def same_bits(one: Tensor, other: Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.numpy(force=True).tobytes() == other.numpy(force=True).tobytes()
        if one.dtype is not torch.bfloat16
        else torch.equal(one, other)
    )


CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}  # whatever else the machine does

TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=30, **CALM)


class LongStoreMachine(StoreMachine):
    """The same for at least 20,000 operations."""

    operations = 0

    @invariant()
    def counts(self) -> None:
        LongStoreMachine.operations += 1

    def teardown(self) -> None:
        super().teardown()
        LongStoreMachine.operations -= 1  # the start is none


@pytest.mark.slow
@pytest.mark.timeout(3600)
class TestStoreAtLength(LongStoreMachine.TestCase):
    settings = settings(max_examples=500, stateful_step_count=50, **CALM)

    def runTest(self) -> None:
        LongStoreMachine.operations = 0
        super().runTest()
        assert LongStoreMachine.operations >= 20_000
