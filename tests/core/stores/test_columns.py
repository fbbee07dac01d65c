"""Columns: what comes back from each kind, in RAM and memory-mapped, whatever is done to the rows in between."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from memreplay.core.batch import jagged, texts
from memreplay.core.stores import BFloat16, Growable, Half, Plain, Quantized, Ragged, Store
from memreplay.core.stores.block import all_finite, surely_finite
from memreplay.core.stores.columns import ColumnKind, Storage
from memreplay.core.stores.keeping import Fifo

CPU = torch.device("cpu")


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, generator: torch.randn(n, *shape, dtype=dtype, generator=generator)


def integers(dtype: torch.dtype, *shape: int) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, generator: torch.randint(0, 100, (n, *shape), generator=generator).to(dtype)


def widths(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, int(torch.randint(1, 6, (), generator=generator)), generator=generator)


def rows_of_length(*inner: int) -> Callable[[int, torch.Generator], Tensor]:
    def make(n: int, generator: torch.Generator) -> Tensor:
        lengths = torch.randint(0, 4, (n,), generator=generator).tolist()
        return jagged([torch.randn(length, *inner, generator=generator) for length in lengths])

    return make


@dataclass(frozen=True)
class Case:
    kind: ColumnKind
    make: Callable[[int, torch.Generator], Tensor]
    bytes_per_row: int | None


CASES = {
    "float32": Case(Plain(), normal(3), 12),
    "float64 matrix": Case(Plain(), normal(2, 2, dtype=torch.float64), 32),
    "bfloat16": Case(Plain(), normal(3, dtype=torch.bfloat16), 6),
    "int64": Case(Plain(), integers(torch.int64), 8),
    "int8": Case(Plain(), integers(torch.int8, 2), 2),
    "uint16": Case(Plain(), integers(torch.uint16, 2), 4),
    "bool": Case(Plain(), integers(torch.bool), 1),
    "complex128": Case(Plain(), normal(2, dtype=torch.complex128), 32),
    "float8": Case(Plain(), lambda n, g: torch.randn(n, 2, generator=g).to(torch.float8_e4m3fn), 2),
    "no entries": Case(Plain(), normal(0), 0),
    "Half": Case(Half(), normal(3), 6),
    "Half of float64": Case(Half(), normal(2, 2, dtype=torch.float64), 8),
    "BFloat16": Case(BFloat16(), normal(3), 6),
    "Quantized": Case(Quantized(), normal(5), 5 + 4),
    "Quantized matrix of float64": Case(Quantized(), normal(2, 2, dtype=torch.float64), 4 + 4),
    "Quantized scalar": Case(Quantized(), normal(), 1 + 4),
    "Quantized int8": Case(Quantized(), integers(torch.int8, 3), 3),
    "Growable": Case(Growable(), widths, None),
    "Growable from 4": Case(Growable(width=4), widths, None),
    "Ragged": Case(Ragged(), rows_of_length(), None),
    "Ragged matrices": Case(Ragged(), rows_of_length(2), None),
}


def check_row(kind: ColumnKind, given: Tensor, got: Tensor) -> None:
    """``got`` is what a column of ``kind`` makes of the row ``given``."""
    assert got.dtype == given.dtype
    if isinstance(kind, Growable):
        assert got[len(given) :].isnan().all()
        got = got[: len(given)]
    if isinstance(kind, Quantized) and given.is_floating_point():
        largest = given.abs().max().item()
        assert (got - given).abs().max().item() <= largest / 254 * (1 + 1e-5) + 1e-43
        return
    narrow = {Half: torch.float16, BFloat16: torch.bfloat16}.get(type(kind))
    expected = given if narrow is None else given.to(narrow).to(given.dtype)
    assert got.shape == expected.shape
    assert got.tolist() == expected.tolist()


def check(storage: Storage, case: Case, model: list[Tensor]) -> None:
    """The first rows of the storage are those of the model, however they are read."""
    size = len(model)
    read = storage.read(slice(0, size))
    assert len(read.unbind()) == size
    for given_row, got in zip(model, read.unbind(), strict=True):
        check_row(case.kind, given_row, got)
    index = np.arange(size)[::-1].copy()
    for got, again in zip(storage.read(index).unbind(), reversed(read.unbind()), strict=True):
        assert same_bits(got, again)
    viewed = storage.view(size).unbind()
    assert all(same_bits(one, other) for one, other in zip(viewed, read.unbind(), strict=True))
    if case.bytes_per_row is not None:
        assert storage.nbytes(size) == size * case.bytes_per_row
    elif isinstance(case.kind, Ragged):
        assert storage.nbytes(size) == 16 * size + sum(row.nbytes for row in model)
    else:
        assert storage.nbytes(size) >= 4 * size * max([len(row) for row in model], default=0)


def same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return (
        one.contiguous().view(-1).view(torch.uint8).tolist() == other.contiguous().view(-1).view(torch.uint8).tolist()
    )


@pytest.mark.parametrize("mapped", [False, True], ids=["RAM", "mapped"])
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8)
@given(data=st.data())
def test_rows_come_back(name: str, mapped: bool, data: st.DataObject) -> None:
    case = CASES[name]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path) if mapped else None
        sample = case.make(3, generator)
        capacity = 6
        storage = case.kind.bind("x", sample, capacity, CPU, folder)
        model: list[Tensor] = []
        for step in data.draw(st.lists(st.sampled_from(["append", "put", "take out", "resize", "save"]), max_size=12)):
            size = len(model)
            if step == "append" and size < capacity:
                n = data.draw(st.integers(1, capacity - size))
                batch = case.make(n, generator)
                encoded = storage.encode(batch, None)
                storage.fit(batch, size)
                storage.write(slice(size, size + n), encoded)
                model += batch.unbind()
            elif step == "put" and size:
                slots = data.draw(st.lists(st.integers(0, size - 1), min_size=1, unique=True))
                batch = case.make(len(slots) + 2, generator)
                rows = np.array(data.draw(st.permutations(range(len(batch.unbind()))))[: len(slots)])
                if data.draw(st.booleans()):  # rows are chosen when they are encoded or when they are written
                    encoded, rows_written = storage.encode(batch, rows), None
                else:
                    encoded, rows_written = storage.encode(batch, None), rows
                storage.fit(batch, size)
                storage.write(np.array(slots), encoded, rows_written)
                for slot, row in zip(slots, rows.tolist(), strict=True):
                    model[slot] = batch.unbind()[row]
            elif step == "take out" and size > 1:
                hole = data.draw(st.integers(0, size - 2))
                storage.move(np.array([size - 1]), np.array([hole]))
                storage.clear(size - 1, size)
                model[hole] = model.pop()
            elif step == "resize":
                capacity = data.draw(st.integers(max(1, size), 10))
                storage.resize(capacity, size)
            elif step == "save":
                saved = {key: tensor.clone() for key, tensor in storage.tensors(size).items()}
                twin = case.kind.bind(
                    "x", case.kind.blank(sample.dtype, storage.schema()["shape"]), capacity, CPU, None
                )
                twin.restore(saved, size)
                assert twin.schema() == storage.schema()
                pairs = zip(twin.read(slice(0, size)).unbind(), storage.read(slice(0, size)).unbind(), strict=True)
                assert all(same_bits(one, other) for one, other in pairs)
                assert all(same_bits(twin.tensors(size)[key], tensor) for key, tensor in saved.items())
                storage.restore(saved, size)
            check(storage, case, model)


@pytest.mark.parametrize("name", CASES)
def test_reads_are_copies(name: str) -> None:
    case = CASES[name]
    generator = torch.Generator().manual_seed(0)
    batch = case.make(4, generator)
    storage = case.kind.bind("x", batch, 4, CPU, None)
    storage.write(slice(0, 4), storage.encode(batch, None))
    before = {key: tensor.clone() for key, tensor in storage.tensors(4).items()}
    for index in (slice(0, 4), np.array([2, 0])):
        read = storage.read(index)
        (read.values() if read.is_nested else read).zero_()
    assert all(same_bits(tensor, before[key]) for key, tensor in storage.tensors(4).items())


@pytest.mark.parametrize("name", CASES)
def test_cleared_rows_leave_nothing(name: str) -> None:
    case = CASES[name]
    batch = case.make(4, torch.Generator().manual_seed(0))
    storage = case.kind.bind("x", batch, 8, CPU, None)
    storage.write(slice(0, 4), storage.encode(batch, None))
    storage.clear(2, 4)
    fresh = case.kind.bind("x", batch, 8, CPU, None)
    fresh.write(slice(0, 2), fresh.encode(batch, np.array([0, 1])))
    fresh.clear(2, 4)
    for key, tensor in storage.tensors(4).items():
        assert same_bits(tensor, fresh.tensors(4)[key])
    if not isinstance(case.kind, Ragged):
        assert all((tensor[2:].view(torch.uint8) == 0).all() for tensor in storage.tensors(4).values())


# -- precision --------------------------------------------------------------------------------------------------


def stored(kind: ColumnKind, values: Tensor) -> Tensor:
    storage = kind.bind("x", values, len(values), CPU, None)
    storage.write(slice(0, len(values)), storage.encode(values, None))
    return storage.read(slice(0, len(values)))


def arrays(dtype: str, largest: float) -> st.SearchStrategy[Tensor]:
    elements = st.floats(-largest, largest, width=int(dtype[-2:]), allow_nan=False)
    shapes = hnp.array_shapes(min_dims=2, max_dims=3, max_side=5)
    return hnp.arrays(dtype, shapes, elements=elements).map(torch.from_numpy)


@given(arrays("float32", 65504.0))
def test_half_is_float16_to_the_bit(values: Tensor) -> None:
    assert same_bits(stored(Half(), values), values.to(torch.float16).to(torch.float32))


@given(arrays("float32", 2.0**127))
def test_bfloat16_is_bfloat16_to_the_bit(values: Tensor) -> None:
    assert same_bits(stored(BFloat16(), values), values.to(torch.bfloat16).to(torch.float32))


@given(st.one_of(arrays("float32", 2.0**127), arrays("float64", 2.0**127), arrays("float16", 65504.0)))
def test_quantized_is_off_by_half_a_step_at_most(values: Tensor) -> None:
    got = stored(Quantized(), values)
    assert got.dtype == values.dtype
    assert got.isfinite().all()
    largest = values.abs().flatten(1).amax(1).view(-1, *[1] * (values.dim() - 1)).double()
    rounding = torch.finfo(values.dtype).eps * largest if values.dtype == torch.float16 else 1e-6 * largest
    assert ((got.double() - values.double()).abs() <= largest / 254 + rounding + 1e-42).all()


@given(arrays("float32", 2.0**100))
def test_quantizing_twice_changes_little(values: Tensor) -> None:
    once = stored(Quantized(), values)
    assert torch.allclose(stored(Quantized(), once), once, rtol=1e-6, atol=1e-42)


def test_quantized_keeps_genuine_int8() -> None:
    values = torch.arange(-128, 128, dtype=torch.int8).view(16, 16)
    assert torch.equal(stored(Quantized(), values), values)


def test_quantized_keeps_the_scale_of_each_row() -> None:
    values = torch.tensor([[1e-6, -2e-6], [3e5, 1.0], [0.0, 0.0]])
    got = stored(Quantized(), values)
    assert torch.allclose(got[0], values[0], atol=1e-8)
    assert torch.allclose(got[1], values[1], atol=2e3)
    assert got[2].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", [Half(), BFloat16(), Quantized(), Growable()], ids=repr)
def test_kinds_for_numbers_refuse_the_rest(kind: ColumnKind) -> None:
    with pytest.raises(ValueError, match=r"column 'x' is torch.int64; .*expects floating-point"):
        kind.bind("x", torch.zeros(2, 3, dtype=torch.int64), 5, CPU, None)


@pytest.mark.parametrize("kind", [Plain(), Half(), BFloat16(), Quantized()], ids=repr)
def test_rows_of_differing_length_need_ragged(kind: ColumnKind) -> None:
    with pytest.raises(ValueError, match=r"column 'x' has rows of differing length.*Ragged\(\)"):
        kind.bind("x", jagged([torch.zeros(2), torch.zeros(3)]), 5, CPU, None)


# -- finiteness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e5m2, torch.complex64, torch.complex128],
    ids=str,
)
def test_finite(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    assert all_finite(torch.full((100,), largest, dtype=torch.float64).to(dtype))  # their sum is not finite
    assert all_finite(torch.zeros(0, dtype=dtype))
    for wrong in (math.nan, math.inf, -math.inf):
        values = torch.ones(7, dtype=torch.float64).to(dtype)
        values[3] = wrong
        assert not all_finite(values)
    both = torch.tensor([math.inf, -math.inf]).to(dtype)
    assert not all_finite(both)
    if dtype.is_complex:
        assert not all_finite(torch.tensor([complex(0, math.nan)], dtype=dtype).conj())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_finite_arrays(dtype: type) -> None:
    values = np.ones((3, 4), dtype)
    assert surely_finite(values)
    assert all_finite(values)
    large = np.full((3, 4), np.finfo(dtype).max)
    assert not surely_finite(large), "their squares are not finite: no answer"
    assert all_finite(large)
    for wrong in (math.nan, math.inf, -math.inf):
        values[1, 2] = wrong
        assert not surely_finite(values.T)
        assert not all_finite(values)
    assert all_finite(np.array([2**62]))


def test_integers_are_finite() -> None:
    assert all_finite(torch.tensor([2**62] * 10))
    assert all_finite(torch.tensor([True]))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Half(), 70000.0),
        (Half(), math.nan),
        (BFloat16(), math.inf),
        (BFloat16(), 3.4e38),
        (Quantized(), math.nan),
        (Quantized(), -math.inf),
        (Quantized(), torch.finfo(torch.float32).max),  # 127 steps of the rounded scale may be more
        (Growable(), math.nan),
        (Ragged(), math.inf),
    ],
    ids=repr,
)
def test_what_a_kind_cannot_hold_is_refused(kind: ColumnKind, value: float) -> None:
    values = kind.convert("x", torch.tensor([[1.0, value]]))
    storage = kind.bind("x", values, 1, CPU, None)
    with pytest.raises(ValueError, match=r"column 'x' holds numbers that are NaN, infinite or too large for .*finite"):
        storage.encode(values, None)
    storage.encode(values, None, trusted=True)


# -- columns that widen -------------------------------------------------------------------------------------------


def test_growable_pads_with_nan() -> None:
    store = Store(4, keep=Fifo(), columns={"logits": Growable()})
    store.add({"logits": torch.ones(1, 3)})
    assert store.rows()["logits"].shape == (1, 3)
    store.add({"logits": torch.full((1, 5), 2.0)})  # wide after narrow
    store.add({"logits": torch.full((2, 2), 3.0)})  # narrow after wide
    expected = [[1, 1, 1, None, None], [2] * 5, [3, 3, None, None, None], [3, 3, None, None, None]]
    rows = store.rows()["logits"]
    assert [[None if math.isnan(x) else x for x in row] for row in rows.tolist()] == expected
    store.add({"logits": torch.full((1, 1), 4.0)})  # over the first row
    assert [math.isnan(x) for x in store.rows()["logits"][0].tolist()] == [False, True, True, True, True]


def test_growable_allocates_ahead_without_showing_it() -> None:
    store = Store(4, columns={"logits": Growable(width=10)})
    store.add({"logits": torch.ones(1, 3)})
    assert store.rows()["logits"].shape == (1, 3)
    assert store.nbytes == 40 + 24
    assert torch.equal(store.draw(1)["logits"], torch.ones(1, 3))


# -- ragged -----------------------------------------------------------------------------------------------------


def test_ragged_texts() -> None:
    store = Store(3, keep=Fifo(), columns={"text": Ragged()})
    store.add({"text": ["first", "", "grüezi"]})
    store.add({"text": ["x"]})
    assert texts(store.rows()["text"]) == ["x", "", "grüezi"]


def test_ragged_takes_whatever_jagged_takes() -> None:
    store = Store(20, columns={"x": Ragged()})
    gaps = torch.nested.narrow(
        torch.arange(12.0).view(3, 4), 1, torch.tensor([0, 1, 2]), torch.tensor([1, 3, 0]), layout=torch.jagged
    )
    with warnings.catch_warnings(action="ignore"):  # torch finds this layout old
        strided = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.strided)
    store.add({"x": [torch.tensor([1.5])]})
    store.add({"x": jagged([torch.zeros(2)])})
    store.add({"x": torch.ones(2, 2)})
    store.add({"x": gaps})
    store.add({"x": strided})
    expected = [[1.5], [0, 0], [1, 1], [1, 1], [0], [5, 6, 7], [], [1], [1, 1]]
    assert [row.tolist() for row in store.rows()["x"].unbind()] == expected


def test_ragged_packs_what_is_overwritten() -> None:
    store = Store(10, keep=Fifo(), columns={"x": Ragged()})
    for i in range(500):
        store.add({"x": [torch.full((20,), float(i))]})
    assert store.nbytes == 10 * (20 * 4 + 16 + 24)
    values = store._table.columns["x"]._values
    assert len(values) <= 2 * 11 * 20
    assert sorted(row[0].item() for row in store.rows()["x"].unbind()) == list(range(490, 500))


# -- memory-mapped files ------------------------------------------------------------------------------------------


def test_names_of_columns_stay_in_the_folder(tmp_path: Path) -> None:
    names = ["a", "a.b", "a/b", "../a", "a%2eb", "ä", "A b", ".", ".."]
    store = Store(5, path=tmp_path / "columns")
    store.add({name: torch.full((3,), float(i)) for i, name in enumerate(names)})
    files = list(tmp_path.rglob("*.column"))
    assert len(files) == len(names)
    assert all(file.parent == tmp_path / "columns" for file in files)
    assert [store.rows()[name][0].item() for name in names] == list(range(len(names)))


def test_two_stores_in_one_folder_do_not_mix(tmp_path: Path) -> None:
    one, other = Store(5, path=tmp_path), Store(5, path=tmp_path)
    one.add({"x": torch.ones(5)})
    other.add({"x": torch.zeros(5)})
    assert one.rows()["x"].tolist() == [1.0] * 5
    assert other.rows()["x"].tolist() == [0.0] * 5


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_mapped_is_the_same_as_in_memory(tmp_path: Path, sizes: list[int]) -> None:
    kinds = {"half": Half(), "quantized": Quantized(), "wide": Growable(), "ragged": Ragged()}
    generator = torch.Generator().manual_seed(sum(sizes))
    stores = [Store(15, columns=kinds), Store(15, columns=kinds, path=tmp_path)]
    for size in sizes:
        x = torch.randn(size, 1 + size % 5, generator=generator)
        batch = {"plain": x[:, 0], "half": x[:, 0], "quantized": x[:, :1], "wide": x, "ragged": [row for row in x]}
        assert torch.equal(*(store.add(batch) for store in stores))
    for name, tensor in stores[0].state_dict()["tensors"].items():
        assert same_bits(tensor, stores[1].state_dict()["tensors"][name])
