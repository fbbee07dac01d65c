"""Table: columns of one schema, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch, batch_size
from ..loops import loops
from .block import Index, Lane
from .columns import ColumnKind, Plain, Storage
from .rows import Rows

BOOKS = ("id", "key", "rank")
"""What a store itself knows of each row. Selectors may read these like columns, so no column has their names."""


OpenBatch: TypeAlias = tuple[int, bytes]
"""A batch on its way into columns that lie in plain memory: the number of rows, and where they lie and go."""


class Table:
    """The columns of a store. The first batch fixes them; later ones must match.

    Args:
        kinds: how columns are stored; `Plain` where none is named.
        device: where they live.
        folder: for memory-mapped columns, or None.
    """

    def __init__(self, kinds: Mapping[str, ColumnKind], device: torch.device, folder: Path | None) -> None:
        for name, kind in kinds.items():
            if not isinstance(kind, ColumnKind):
                raise TypeError(f"columns[{name!r}] is {kind!r}; expected a column kind such as Half()")
            _check_name(name)
        if folder is not None and device.type != "cpu":
            raise ValueError(f"path is {str(folder)!r} with device {device}; memory-mapped columns live on the CPU")
        self.kinds = dict(kinds)
        self.device = device
        self.folder = folder
        self.columns: dict[str, Storage] = {}
        self._widening: dict[str, Storage] = {}

    def kind(self, name: str) -> ColumnKind:
        """How column ``name`` is stored."""
        return self.kinds.get(name, Plain())

    def column(self, name: str) -> Storage:
        """The storage of column ``name``.

        Raises:
            ValueError: there is none.
        """
        if name not in self.columns:
            raise ValueError(f"there is no column {name!r}; the store has {sorted(self.columns)}")
        return self.columns[name]

    def schema(self) -> dict[str, Any]:
        """What a batch or a save must match, JSON-able."""
        return {name: column.schema() for name, column in self.columns.items()}

    def match(self, batch: Mapping[str, Any]) -> tuple[Batch, int]:
        """The batch as tensors without gradients, and the number of rows, if it fits.

        Raises:
            ValueError: another column set, shape or dtype.
            TypeError: a column that is no tensor.
        """
        if isinstance(batch, Rows):
            batch = batch.columns
        n = -1
        if len(batch) == len(self.columns):
            for name, column in self.columns.items():
                values = batch.get(name)
                if not isinstance(values, Tensor) or values.requires_grad or not column.accepts(values):
                    break
                rows = values.size(0)
                if rows != n:
                    if n >= 0:
                        break
                    n = rows
            else:
                if n >= 0:
                    return batch, n  # type: ignore[return-value]
        values = {}
        for name, given in batch.items():
            _check_name(name)
            values[name] = self.kind(name).convert(name, given)
        n = batch_size(values)
        if not self.columns:
            return values, n
        if values.keys() != self.columns.keys():
            raise ValueError(f"the batch has columns {sorted(values)}; expected {sorted(self.columns)}")
        for name, column in self.columns.items():
            if not column.accepts(values[name]):
                raise ValueError(f"column {name!r} came with {describe(values[name])}; expected {expected(column)}")
        return values, n

    def bind(self, samples: Mapping[str, Tensor], capacity: int) -> None:
        """Makes the columns, with room for ``capacity`` rows like those of ``samples``."""
        missing = sorted(self.kinds.keys() - samples.keys())
        if missing:
            raise ValueError(f"columns {missing} are declared, but the batch has only {sorted(samples)}")
        columns = {}
        for name, sample in samples.items():
            columns[name] = self.kind(name).bind(name, sample, capacity, self.device, self.folder)
        names = [tensor for column in columns.values() for tensor in column.tensors(0)]
        twice = sorted(name for name in columns if names.count(name) > 1)
        if twice:
            raise ValueError(f"column names {twice} are taken by what another column stores beside its rows")
        self.columns.update(columns)
        self._widening = {name: column for name, column in columns.items() if type(column).fit is not Storage.fit}

    def bind_schema(self, schema: Mapping[str, Any], capacity: int) -> None:
        """Makes the columns that `schema` describes."""
        blank = {n: self.kind(n).blank(getattr(torch, s["dtype"]), s["shape"]) for n, s in schema.items()}
        if blank:
            self.bind(blank, capacity)

    def row_bytes(self, values: Mapping[str, Tensor]) -> int:
        """Bytes of one row when there is room for such as ``values``.

        Raises:
            ValueError: rows differ in length.
        """
        for name, column in self.columns.items():
            if not column.fixed_size:
                raise ValueError(f"column {name!r} has rows of differing length; give capacity instead of budget")
        return sum(column.row_bytes(values.get(name)) for name, column in self.columns.items())

    def nbytes(self, size: int) -> int:
        """Bytes of the first ``size`` rows."""
        return sum(column.nbytes(size) for column in self.columns.values())

    def fit(self, values: Batch, size: int) -> None:
        """Lets columns widen for ``values``, with ``size`` rows held."""
        for name, column in self._widening.items():
            column.fit(values[name], size)

    def encode(self, values: Batch, rows: NDArray[np.int64] | None) -> dict[str, Any]:
        """``values[rows]`` as they will be stored; nothing is written.

        Raises:
            ValueError: a number is NaN, infinite or too large for its column (on a GPU `check` tells later).
        """
        return {name: column.encode(values[name], rows) for name, column in self.columns.items()}

    def lanes(self) -> list[Lane] | None:
        """Where the columns lie, if all of them lie in plain memory just as they came."""
        lanes = [column.lane for column in self.columns.values()]
        return None if None in lanes else lanes  # type: ignore[return-value]

    def open(self, batch: Mapping[str, Any]) -> OpenBatch | None:
        """A batch whose rows can be copied from where they lie, by compiled code; None if there is none, or if a
        column does not fit or is not stored just as it comes."""
        opened: OpenBatch | None = None if loops is None else loops.open_batch(batch, self.columns)
        return opened

    def finite(self, batch: OpenBatch, rows: NDArray[np.int64] | None) -> bool:
        """Whether the given rows of an open batch (all if None) hold finite numbers only."""
        return loops is not None and loops.finite(np.arange(batch[0]) if rows is None else rows, batch[1])

    def write(self, index: Index, encoded: Mapping[str, Any], rows: NDArray[np.int64] | None = None) -> None:
        """Stores ``encoded[rows]`` (all of it if None) at ``index``."""
        for name, column in self.columns.items():
            column.write(index, encoded[name], rows)

    def read(self, index: Index) -> Batch:
        """The rows at ``index``, copied."""
        return {name: column.read(index) for name, column in self.columns.items()}

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Copies rows ``source`` over rows ``target``."""
        if len(source):
            for column in self.columns.values():
                column.move(source, target)

    def clear(self, start: int, stop: int) -> None:
        """Overwrites slots ``start .. stop - 1``."""
        for column in self.columns.values():
            column.clear(start, stop)

    def resize(self, capacity: int, size: int) -> None:
        """Room for ``capacity`` rows, keeping the first ``size``."""
        for column in self.columns.values():
            column.resize(capacity, size)

    def tensors(self, size: int) -> dict[str, Tensor]:
        """The first ``size`` rows as named tensors, for `restore`."""
        return {name: tensor for column in self.columns.values() for name, tensor in column.tensors(size).items()}

    def restore(self, tensors: Mapping[str, Tensor], size: int) -> None:
        """Takes the rows written by `tensors`; a damaged set raises ValueError."""
        for column in self.columns.values():
            column.restore(tensors, size)

    def check(self, size: int, ids: NDArray[np.int64]) -> None:
        """Raises ValueError if a GPU column was given numbers that are not finite and still holds them."""
        found = []
        for name, column in self.columns.items():
            if column.suspect is None or bool(column.suspect):
                continue
            values = column.view(size)
            if not values.is_nested:
                bad = ~values.isfinite().reshape(size, -1).all(1)
                found += [f"column {name!r} of id {ids[slot]}" for slot in bad.nonzero().flatten().tolist()]
        if found:
            raise ValueError(f"numbers that are not finite are in {', '.join(found[:5])}; remove these rows")
        for column in self.columns.values():
            column.suspect = None


def describe(values: Tensor) -> str:
    """The rows of a column in words."""
    shape = "jagged" if values.is_nested else str(tuple(values.shape[1:]))
    return f"rows of shape {shape} and dtype {values.dtype}"


def expected(column: Storage) -> str:
    """The rows a column takes, in words."""
    schema = column.schema()
    return f"rows of shape {tuple(schema['shape'])} and dtype torch.{schema['dtype']}"


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or name in BOOKS:
        raise ValueError(f"column name {name!r} cannot be used; expected a text other than {', '.join(BOOKS)}")
