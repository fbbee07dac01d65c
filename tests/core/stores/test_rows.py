import pytest
import torch

from memreplay.core.batch import jagged
from memreplay.core.stores.rows import Rows


@pytest.fixture
def rows():
    columns = {"feature": torch.arange(6.0).view(2, 3), "label": torch.tensor([3, 4]), "tokens": jagged([[1, 2], [3]])}
    return Rows(columns, slots=torch.tensor([0, 5]), ids=torch.tensor([7, 12]), scores=torch.tensor([0.9, 0.1]))


def test_it_reads_like_a_batch_but_counts_rows(rows):
    assert len(rows) == 2
    assert list(rows) == list(rows.keys()) == ["feature", "label", "tokens"]
    assert "label" in rows
    assert "labels" not in rows
    assert rows["label"].tolist() == [3, 4]
    assert dict(rows) == rows.columns
    assert dict(rows.items()) == rows.columns
    assert list(rows.values()) == list(rows.columns.values())
    assert (lambda **columns: sorted(columns))(**rows) == ["feature", "label", "tokens"]


def test_an_unknown_column_is_named_with_those_there_are(rows):
    with pytest.raises(KeyError, match=r"no column 'logits'; they have .'feature', 'label', 'tokens'"):
        rows["logits"]


def test_replacing_columns_changes_neither_rows_nor_columns(rows):
    other = rows.with_columns(label=torch.tensor([0, 1]), weight=torch.ones(2))
    assert list(other) == ["feature", "label", "tokens", "weight"]
    assert other["label"].tolist() == [0, 1]
    assert rows["label"].tolist() == [3, 4]
    assert other.scores is rows.scores
    assert other.ids is rows.ids


@pytest.mark.parametrize("column", [torch.ones(3), torch.tensor(1.0)])
def test_columns_must_have_one_entry_per_row(rows, column):
    with pytest.raises(ValueError, match=r"column 'label' has shape .*; expected 2 rows"):
        rows.with_columns(label=column)


def test_moving_moves_every_tensor(rows):
    moved = rows.to("meta")
    assert {values.device.type for name, values in moved.items() if name != "tokens"} == {"meta"}
    assert moved.ids.device.type == moved.slots.device.type == "meta"
    assert moved.scores is not None
    assert moved.scores.device.type == "meta"
    assert moved.weights is None


def test_it_prints_what_it_holds(rows):
    assert repr(rows) == "Rows(2; feature: 3 float32, label: scalar int64, tokens: jagged int64, scores)"


def test_no_rows_are_false(rows):
    empty = torch.empty(0, dtype=torch.int64)
    assert rows
    assert not Rows({"label": empty}, empty, empty)
