"""Vectors: a column of a pool read as one vector per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..selection import Pool
from .scan import Comparison, compare, in_threads, scans

BLOCK_BYTES = 1 << 22
"""Rows read at a time where the result is one number per row; few enough to stay in a processor's cache."""


class Vectors:
    """The rows of ``pool[column]``, flattened, in the dtype to calculate in: float64 for float64, else float32.

    They are read a part at a time, so that of a compressed column no decoded copy exists as a whole.

    Attributes:
        dim: numbers per row.
        dtype: float64 or float32.
        device: of the column.

    Raises:
        ValueError: the column is absent, complex, or its rows differ in length.

    >>> len(Vectors({"feature": torch.zeros(5, 2, 3)}, "feature")), Vectors({"label": torch.arange(4)}, "label").dim
    (5, 1)
    """

    def __init__(self, pool: Mapping[str, Tensor], column: str, name: str = "pool") -> None:
        if column not in list(pool):
            raise ValueError(f"{name} has no column {column!r}; it has {sorted(pool)}")
        self._pool = Pool.of(pool)
        self._column = column
        try:
            sample = self._pool.chunk(column, 0, 1)
        except RuntimeError as error:  # nested tensors cannot be sliced
            raise ValueError(
                f"{name}[{column!r}] has rows of differing length; expected vectors of one length"
            ) from error
        if sample.is_nested or sample.is_complex():
            raise ValueError(f"{name}[{column!r}] has {sample.dtype} rows; expected real vectors of one length")
        self.dim = sample.shape[1:].numel()
        self.dtype = torch.float64 if sample.dtype is torch.float64 else torch.float32
        self.device = sample.device
        self._size = self._pool.size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some rows, (n, D); a slice without a step, or int64 positions. A view where no conversion is needed."""
        if isinstance(rows, slice):
            values = self._pool.chunk(self._column, *rows.indices(self._size)[:2])
        else:
            values = self._pool.subset(rows)[self._column]
        return values.detach().reshape(len(values), self.dim).to(self.dtype)

    def parts(self, rows: int) -> Iterator[slice]:
        """Slices of at most ``rows`` rows, one after the other."""
        for start in range(0, self._size, rows):
            yield slice(start, min(start + rows, self._size))

    def rows_in(self, nbytes: int) -> int:
        """How many rows take at most ``nbytes``, at least 1."""
        return max(1, nbytes // max(1, self.dim * self.dtype.itemsize))

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows, a few at a time, with the slice they stand for."""
        for rows in self.parts(self.rows_in(BLOCK_BYTES)):
            yield rows, self[rows]

    @property
    def scanned(self) -> bool:
        """Whether `compared` can be called."""
        return scans(self.dtype, self.device)

    def compared(
        self, vector: Tensor, how: Comparison, rows: slice = slice(None), scale: Tensor | None = None
    ) -> Tensor:
        """Some rows compared with ``vector`` (D,) as `compare` does, (n,); reads each row once. ``scale`` is (N,)."""
        start, stop, _ = rows.indices(len(self))
        out = torch.empty(stop - start)
        threads = torch.get_num_threads()
        once, again = self[:1], self[:1]
        if once.data_ptr() == again.data_ptr():  # they lie there as they are: no part is a copy
            step = max(1, -(-(stop - start) // threads))
        else:
            step = self.rows_in(4 * BLOCK_BYTES // threads)
        parts = [slice(i, min(i + step, stop)) for i in range(start, stop, step)]

        def work(p: slice) -> None:
            compare(self[p], vector, how, out[p.start - start : p.stop - start], None if scale is None else scale[p])

        in_threads(work, parts)
        return out

    def products(self, vector: Tensor) -> Tensor:
        """Inner product of every row with ``vector`` (D,), (N,)."""
        return self.compared(vector, "dot") if self.scanned else torch.mv(self[:], vector)

    def norms(self) -> Tensor:
        """Length of every row, (N,)."""
        if self.scanned:
            return self.compared(torch.zeros(self.dim), "euclidean").neg_().sqrt_()
        out = torch.empty(len(self), dtype=self.dtype, device=self.device)
        for rows, block in self.blocks():
            torch.linalg.vector_norm(block, dim=1, out=out[rows])
        return out

    def mean(self, scale: Tensor | None = None) -> Tensor:
        """Mean of the rows, each multiplied by its ``scale`` (N,) if given; float64 (D,), 0 if there are none."""
        total = torch.zeros(self.dim, dtype=torch.float64, device=self.device)
        for rows, block in self.blocks():
            total += block.sum(0) if scale is None else scale[rows] @ block
        return total / max(1, len(self))

    def squared_distances(self, centre: Tensor, root: Tensor | None = None) -> Tensor:
        """``|(row - centre) @ root| ** 2`` of every row, (N,); ``root`` (D, D) is the identity if None."""
        if root is None and self.scanned:
            return self.compared(centre, "euclidean").neg_()
        out = torch.empty(len(self), dtype=self.dtype, device=self.device)
        room = torch.empty(min(len(self), self.rows_in(BLOCK_BYTES)), self.dim, dtype=self.dtype, device=self.device)
        for rows, block in self.blocks():
            offset = torch.sub(block, centre, out=room[: len(block)])
            torch.linalg.vector_norm(offset if root is None else offset @ root, dim=1, out=out[rows])
        return out.square_()


def inverse(lengths: Tensor) -> Tensor:
    """``1 / lengths``, and 0 where the length is 0."""
    return lengths.reciprocal().where(lengths > 0, 0)
