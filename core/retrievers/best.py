"""Best: the highest scores of each query, from tiles of scores that pass by in plain memory."""

from __future__ import annotations

import torch
from torch import Tensor

from . import scan
from .narrow import PANEL, UNIT, Narrow
from .top import Top


class Best:
    """The ``k`` highest scores of each of ``q`` queries, noted while tiles of scores pass by.

    >>> if scan.scans(torch.float32, torch.device("cpu")):
    ...     best = Best(1, 2)
    ...     best.see(torch.tensor([[1.0], [3.0], [3.0]]), start=0)
    ...     best.see(torch.tensor([[2.0], [3.0]]), start=3)
    ...     assert best.top().ordered().index.tolist() == [[1, 2]]
    """

    def __init__(self, q: int, k: int) -> None:
        # twice as many places as are wanted: sorted out when all are taken
        self._scores, self._index = torch.empty(q, 2 * k), torch.empty(q, 2 * k, dtype=torch.int64)
        # what a score must exceed; anything will do while this is NaN, and nothing where a panel has no query
        self._limits = torch.full((-(-q // PANEL) * PANEL,), torch.inf)
        self._least = self._limits[:q].fill_(torch.nan)
        self._taken = torch.zeros(q, dtype=torch.int64)

    def see(self, tile: Tensor, start: int, bias: Tensor | None = None, scale: Tensor | None = None) -> None:
        """Takes in ``(tile + bias) * scale``.

        Args:
            tile: (n, q), a row of scores for each row searched.
            start: position of the first of these rows, after those seen before.
            bias: (n,), 0 if None.
            scale: (n,), 1 if None.
        """
        given = [None if x is None else x.numpy() for x in (bias, scale)]
        state = (self._scores, self._index, self._least, self._taken)
        scan.compiled.keep_best(tile.numpy(), *given, *(x.numpy() for x in state), start)

    def search(
        self, rows: Tensor, narrow: Narrow, start: int, bias: Tensor | None = None, scale: Tensor | None = None
    ) -> int:
        """Takes in ``(rows @ directions.T + bias) * scale``, calculating only scores that may be among the best.

        Args:
            rows: (n, D).
            narrow: the directions.
            start: as for `see`, and so are ``bias`` and ``scale``, which is not negative.

        Returns:
            How many scores were calculated.
        """
        given = [None if x is None else x.numpy() for x in (bias, scale)]
        queries = (narrow.directions, narrow.panels, narrow.reach, narrow.slack)
        state = (self._scores, self._index, self._limits, self._taken)
        calculated: int = scan.compiled.search(
            rows.contiguous().numpy(), *(x.numpy() for x in queries), *given, *(x.numpy() for x in state), start, UNIT
        )
        return calculated

    def top(self) -> Top:
        """What was found, in no order, when k rows or more were seen; of equal scores those of the lower rows."""
        scan.compiled.finish(self._scores.numpy(), self._index.numpy(), self._taken.numpy())
        k = self._scores.shape[1] // 2
        return Top(self._scores[:, :k], self._index[:, :k])
