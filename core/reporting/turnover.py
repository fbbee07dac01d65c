"""Turnover: what a policy kept and what it dropped, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PENDING = 1 << 13
"""Rows, or batches on another device, that are noted before they are counted."""


@dataclass(frozen=True)
class Kept:
    """What became of the rows of a class.

    Attributes:
        offered: rows that came.
        refused: those that were not kept, or given up for a later row of the same batch.
        gone: those that were kept, and left since: evicted, removed or forgotten.
        held: those that are there.
    """

    offered: int
    refused: int
    gone: int
    held: int


class Turnover:
    """Counts the rows that are offered to a store, and those that it keeps, by class.

    It is given what the store is given and what that returns; counting waits until there is something to count. Rows
    that were there before the first batch was noted are left out.

    Args:
        label: column with the classes, whole numbers.

    >>> store, turnover = Store(4, keep=Fifo()), Turnover()
    >>> batch = {"label": torch.tensor([0, 0, 0, 1, 1, 1])}
    >>> turnover.note(batch, store.add(batch))
    >>> turnover.table(store.rows()["label"])[0]
    Kept(offered=3, refused=2, gone=0, held=1)
    """

    def __init__(self, label: str = "label") -> None:
        self.label = label
        self._named: bool | None = None
        self._since = 0
        self._labels: list[int] = []
        self._slots: list[Tensor] = []
        self._away: list[tuple[Tensor, Tensor]] = []
        self._classes, self._offered, self._kept = (np.zeros(0, np.int64) for _ in range(3))

    def note(self, batch: Mapping[str, Tensor], slots: Tensor | None, seen: int = 0) -> None:
        """Notes a batch, and the slots (B,) that ``Store.add`` returned for it; nothing where labels name no classes.

        Args:
            batch: rows as they were offered.
            slots: that they took, -1 for refused ones.
            seen: rows that the store had been offered before (`Store.seen`); only the first batch is asked.

        Raises:
            ValueError: not as many labels as slots.
        """
        labels = batch.get(self.label)
        if self._named is None and labels is not None:  # once: a store takes no other labels later
            self._named = slots is not None and labels.dim() == 1 and not labels.is_floating_point()
            if not len(self._classes):
                self._since = seen
        if not self._named or labels is None or slots is None:
            return
        n = slots.shape[0]
        if labels.shape[0] != n:
            raise ValueError(f"slots has {n} rows; expected {len(labels)}, as column {self.label!r} has")
        if labels.is_cpu:  # a list costs a third of a copy; the slots are nobody else's
            self._labels += labels.tolist()
            self._slots.append(slots)
        else:  # to look at them now would mean waiting for the device
            self._away.append((labels.detach().clone(), slots))
        if len(self._labels) > _PENDING or len(self._away) > _PENDING:
            self._count()

    def table(self, held: Tensor, ids: Tensor | None = None) -> dict[int, Kept]:
        """What became of the rows of each class, given the classes (N,) of the rows that are there now, and their ids
        (N,), which only a store that held rows before needs.
        """
        self._count()
        found = torch.unique((held if ids is None else held[ids >= self._since]).cpu(), return_counts=True)
        there = dict(zip(*(part.tolist() for part in found), strict=True))
        columns = (part.tolist() for part in (self._classes, self._offered, self._kept))
        return {
            of: Kept(offered, offered - kept, kept - there.get(of, 0), there.get(of, 0))
            for of, offered, kept in zip(*columns, strict=True)
        }

    def summary(self, held: Tensor, ids: Tensor | None = None) -> dict[str, dict[str, int]]:
        """`table`, JSON-able."""
        return {str(of): asdict(kept) for of, kept in self.table(held, ids).items()}

    def state_dict(self) -> dict[str, Any]:
        """The counts: ``"tensors"`` by name, and ``"meta"``."""
        self._count()
        counts = {"classes": self._classes, "offered": self._offered, "kept": self._kept}
        tensors = {name: torch.from_numpy(values.copy()) for name, values in counts.items()}
        return {"tensors": tensors, "meta": {"label": self.label, "since": self._since}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.label, self._since = state["meta"]["label"], state["meta"]["since"]
        tensors = state["tensors"]
        self._classes, self._offered, self._kept = (
            tensors[name].numpy().copy() for name in ("classes", "offered", "kept")
        )
        self._labels, self._slots, self._away = [], [], []

    def _count(self) -> None:
        for labels, slots in self._away:
            self._labels += labels.tolist()
            self._slots.append(slots.cpu())
        if not self._labels:
            return
        new, kept = np.array(self._labels, np.int64), torch.cat(self._slots).numpy() >= 0
        self._labels, self._slots, self._away = [], [], []
        classes, place = np.unique(np.concatenate([self._classes, new]), return_inverse=True)
        offered, of_kept = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)
        known = place[: len(self._classes)]
        offered[known], of_kept[known] = self._offered, self._kept
        added = place[len(known) :]
        offered += np.bincount(added, minlength=len(classes))
        of_kept += np.bincount(added[kept], minlength=len(classes))
        self._classes, self._offered, self._kept = classes, offered, of_kept
