"""Batches: checks, copies, and rows of differing length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memreplay.core.batch import batch_size, concat, jagged, nbytes, take, texts, to_device

rows_of_tokens = st.lists(st.lists(st.integers(-5, 5), max_size=4), min_size=1, max_size=8)


def test_batch_size() -> None:
    assert batch_size({"input": torch.zeros(4, 2), "label": torch.arange(4)}) == 4
    assert batch_size({"token": jagged([[1, 2], [], [3]])}) == 3
    assert batch_size({"input": torch.zeros(0, 2)}) == 0


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({}, ValueError, "no columns"),
        ({"label": [1, 2]}, TypeError, "'label'.*list.*torch.Tensor"),
        ({"label": torch.tensor(1)}, ValueError, "'label'.*scalar"),
        ({"a": torch.zeros(2), "b": torch.zeros(3)}, ValueError, "'b'.* 3 rows; expected 2, as .*'a'"),
        ({"a": torch.zeros(2), "b": jagged([[1]])}, ValueError, "'b'.* 1 rows; expected 2, as .*'a'"),
    ],
)
def test_batch_size_names_what_is_wrong(batch: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        batch_size(batch)


def test_take_copies() -> None:
    batch = {"label": torch.tensor([5, 6, 7]), "token": jagged([[1], [2, 2], [3, 3, 3]])}
    taken = take(batch, torch.tensor([2, 0, 2]))
    assert taken["label"].tolist() == [7, 5, 7]
    assert [row.tolist() for row in taken["token"].unbind()] == [[3, 3, 3], [1], [3, 3, 3]]
    taken["label"].zero_()
    taken["token"].values().zero_()
    assert batch["label"].tolist() == [5, 6, 7]
    assert batch["token"].values().tolist() == [1, 2, 2, 3, 3, 3]


@given(rows_of_tokens, st.data())
def test_take_jagged(rows: list[list[int]], data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=10))
    taken = take({"token": jagged(rows)}, torch.tensor(index, dtype=torch.int64))["token"]
    assert [row.tolist() for row in taken.unbind()] == [rows[i] for i in index]


@given(st.lists(rows_of_tokens, min_size=1, max_size=4))
def test_concat_jagged(parts: list[list[list[int]]]) -> None:
    joined = concat([{"token": jagged(rows)} for rows in parts])["token"]
    assert [row.tolist() for row in joined.unbind()] == [row for rows in parts for row in rows]


def test_concat_keeps_common_columns() -> None:
    first = {"label": torch.tensor([1]), "input": torch.zeros(1, 2)}
    joined = concat([first, {"label": torch.tensor([2, 3])}])
    assert list(joined) == ["label"]
    assert joined["label"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches is empty"),
        ([{"a": torch.zeros(1)}, {"b": torch.zeros(1)}], "share no column"),
        ([{"a": torch.zeros(1)}, {"a": torch.zeros(1, 2)}], "'a' differs"),
        ([{"a": torch.zeros(1)}, {"a": torch.zeros(1, dtype=torch.int64)}], "'a' differs.*int64"),
        ([{"a": torch.zeros(1)}, {"a": jagged([[1]])}], "'a' differs"),
    ],
)
def test_concat_names_what_is_wrong(batches: list[dict], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        concat(batches)


def test_nbytes() -> None:
    batch = {
        "feature": torch.zeros(3, 4),
        "half": torch.zeros(3, dtype=torch.float16),
        "token": jagged([[1, 2], [], [3]]),
    }
    assert nbytes(batch) == 3 * 4 * 4 + 3 * 2 + (3 * 8 + 4 * 8)


def test_to_device_keeps_what_is_there() -> None:
    batch = {"label": torch.arange(2)}
    assert to_device(batch, "cpu")["label"] is batch["label"]


@given(st.lists(st.text(max_size=5).filter(lambda text: text.isprintable()), min_size=1, max_size=6))
def test_texts_come_back(rows: list[str]) -> None:
    assert texts(jagged(rows)) == rows


def test_jagged_takes_tensors_of_any_inner_shape() -> None:
    rows = [torch.randn(2, 3), torch.randn(0, 3), torch.randn(1, 3)]
    assert all(torch.equal(a, b) for a, b in zip(jagged(rows).unbind(), rows, strict=True))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows is empty"),
        ([torch.zeros(2), torch.zeros(2, 2)], "differ in more than their length"),
        ([torch.zeros(2), torch.zeros(2, dtype=torch.int64)], "differ in more than their length"),
        (["text", [1]], "differ in more than their length"),
        ([torch.tensor(1), torch.tensor(2)], "scalar"),
        ([[1.5]], "integers"),
    ],
)
def test_jagged_names_what_is_wrong(rows: list, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        jagged(rows)


def test_texts_refuses_other_rows() -> None:
    with pytest.raises(ValueError, match=r"int64.*expected a nested uint8"):
        texts(jagged([[1]]))
    with pytest.raises(ValueError, match="expected a nested uint8"):
        texts(torch.zeros(2, dtype=torch.uint8))
