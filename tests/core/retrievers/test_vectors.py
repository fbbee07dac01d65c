from __future__ import annotations

import pytest
import torch

from memreplay.core.batch import jagged
from memreplay.core.retrievers import vectors
from memreplay.core.retrievers.vectors import Vectors, inverse
from memreplay.core.selection import Pool


@pytest.fixture
def x(monkeypatch):
    """(11, 2, 3) in float64, read in blocks of two rows."""
    monkeypatch.setattr(vectors, "BLOCK_BYTES", 2 * 6 * 8)
    return torch.randn(11, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_summaries_do_not_depend_on_the_blocks(x):
    rows, flat = Vectors({"x": x}, "x"), x.flatten(1)
    assert (len(rows), rows.dim, rows.dtype) == (11, 6, torch.float64)
    assert [len(block) for _, block in rows.blocks()] == [2, 2, 2, 2, 2, 1]
    scale = torch.arange(11, dtype=torch.float64)
    root = torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(rows.norms(), flat.norm(dim=1))
    torch.testing.assert_close(rows.mean(), flat.mean(0))
    torch.testing.assert_close(rows.mean(scale), (flat * scale[:, None]).mean(0))
    torch.testing.assert_close(rows.squared_distances(flat[0]), (flat - flat[0]).square().sum(1))
    torch.testing.assert_close(rows.squared_distances(flat[0], root), ((flat - flat[0]) @ root).square().sum(1))


def test_rows_by_slice_and_by_position(x):
    rows = Vectors({"x": x}, "x")
    assert rows[3:5].data_ptr() == x[3].data_ptr()
    assert torch.equal(rows[-2:], x.flatten(1)[-2:])
    assert torch.equal(rows[torch.tensor([7, 0])], x.flatten(1)[[7, 0]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_other_dtypes_are_read_as_float32(dtype):
    values = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    assert torch.equal(Vectors({"x": values}, "x")[:], values.float())


def test_a_compressed_column_is_decoded_a_part_at_a_time(x):
    class Compressed(Pool):
        largest = 0

        def chunk(self, name, start, stop):
            self.largest = max(self.largest, stop - start)
            return super().chunk(name, start, stop)

    pool = Compressed({"x": x})
    rows = Vectors(pool, "x")
    rows.norms(), rows.mean()
    assert pool.largest == 2


def test_numbers_are_vectors_of_one():
    assert Vectors({"x": torch.arange(3)}, "x")[:].tolist() == [[0.0], [1.0], [2.0]]


def test_nothing_stored():
    rows = Vectors({"x": torch.zeros(0, 4)}, "x")
    assert (len(rows), rows.dim) == (0, 4)
    assert rows.mean().tolist() == [0.0] * 4
    assert rows[:].shape == (0, 4)


def test_zero_lengths_have_no_inverse():
    assert inverse(torch.tensor([0.0, 4.0])).tolist() == [0.0, 0.25]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("y", torch.zeros(2, 2), r"pool has no column 'x'; it has \['y'\]"),
        ("x", jagged([[1, 2], [3]]), r"pool\['x'\] has rows of differing length"),
        ("x", torch.zeros(2, 2, dtype=torch.complex64), r"pool\['x'\] has torch.complex64"),
    ],
)
def test_what_is_no_vector_is_named(column, values, message):
    with pytest.raises(ValueError, match=message):
        Vectors({column: values}, "x")
