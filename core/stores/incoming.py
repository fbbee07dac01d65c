"""Incoming: a batch on its way into the columns of a store."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..batch import Batch
from ..loops import loops
from .block import Index
from .look_ahead import Accepted
from .table import Table


class Incoming:
    """Rows that have been looked at and can be written: straight from where they lie, or encoded beforehand.

    Args:
        table: where they go.
        values: a batch that matches it.
        n: rows of the batch.
        hopeful: those that may be kept, rising; the others are not looked at. All if None.

    Raises:
        ValueError: a number is NaN, infinite or too large for its column (on a GPU `Table.check` tells later).
    """

    def __init__(self, table: Table, values: Batch, n: int, hopeful: NDArray[np.int64] | None = None) -> None:
        self._table, self._n, self._hopeful = table, n, hopeful
        self._encoded: dict[str, Any] = {}
        self._opened = table.open(values)
        if self._opened and not table.finite(self._opened, hopeful):
            self._opened = None
        if self._opened is None and (hopeful is None or len(hopeful)):
            self._encoded = table.encode(values, hopeful)

    def write(self, accepted: Accepted) -> None:
        """Puts accepted rows in their slots."""
        if not len(accepted.rows):
            return
        if self._opened and loops:
            loops.copy(accepted.rows, accepted.slots, self._opened[1])
            return
        count = len(accepted.rows)
        rows = None if accepted.contiguous and count == self._n else accepted.rows
        if self._hopeful is not None and rows is not None:
            rows = np.searchsorted(self._hopeful, rows)
        slots: Index = accepted.slots
        if accepted.contiguous:
            first = int(accepted.slots[0])
            slots = slice(first, first + count)
        self._table.write(slots, self._encoded, rows)
