"""Compiled loops: the same outcome as in Python, and nothing is copied that must not be."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memreplay import ClassBalanced, Fifo, Half, Plain, Reservoir, Store, TopScore
from memreplay.core import loops as module
from memreplay.core.batch import Batch
from memreplay.core.stores import admission, block, incoming, look_ahead, pool, stream, table
from memreplay.core.stores.admission import Admission
from memreplay.core.stores.keeping import gradient_diversity
from memreplay.core.stores.look_ahead import Reserve, contest

compiled = module.loops
pytestmark = pytest.mark.skipif(compiled is None, reason="memreplay was installed without a C compiler")

USERS = (admission, gradient_diversity, incoming, look_ahead, pool, stream, table)


@pytest.fixture
def in_python(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        for user in USERS:
            monkeypatch.setattr(user, "loops", None)

    return switch


def batches(sizes: list[int], seed: int = 0) -> Iterator[Batch]:
    generator = torch.Generator().manual_seed(seed)
    for n in sizes:
        yield {
            "feature": torch.randn(n, 3, 2, generator=generator),
            "half": torch.randn(n, 5, generator=generator).half(),
            "label": torch.randint(4, (n,), generator=generator),
            "flag": torch.rand(n, generator=generator) > 0.5,
        }


POLICIES = [
    Reservoir(),
    ClassBalanced(Reservoir(), "label"),
    Fifo(),
    TopScore("label"),
    ClassBalanced(Fifo(), "label"),
]
SIZES = [1, 7, 0, 30, 64, 2, 64, 200, 3, 64, 64, 1, 500, 64, 33]


@pytest.mark.parametrize("keep", POLICIES, ids=repr)
@pytest.mark.parametrize("capacity", [1, 5, 40, 200])
def test_a_store_is_the_same_in_python(keep, capacity: int, in_python: Callable[[], None]) -> None:
    def run() -> list[torch.Tensor]:
        memory = Store(capacity, keep=keep, seed=3)
        seen = []
        for i, batch in enumerate(batches(SIZES * 6)):
            seen.append(memory.add(batch))
            rows = memory.draw(1 + i % 9)
            seen += [rows.ids, rows.slots, *rows.columns.values()]
            if i == 40:
                memory.remove(memory.draw(3))
            if i == 50:
                memory.resize(capacity + 7)
        return seen + list(memory.state_dict()["tensors"].values())

    fast = run()
    in_python()
    slow = run()
    assert len(fast) == len(slow)
    assert all(torch.equal(a, b) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("kinds", [{}, {"feature": Half()}], ids=["as it comes", "half"])
@pytest.mark.parametrize("capacity", [3, 50, 400])
def test_classes_that_are_rare_or_come_late_are_the_same_in_python(
    capacity: int, kinds: dict[str, Half], in_python: Callable[[], None]
) -> None:
    """Where another class must give a row up, and where a class is forgotten and comes back."""

    def run() -> list[torch.Tensor]:
        memory, generator = Store(capacity, keep=ClassBalanced(Reservoir()), columns=kinds, seed=2), torch.Generator()
        generator.manual_seed(1)
        seen = []
        for step in range(150):
            share = torch.arange(1, 4 + step // 20, dtype=torch.float64) ** -2.0
            labels = torch.multinomial(share, 64, True, generator=generator) - 1
            seen.append(memory.add({"feature": torch.randn(64, 3, generator=generator), "label": labels}))
            if step % 50 == 40:
                memory.forget(label=step // 50)
            if step % 50 == 45:
                memory.remove(memory.draw(2))
        return [*seen, memory.rows().ids, *memory.rows().columns.values(), *memory.state_dict()["tensors"].values()]

    fast = run()
    in_python()
    assert all(torch.equal(a, b) for a, b in zip(fast, run(), strict=True))


@pytest.mark.parametrize("width", [128, 131, 1100])
@pytest.mark.parametrize("keep", [Reservoir(), ClassBalanced(Reservoir(), "label")], ids=repr)
def test_long_rows_of_a_large_store_are_the_same_in_python(keep, width: int, in_python: Callable[[], None]) -> None:
    capacity = block.CACHED // (4 * width) + 100

    def run() -> list[torch.Tensor]:
        memory, generator = Store(capacity, keep=keep, seed=1), torch.Generator().manual_seed(0)
        assert memory.add({"feature": torch.zeros(1, width), "label": torch.zeros(1, dtype=torch.int64)}).item() == 0
        seen = []
        for n in (capacity - 7, 30, 500, 500, 64, 2000):
            labels = torch.randint(3, (n,), generator=generator)
            seen.append(memory.add({"feature": torch.randn(n, width, generator=generator), "label": labels}))
        return [*seen, memory.rows().ids, *memory.rows().columns.values()]

    fast = run()
    in_python()
    assert all(torch.equal(a, b) for a, b in zip(fast, run(), strict=True))


@pytest.mark.parametrize("keep", [Reservoir(), ClassBalanced(Reservoir(), "label")], ids=repr)
def test_what_is_not_finite_is_refused_while_there_is_room(keep) -> None:
    memory, labels = Store(30, keep=keep, seed=0), torch.arange(6) % 2
    memory.add({"x": torch.ones(6, 3), "label": labels})
    for place in range(6):
        bad = torch.ones(6, 3)
        bad[place, place % 3] = math.nan
        before = memory.state_dict()["tensors"]
        with pytest.raises(ValueError, match="'x'"):
            memory.add({"x": bad, "label": labels})
        after = memory.state_dict()["tensors"]
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert memory.add({"x": torch.ones(6, 3), "label": labels}).tolist() == list(range(6, 12))


def gradient(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


@pytest.mark.parametrize(
    "odd",
    [
        gradient,
        lambda x: torch.nn.Parameter(x.clone()),
        lambda x: x.repeat_interleave(2, 1)[:, ::2],
        lambda x: x.t().contiguous().t(),
        lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
    ],
    ids=["gradient", "parameter", "strided", "transposed", "negative"],
)
def test_rows_that_lie_otherwise_are_stored_all_the_same(odd) -> None:
    plain, other = Store(4, seed=0), Store(4, seed=0)
    for i in range(30):
        x = torch.arange(12.0).reshape(6, 2) + 100 * i
        plain.add({"x": x})
        assert torch.equal(odd(x).detach(), x)
        other.add({"x": odd(x)})
    assert torch.equal(plain.rows()["x"], other.rows()["x"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("keep", [Reservoir(), ClassBalanced(Reservoir(), "label"), Fifo()], ids=repr)
def test_what_is_not_finite_is_refused_and_nothing_changes(keep, dtype: torch.dtype, value: float) -> None:
    memory = Store(8, keep=keep, seed=0)
    good = {"x": torch.linspace(-3e4, 3e4, 24).reshape(8, 3).to(dtype), "label": torch.arange(8) % 2}
    for _ in range(4):
        memory.add(good)
    for place in range(3):
        bad = {"x": good["x"].clone(), "label": good["label"]}
        bad["x"][:, place] = value
        before = memory.state_dict()
        while memory.seen < 10_000:
            before = memory.state_dict()
            try:
                memory.add(bad)  # may pass where none of the rows is wanted
            except ValueError:
                break
        after = memory.state_dict()["tensors"]
        assert memory.seen < 10_000
        assert all(torch.equal(tensor, after[name]) for name, tensor in before["tensors"].items())
        with pytest.raises(ValueError, match="'x'"):
            memory.add(bad)


def test_the_largest_numbers_are_kept() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        memory = Store(2)
        most = torch.finfo(dtype)
        x = torch.tensor([[most.max, most.min], [most.tiny, -0.0]], dtype=dtype)
        for _ in range(3):
            memory.add({"x": x})
        assert memory.rows()["x"].isfinite().all()


@pytest.mark.parametrize("columns", [{}, {"x": Half()}, {"x": Plain()}], ids=["plain", "half", "named"])
def test_a_column_that_is_converted_takes_the_other_way(columns) -> None:
    memory = Store(3, columns=columns, seed=0)
    for i in range(20):
        memory.add({"x": torch.full((4, 2), float(i))})
    rows = memory.draw(3)
    assert torch.equal(rows["x"][:, 0], torch.div(rows.ids, 4, rounding_mode="floor").float())


def test_another_dtype_shape_or_column_still_names_the_fault() -> None:
    memory = Store(2)
    for _ in range(10):
        memory.add({"x": torch.zeros(4, 2), "y": torch.zeros(4)})
    for batch in (
        {"x": torch.zeros(4, 3), "y": torch.zeros(4)},
        {"x": torch.zeros(4, 2).double(), "y": torch.zeros(4)},
        {"x": torch.zeros(4, 2), "y": torch.zeros(3)},
        {"x": torch.zeros(4, 2)},
        {"x": torch.zeros(4, 2), "y": torch.zeros(4, 1)},
        {"x": torch.zeros(4, 2).to_sparse(), "y": torch.zeros(4)},
    ):
        with pytest.raises((ValueError, TypeError), match=r"x|y"):
            memory.add(batch)
    with pytest.raises(TypeError, match="'y'"):
        memory.add({"x": torch.zeros(4, 2), "y": [0.0] * 4})
    assert memory.seen == 40


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(0, 80), st.integers(0, 2**31), st.sampled_from([0.5, 1.0, 3.0]), st.booleans())
def test_a_contest_is_the_same_in_python(size: int, n: int, seed: int, scale: float, ties: bool) -> None:
    random = np.random.default_rng(seed)
    heights = random.random(n) * scale
    held = random.random(size)
    if ties:
        heights, held = heights.round(1), held.round(1)
    rows = np.sort(random.choice(200, n, replace=False))
    reserve = Reserve.of(held, np.arange(size), n)
    found = []
    for way in (compiled, None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(look_ahead, "loops", way)
            ahead, left = contest(rows, heights, 200, reserve)
        found.append([*ahead.winners, left.heights, left.slots, np.array([ahead.lost_before(r) for r in range(201)])])
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 2).map(lambda x: round(x, 1))), min_size=1), st.floats(0, 2))
def test_the_lowest_points_of_rows_are_the_same_in_python(points: list[tuple[float, float]], bar: float) -> None:
    assert compiled is not None
    at, heights = np.array(sorted(points)).T.copy()
    found = []
    for way in (compiled.lowest_by_row, look_ahead._lowest_by_row):
        rows, lowest = np.empty(len(at), np.int64), np.empty(len(at))
        n = way(at, heights, bar, rows, lowest)
        found.append((rows[:n].tolist(), lowest[:n].tolist()))
    low: dict[int, float] = {}
    for x, height in zip(at, heights, strict=True):
        low[int(x)] = min(height, low.get(int(x), math.inf))
    expected = {row: height for row, height in low.items() if row < int(at[-1]) and height < bar}
    assert found[0] == found[1] == (list(expected), list(expected.values()))


def test_an_intake_checks_what_it_is_given() -> None:
    assert compiled is not None
    books = np.zeros(3, np.int64), np.zeros(3), np.zeros(3, np.int64)
    one = np.zeros(1, np.int64)
    with pytest.raises(IndexError, match="slots"):
        compiled.Intake((one, one + 3, np.zeros(1), one), books, 5)
    with pytest.raises(ValueError, match="same length"):
        compiled.Intake((one, np.zeros(2, np.int64), np.zeros(1), one), books, 5)
    with pytest.raises(TypeError):
        compiled.Intake((one, one, np.zeros(1, np.int32), one), books, 5)
    intake = compiled.Intake((one, one, np.zeros(1), one + 9), books, 5)
    assert intake.add({"x": torch.zeros(2)}, {}, 0.0, 7) is None
    with pytest.raises(TypeError):
        intake.add({}, {}, 0.0)
    slots = np.full(2, -1)
    for first, n in ((-1, 1), (0, 3), (0, 6)):
        with pytest.raises(ValueError, match="known"):
            intake.take(b"", first, n, 0.0, 7, slots)
    assert intake.take(b"", 1, 1, 0.0, 7, slots) == 1  # the second row of the batch is the first of the stream
    assert slots.tolist() == [-1, 0]
    assert books[0].tolist() == [7, 0, 0]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**31), st.lists(st.integers(0, 40), min_size=1, max_size=20))
def test_contenders_are_the_same_in_python(classes: int, seed: int, sizes: list[int]) -> None:
    random = np.random.default_rng(seed)
    books = Admission(12, torch.Generator().manual_seed(seed), grouped=True)
    for n in [30, 50, *sizes]:
        labels = random.integers(-2, classes - 2, n).tolist()
        fast = books.contenders(labels)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(admission, "loops", None)
            slow = books.contenders(labels)
        assert np.array_equal(fast, slow)
        books.offer(n, labels)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 20))
def test_the_rows_of_a_stream_go_in_the_same_order_in_python(heights: list[int], held: int) -> None:
    assert compiled is not None
    both = stream.Stream(7, 1), compiled.Stream(7, 1)
    column = np.array(heights[:held], np.float64)
    for one in both:
        assert (one.label, one.order, one.count, one.mass, one.threshold, one.known) == (7, 1, 0, 0.0, -math.inf, False)
        one.hold(column, np.arange(len(column)), 2 * np.arange(len(column)))
        assert one.known
    left = len(column)
    for i, height in enumerate(heights[held:]):
        for one in both:
            one.push(float(height), held + i, 90 + i)
        left += 1
        if height % 2:
            assert both[0].worst() == both[1].worst()
            left -= 1
            for one in both:
                one.pop()
    for _ in range(left):
        assert both[0].worst() == both[1].worst()
        for one in both:
            one.pop()
    with pytest.raises(IndexError):
        both[1].worst()
    for one in both:
        one.forget()
        assert not one.known


def test_a_stream_looks_at_points_that_fit() -> None:
    assert compiled is not None
    one = compiled.Stream(0, 0)
    one.look(np.array([1.5, 2.5]), np.array([0.1, 0.2]))
    assert (one.next, one.cursor, one.points.tolist(), one.heights.tolist()) == (1.5, 0, [1.5, 2.5], [0.1, 0.2])
    with pytest.raises(ValueError, match="as many heights"):
        one.look(np.array([1.5]), np.empty(0))
    with pytest.raises(ValueError, match="same length"):
        one.hold(np.empty(1), np.empty(0, np.int64), np.empty(1, np.int64))
    with pytest.raises(TypeError, match="int64"):
        one.look(np.empty(1, np.float32), np.empty(1))
    assert one.points.tolist() == [1.5, 2.5]
    one.look(np.empty(0), np.empty(0))
    assert one.next == -math.inf
    with pytest.raises(AttributeError):
        one.label = 3


def test_rows_compete_only_in_books_that_fit() -> None:
    assert compiled is not None
    labels, slots, books = np.zeros(2, np.int64), np.full(2, -1), [np.zeros(3, np.int64) for _ in range(4)]

    def compete(slots: np.ndarray, streams: dict, sizes: list, books: tuple) -> None:
        compiled.compete(labels, slots, streams, sizes, True, 9, books, lambda label, row, slots: None)

    with pytest.raises(ValueError, match="slots"):
        compete(np.full(3, -1), {}, [], tuple(books))
    with pytest.raises(ValueError, match="same length"):
        compete(slots, {}, [], (*books[:3], np.zeros(2, np.int64)))
    with pytest.raises(TypeError, match="streams"):
        compete(slots, {0: stream.Stream(0, 0)}, [], tuple(books))
    one = compiled.Stream(0, 0)
    one.count = 1
    one.look(np.array([0.5, 5.0]), np.array([0.1, 0.2]))
    one.hold(np.array([0.9]), np.array([4]), np.array([3]))  # there is no slot 3
    with pytest.raises(TypeError, match="heap"):
        compete(slots, {0: one}, [None], tuple(books))
    with pytest.raises(IndexError, match="slots of the store"):
        compete(slots, {0: one}, [(-1, 0, 0)], tuple(books))
    assert slots.tolist() == [-1, -1]


def test_every_row_is_as_likely_to_be_drawn(in_python: Callable[[], None]) -> None:
    def counts() -> np.ndarray:
        memory = Store(20, seed=1)
        memory.add({"x": torch.arange(20)})
        return np.bincount(torch.cat([memory.draw(4)["x"] for _ in range(4000)]).numpy(), minlength=20)

    fast = counts()
    assert ((fast - 800) ** 2 / 800).sum() < 43.8  # chi-square, 19 degrees of freedom, one in a thousand
    in_python()
    assert np.array_equal(fast, counts())


def test_a_module_compiled_from_another_source_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled is not None
    built = Path(str(compiled.__file__))
    source = built.with_name("_loops.c")
    for package, text in (("same", source.read_text()), ("other", source.read_text() + "\n"), ("installed", None)):
        (tmp_path / package).mkdir()
        shutil.copy(built, tmp_path / package)
        if text is not None:
            (tmp_path / package / "_loops.c").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    for package in ("same", "installed"):
        assert module.compiled(package, "_loops") is not None
    with pytest.warns(RuntimeWarning, match="not compiled from .*other/_loops.c as it is now"):
        assert module.compiled("other", "_loops") is None
    assert module.compiled("same", "_missing") is None


def test_arguments_that_do_not_fit_are_refused() -> None:
    assert compiled is not None
    ids, slots = np.arange(4), np.array([0, 4])
    with pytest.raises(IndexError, match="row 4"):
        compiled.gather(slots, ids, [], [], np.empty(2, np.int64))
    with pytest.raises(IndexError, match="row -1"):
        compiled.gather(slots - 1, ids, [], [], np.empty(2, np.int64))
    with pytest.raises(ValueError, match="room"):
        compiled.gather(slots, ids, [], [], np.empty(3, np.int64))
    with pytest.raises(TypeError, match="int64"):
        compiled.gather(slots.astype(np.int32), ids, [], [], np.empty(2, np.int64))
    with pytest.raises(TypeError, match="lists"):
        compiled.gather(slots, ids, [], (1,), np.empty(2, np.int64))
    for lanes in ([], b"1"):
        with pytest.raises(TypeError, match="lanes"):
            compiled.finite(slots, lanes)
        with pytest.raises(TypeError, match="lanes"):
            compiled.copy(slots, slots, lanes)
    for name in dir(compiled):
        if name.startswith("_") or not callable(getattr(compiled, name)):
            continue
        with pytest.raises(TypeError):
            getattr(compiled, name)()
    empty, number, none = np.zeros(1, np.int64), np.zeros(1), np.empty(0)
    nobody = none.astype(np.int64)
    with pytest.raises(ValueError, match="as many rows"):
        compiled.contest(
            *(empty, number, none, nobody, math.inf), *(empty.copy(), empty.copy(), number.copy(), none, nobody)
        )
