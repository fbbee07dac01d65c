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

    It is given what the store is given and what that returns; counting waits until there is something to count. Begin
    with an empty store: rows from before are not known as offered.

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
        self._labels: list[int] = []
        self._slots: list[int] = []
        self._away: list[tuple[Tensor, Tensor]] = []
        self._classes, self._offered, self._kept = (np.zeros(0, np.int64) for _ in range(3))

    def note(self, batch: Mapping[str, Tensor], slots: Tensor | None) -> None:
        """Notes a batch, and the slots (B,) that ``Store.add`` returned for it; nothing where labels name no classes.

        Raises:
            ValueError: not as many labels as slots.
        """
        labels = batch.get(self.label)
        if self._named is None and labels is not None:  # once: a store takes no other labels later
            self._named = slots is not None and labels.dim() == 1 and not labels.is_floating_point()
        if not self._named or labels is None or slots is None:
            return
        if labels.is_cpu:  # a list costs a third of a copy
            self._labels += labels.tolist()
            self._slots += slots.tolist()
            if len(self._labels) != len(self._slots):
                self._labels, self._slots = [], []
                raise ValueError(f"slots has {len(slots)} rows; expected {len(labels)}, as column {self.label!r} has")
        else:  # to look at them now would mean waiting for the device
            self._away.append((labels.detach().clone(), slots))
        if len(self._labels) > _PENDING or len(self._away) > _PENDING:
            self._count()

    def table(self, held: Tensor) -> dict[int, Kept]:
        """What became of the rows of each class, given the classes (N,) of the rows that are there now."""
        self._count()
        found = torch.unique(held.cpu(), return_counts=True)
        there = dict(zip(*(part.tolist() for part in found), strict=True))
        columns = (part.tolist() for part in (self._classes, self._offered, self._kept))
        return {
            of: Kept(offered, offered - kept, kept - there.get(of, 0), there.get(of, 0))
            for of, offered, kept in zip(*columns, strict=True)
        }

    def summary(self, held: Tensor) -> dict[str, dict[str, int]]:
        """`table`, JSON-able."""
        return {str(of): asdict(kept) for of, kept in self.table(held).items()}

    def state_dict(self) -> dict[str, Any]:
        """The counts: ``"tensors"`` by name, and ``"meta"``."""
        self._count()
        counts = {"classes": self._classes, "offered": self._offered, "kept": self._kept}
        tensors = {name: torch.from_numpy(values.copy()) for name, values in counts.items()}
        return {"tensors": tensors, "meta": {"label": self.label}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken."""
        self.label = state["meta"]["label"]
        tensors = state["tensors"]
        self._classes, self._offered, self._kept = (
            tensors[name].numpy().copy() for name in ("classes", "offered", "kept")
        )
        self._labels, self._slots, self._away = [], [], []

    def _count(self) -> None:
        away, self._away = self._away, []
        for labels, slots in away:
            self._labels += labels.tolist()
            self._slots += slots.tolist()
        if not self._labels:
            return
        new, kept = np.array(self._labels, np.int64), np.array(self._slots, np.int64) >= 0
        self._labels, self._slots = [], []
        classes, place = np.unique(np.concatenate([self._classes, new]), return_inverse=True)
        offered, of_kept = np.zeros(len(classes), np.int64), np.zeros(len(classes), np.int64)
        known = place[: len(self._classes)]
        offered[known], of_kept[known] = self._offered, self._kept
        added = place[len(known) :]
        offered += np.bincount(added, minlength=len(classes))
        of_kept += np.bincount(added[kept], minlength=len(classes))
        self._classes, self._offered, self._kept = classes, offered, of_kept
