"""DiverseReservoir: a reservoir that lets go of rows that resemble others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...retrievers.vectors import Vectors
from ...selection import Pool, Ranker, Selection
from ...selection.uniform import sample_distinct
from .reservoir import log_uniform


@dataclass(frozen=True)
class DiverseReservoir(Ranker):
    """Keeps as many rows of each class as a `Reservoir` would, but of each class rows that differ from each other.

    A row enters when it would enter a reservoir, whose keys these are. Where the row with the lowest key would have to
    leave, ``choices`` random rows of its class are looked at, and the one that is nearest to another row of the class
    (euclidean distance) leaves in its stead and hands its key on to it. So the keys held, and the class that each
    belongs to, are exactly those of a reservoir; with ``choices=1`` so is the sample. The more choices, the more of a
    class a small memory covers, and the likelier are rows that resemble no other, mislabelled ones too.

    Time goes by rows that enter, of which there are about ``k * log(n / k)`` in a stream of n: for each, ``choices``
    times as many distances as the memory has rows of the class.

    The pool tells by its column ``"key"`` which rows are held, and which are new (NaN); without it all are new.

    Args:
        column: the vectors; rows of any shape are flattened.
        label: column with the class; None: all rows are of one.
        choices: rows that one is chosen from to leave.

    >>> pool = {"input": torch.tensor([[0.0], [0.1], [9.0], [5.0]]), "key": torch.tensor([-1, -1, -50, torch.nan])}
    >>> chosen = DiverseReservoir(label=None).select(pool, 3, generator=torch.Generator())
    >>> 2 in chosen, 3 in chosen  # in a reservoir row 3 would have taken the place of row 2
    (True, True)
    """

    column: str = "input"
    label: str | None = "label"
    choices: int = 50

    def __post_init__(self) -> None:
        if self.choices < 1:
            raise ValueError(f"choices is {self.choices}; expected at least 1 row")

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.column, "key") if self.label is None else (self.column, self.label, "key")

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        keys = np.full(pool.size, np.nan)
        if "key" in list(pool):
            keys = pool["key"].to(device="cpu", dtype=torch.float64, copy=True).numpy()
        unknown = np.isnan(keys)
        keys[unknown] = log_uniform(int(unknown.sum()), generator).numpy()
        held, new = np.flatnonzero(~unknown), np.flatnonzero(unknown)
        held = held[(-keys[held]).argsort(kind="stable")[:k]]
        labels = None if self.label is None else pool[self.label].cpu().numpy()
        free = k - len(held)
        held = np.concatenate([held, new[:free]])
        for row in new[free:] if k else ():
            lowest = held[keys[held].argmin()]
            if keys[row] > keys[lowest]:
                leaves = self._leaves(pool, labels, held, lowest, generator)
                keys[lowest] = keys[held[leaves]]
                held[leaves] = row
        held = held[(-keys[held]).argsort(kind="stable")]
        return Selection(torch.from_numpy(held), torch.from_numpy(keys[held]))

    def _leaves(
        self,
        pool: Pool,
        labels: NDArray[np.generic] | None,
        held: NDArray[np.int64],
        lowest: np.int64,
        generator: torch.Generator,
    ) -> int:
        """The place among the rows ``held`` of the one that leaves where ``lowest`` would."""
        places = np.arange(len(held))
        if labels is not None:
            places = np.flatnonzero(labels[held] == labels[lowest])
        looked_at = sample_distinct(len(places), self.choices, generator)
        if len(places) > 1 and self.choices > 1:
            x = Vectors(pool, self.column)[torch.from_numpy(held[places])]
            distance = torch.cdist(x[looked_at], x)
            distance[torch.arange(len(looked_at)), looked_at] = torch.inf
            looked_at = looked_at[distance.amin(1).argmin().cpu()].unsqueeze(0)
        return int(places[int(looked_at[0])])
