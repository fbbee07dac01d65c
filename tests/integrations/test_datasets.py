"""Stores become data sets of datasets, and come back bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memreplay import Half, Ragged, Store
from memreplay.core.batch import jagged

datasets = pytest.importorskip("datasets")
from memreplay.integrations.datasets import add_dataset, to_dataset  # noqa: E402

DTYPES = [torch.float16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8]


@given(
    dtype=st.sampled_from([*DTYPES, torch.bool]),
    shape=st.sampled_from([(), (1,), (3,), (2, 3), (2, 1, 2)]),
    rows=st.integers(1, 5),
)
def test_dense_columns_there_and_back(dtype: torch.dtype, shape: tuple[int, ...], rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    values = (torch.randn(rows, *shape, generator=generator) * 50).to(dtype)
    store, back = Store(10), Store(10)
    store.add({"x": values})
    found = to_dataset(store)
    assert found["id"][:] == list(range(rows))
    assert add_dataset(back, found) == rows
    assert back.rows()["x"].dtype == dtype
    assert torch.equal(back.rows()["x"], values)


@pytest.mark.parametrize("lengths", [[2, 0, 3], [2, 2]])
@pytest.mark.parametrize("inner", [(), (2,)])
def test_ragged_columns_there_and_back(lengths: list[int], inner: tuple[int, ...]) -> None:
    rows = [torch.randn(n, *inner) for n in lengths]
    store, back = (Store(10, columns={"x": Ragged()}) for _ in range(2))
    store.add({"x": jagged(rows)})
    add_dataset(back, to_dataset(store))
    assert [torch.equal(a, b) for a, b in zip(back.rows()["x"].unbind(), rows, strict=True)] == [True] * len(rows)


def test_texts_and_labels_of_a_data_set() -> None:
    labels = datasets.ClassLabel(names=["cards", "money"])
    table = datasets.Dataset.from_dict({"text": ["card", "grüezi", ""], "label": [0, 1, 0]})
    store = Store(10, columns={"text": Ragged()})
    assert add_dataset(store, table.cast_column("label", labels)) == 3
    assert to_dataset(store, text=["text"])["text"][:] == ["card", "grüezi", ""]
    assert store.rows()["label"].tolist() == [0, 1, 0]


def test_arrays_of_two_dimensions_and_shuffled_rows() -> None:
    features = datasets.Features({"x": datasets.Array2D((2, 2), "float32"), "n": datasets.Value("int32")})
    values = torch.arange(40.0).view(10, 2, 2)
    table = datasets.Dataset.from_dict({"x": values.numpy(), "n": list(range(10))}, features=features)
    store = Store(10)
    add_dataset(store, table.shuffle(seed=0).select(range(5)))
    rows = store.rows()
    assert torch.equal(rows["x"], values[rows["n"].long()])
    assert rows["n"].dtype == torch.int32


def test_rows_narrowed_in_the_store_come_in_the_dtype_they_had() -> None:
    store = Store(10, columns={"x": Half()})
    store.add({"x": torch.tensor([[0.1, 2.0]])})
    back = Store(10)
    add_dataset(back, to_dataset(store))
    assert torch.equal(back.rows()["x"], torch.tensor([[0.1, 2.0]]).half().float())


def test_what_a_store_keeps_is_up_to_its_policy() -> None:
    store = Store(100, seed=0)
    table = datasets.Dataset.from_dict({"x": torch.randn(2500, 2).numpy(), "other": ["no"] * 2500})
    assert add_dataset(store, table, columns=["x"]) == 100
    assert store.seen == 2500


def test_what_does_not_fit_is_named() -> None:
    brain = Store(5)
    brain.add({"x": torch.zeros(1, 2, dtype=torch.bfloat16)})
    with pytest.raises(TypeError, match=r"column 'x' is torch.bfloat16; expected one of torch.float16"):
        to_dataset(brain)
    for column, error, message in [
        ([1, None], ValueError, "column 'x' has 1 missing values"),
        ([[1.0], [1.0, 2.0]], ValueError, r"declare columns=\{'x': Ragged"),
        ([[[1], [1, 2]], [[1], [1]]], ValueError, "lists of differing length within a row"),
        (["a", "b"], TypeError, "column 'x' is a list; expected a torch.Tensor"),
        ([{"a": 1}, {"a": 2}], TypeError, "expected numbers, truth values, texts or lists"),
    ]:
        with pytest.raises(error, match=message):
            add_dataset(Store(5), datasets.Dataset.from_dict({"x": column}))
