"""Keeper: rows in their columns, and the policy by which new ones come in and old ones go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch
from ..selection import ClassBalanced, Greedy, Keyed, Selection, Selector, rank
from ..selection.top_score import column_of_numbers
from .admission import Admission
from .columns import ColumnKind
from .incoming import Incoming
from .keeping.challenging import Challenging
from .keeping.jumping import Jumping
from .keeping.reservoir import Reservoir
from .look_ahead import Accepted
from .pool import StorePool, Union
from .table import Table
from .uniforms import Uniforms


class Offered(NamedTuple):
    """Rows offered to a store, of which it wants some.

    Attributes:
        n: rows offered.
        rows: int64, rising, those that it may keep.
        labels: of all rows offered, where the policy is balanced.
    """

    n: int
    rows: Tensor
    labels: list[int] | None


class Keeper:
    """What a `Store` does to keep rows; its arguments are explained there."""

    def __init__(
        self,
        capacity: int | None = None,
        *,
        budget: int | str | None = None,
        keep: Selector = Reservoir(),  # noqa: B008 (immutable)
        columns: Mapping[str, ColumnKind] | None = None,
        device: torch.device | str = "cpu",
        path: str | Path | None = None,
        seed: int = 0,
        fingerprint: str | None = None,
    ) -> None:
        if (capacity is None) == (budget is None):
            raise ValueError(f"capacity is {capacity} and budget is {budget}; expected exactly one of them")
        if capacity is not None:
            _check_capacity(capacity)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed is {seed!r}; expected a whole number")
        self._set_policy(keep)
        self._budget = None if budget is None else parse_bytes(budget)
        self._table = Table(columns or {}, torch.device(device), None if path is None else Path(path))
        self._seed = seed
        self.fingerprint = fingerprint
        self.audit: list[dict[str, Any]] = []
        """What was forgotten: one entry per call of `forget`."""
        self.skipped = 0
        """Rows addressed by `update` or `remove` that had been evicted."""
        self._books = Admission(capacity or 0, torch.Generator().manual_seed(seed), self._group is not None)
        # another stream of numbers for the same seed
        self._uniforms = Uniforms(torch.Generator().manual_seed(seed ^ 0x5DEECE66D))
        self._pool = StorePool(self._books, self._table)
        self._ranked_by = ""

    def _set_policy(self, keep: Selector) -> None:
        self._group: str | None = None
        policy = keep
        if isinstance(keep, ClassBalanced) and hasattr(keep.inner, "key"):
            policy, self._group = keep.inner, keep.column
        if isinstance(policy, type) or not isinstance(policy, (Keyed, Greedy)):
            raise TypeError(f"keep is {keep!r}; expected a policy with key(...) or select(...), such as Reservoir()")
        self.keep = keep
        self._keyed = policy if isinstance(policy, Keyed) else None
        self._jumping = policy if isinstance(policy, Jumping) else None
        self._challenging = policy if isinstance(policy, Challenging) else None
        self._equal = type(policy) is Reservoir  # rows of equal weight

    def __len__(self) -> int:
        return self._books.size

    @property
    def capacity(self) -> int:
        """Rows it can hold; 0 while a budget waits for the first batch."""
        return self._books.capacity

    @property
    def seen(self) -> int:
        """Rows ever offered to `add`."""
        return self._books.seen

    @property
    def ids(self) -> Tensor:
        """int64 (N,), copied: the ids of the rows held, by slot."""
        return torch.from_numpy(self._books.ids[: len(self)].copy())

    @property
    def device(self) -> torch.device:
        """Where the columns live."""
        return self._table.device

    @property
    def nbytes(self) -> int:
        """Bytes of the rows held: columns with their scales and offsets, ids, keys and ranks."""
        return self._table.nbytes(len(self)) + len(self) * self._book_bytes

    @property
    def _book_bytes(self) -> int:
        return 32 if self._group is not None else 24

    def check(self) -> None:
        """Raises if a number that is NaN or infinite came in. On the CPU `add` has refused it already; on a GPU, where
        looking means waiting, this is where it shows, and `state_dict`, `save` and `summary` call it.

        Raises:
            ValueError: it names the columns and ids.
        """
        self._table.check(len(self), self._books.ids)

    def complete(self, **arguments: Any) -> None:
        """Gives the policy what could not be known when it was made, such as the gradients of a model for
        `GradientDiversity`: ``store.complete(gradients=fn)``. What is held, and its scores, stay as they are.

        Raises:
            TypeError: the policy has no such argument.
        """
        self._set_policy(replace(cast(Any, self.keep), **arguments))

    @property
    def decides_by(self) -> tuple[str, ...]:
        """The columns that `wanted` reads."""
        return () if self._group is None else (self._group,)

    def wanted(self, n: int, columns: Mapping[str, Any]) -> Offered | None:
        """Which of the next ``n`` rows the store may keep, so that only these need to be brought here: `add` them with
        what this returns. Nothing changes.

        Args:
            n: rows that will be offered next.
            columns: what it `decides_by`, each (n, ...).

        Returns:
            None if it cannot tell: all rows are to be added.
        """
        if not self._table.columns or not self._equal:
            return None
        labels = None if self._group is None else self._labels(columns)
        rows = self._hopeful(n, labels)
        return None if rows is None else Offered(n, torch.from_numpy(rows), labels)

    def _hopeful(self, n: int, labels: list[int] | None) -> NDArray[np.int64] | None:
        if labels is not None:
            return self._books.contenders(labels)
        accepted = self._books.foreseen(n)
        return None if accepted is None else accepted.rows

    def add(self, batch: Mapping[str, Any], among: Offered | None = None) -> Tensor:
        """Offers rows to the store, which keeps those that its policy wants.

        Args:
            batch: columns by name, each (B, ...). An empty batch (B = 0) changes nothing.
            among: when ``batch`` holds only the rows that are `wanted` of those offered. The slots returned are of all
                rows offered.

        Returns:
            int64 (B,): the slot each row took; -1 for rows refused, or evicted by a later row of the same batch. Slots
            hold good until rows are removed; ids (`Rows.ids`) always do.

        Raises:
            ValueError: a batch of another shape, dtype or column set than the first; a number that is NaN or infinite
                in a row that may be kept (on a GPU `check` finds it later). The store is unchanged.
            TypeError: a column that is no tensor.
        """
        if self._equal and among is None:
            if self._group is None:
                done = self._books.copy_in(batch, self._table.columns)
            else:
                done = self._books.copy_in_labelled(batch, self._table.columns, self._group)
            if done is not None:
                if done[2]:
                    self._pool.changed()
                return done[0]
        fresh = not self._table.columns
        before = self._keep_generator.get_state() if self._jumping is None else None
        try:
            return self._add(batch, among)
        except Exception:
            self._undo(fresh, before)
            raise

    def _add(self, batch: Mapping[str, Any], among: Offered | None) -> Tensor:
        if among is not None:
            return self._add_wanted(batch, among)
        values, n = self._match(batch)
        if n == 0:
            return torch.empty(0, dtype=torch.int64)
        if self._keyed is None:
            return self._add_greedy(values, n)
        books = self._books
        labels = None if self._group is None else self._labels(values)
        weights = keys = accepted = contenders = None
        if self._jumping is None:
            keys = self._keys(values, n)
        elif (given := self._jumping.weight(values)) is not None:
            weights = given.cpu().double().numpy()
        elif labels is not None:
            contenders = books.contenders(labels)
        elif not self._shrinks(values):
            accepted = books.foreseen(n)
        if accepted is None:
            incoming = Incoming(self._table, values, n, contenders)
            self._make_room(values)  # moves nothing where rows can be copied as they are: they are of one width
            accepted = books.offer(n, labels, weights, keys)
        else:
            incoming = Incoming(self._table, values, n, accepted.rows)
            if len(accepted.rows):
                self._table.fit(values, books.size)
            books.take_in(accepted, n)
        return self._write(incoming, accepted, n)

    def _add_wanted(self, batch: Mapping[str, Any], among: Offered) -> Tensor:
        """`_add` for the wanted rows alone; the others count as seen."""
        values, n = self._match(batch)
        rows = self._hopeful(among.n, among.labels)
        if rows is None or not np.array_equal(rows, among.rows.numpy()) or n != len(rows):
            raise ValueError(f"among has {len(among.rows)} rows, batch {n}; expected the rows wanted by this store now")
        incoming = Incoming(self._table, values, n)
        self._make_room(values)
        accepted = self._books.offer(among.n, among.labels)
        return self._write(incoming, accepted, among.n, rows)

    def _add_greedy(self, values: Batch, n: int) -> Tensor:
        incoming = Incoming(self._table, values, n)
        self._afford(values)
        pool = Union(self._pool, values, n, self.seen)
        if len(self) and self._challenging is not None:
            accepted = self._challenging.challenge(pool, self.capacity, generator=self._keep_generator)
            if accepted is not None:
                self._table.fit(values, len(self))
                self._books.admit(accepted, n)
                return self._write(incoming, accepted, n)
        if len(self) + n <= self.capacity and "key" not in getattr(self.keep, "needs", ()):
            selection = Selection(torch.arange(pool.size))
        else:
            selection = rank(self.keep, pool, self.capacity, generator=self._keep_generator)
            self._check_selection(selection.index, pool.size, self.capacity)
        self._table.fit(values, len(self))
        return self._replace(selection.index, incoming, n, keys=selection.score)

    def _replace(
        self,
        index: Tensor,
        incoming: Incoming | None,
        n: int,
        keys: Tensor | None = None,
        ranks: Tensor | None = None,
    ) -> Tensor:
        """Keeps the rows ``index`` of those held and, after them, of ``n`` that arrive; returns the slots of these.

        ``keys`` and ``ranks`` belong to ``index``; where there are none, rows keep theirs.
        """
        books, size, at = self._books, len(self), index.numpy()
        kept = np.zeros(size + n, bool)
        kept[at] = True
        held, new = np.flatnonzero(kept[:size]), np.flatnonzero(kept[size:])
        gone = np.flatnonzero(~kept[:size])
        free = np.concatenate([gone, np.arange(size, size + max(0, len(new) - len(gone)))])
        taken = free[: len(new)]
        keys_of = np.zeros(size + n)
        if keys is not None:
            keys_of[at] = keys.cpu().double().numpy()
        slots = torch.full((n,), -1)
        if incoming is not None:
            accepted = Accepted(new, taken, keys_of[size + new])
            books.place(taken, new + books.seen, accepted.keys)
            slots = self._write(incoming, accepted, n)
        if keys is not None:
            books.keys[held] = keys_of[held]
        if ranks is not None:
            ranks_of = np.zeros(size + n, np.int64)
            ranks_of[at] = ranks.numpy()
            books.rerank(np.concatenate([held, taken]), ranks_of[np.concatenate([held, size + new])])
        books.seen += n
        if len(new):
            books.recount(None if self._group is None else self._labels_held())
        # the new rows took the first of the slots that became free, so that none of them moves here
        self._take_out(gone[len(new) :])
        self._pool.changed()
        return slots

    @property
    def _keep_generator(self) -> torch.Generator:
        return self._books.uniforms.generator

    def _match(self, batch: Mapping[str, Any]) -> tuple[Batch, int]:
        """The batch's columns, if they fit the store, and the number of rows; the first batch makes the columns."""
        values, n = self._table.match(batch)
        if n and not self._table.columns:
            if self._group is not None and self._group not in values:
                raise ValueError(f"keep is {self.keep!r}, but the batch has only the columns {sorted(values)}")
            self._table.bind(values, self.capacity)
            if not self.capacity:
                self._set_capacity(self._affordable({}))
        return values, n

    def _unbind(self) -> None:
        self._table.columns.clear()
        if self._budget is not None:
            self._books.resize(0)

    def _undo(self, fresh: bool, before: Tensor | None) -> None:
        """Forgets what was done for a batch that is refused: the columns, if it made them, and random numbers."""
        if before is not None:
            self._keep_generator.set_state(before)
        if fresh:
            self._unbind()

    def _affordable(self, values: Mapping[str, Tensor]) -> int:
        """Rows that fit the budget when there is room for such as ``values``."""
        assert self._budget is not None
        row = self._table.row_bytes(values) + self._book_bytes
        if row > self._budget:
            raise ValueError(f"budget is {self._budget} bytes but one row needs {row}; expected room for at least one")
        return self._budget // row

    def _shrinks(self, values: Mapping[str, Tensor]) -> bool:
        """Whether the budget forces it to give up rows where columns must widen for ``values``."""
        return self._budget is not None and self._affordable(values) < self.capacity

    def _afford(self, values: Mapping[str, Tensor]) -> None:
        """Gives up rows, if it `_shrinks`."""
        if self._shrinks(values):
            budget = self._budget
            self.resize(self._affordable(values))
            self._budget = budget

    def _make_room(self, values: Batch) -> None:
        """Lets columns widen for ``values`` and keeps to the budget."""
        self._afford(values)
        self._table.fit(values, len(self))

    def _write(self, incoming: Incoming, accepted: Accepted, n: int, wanted: NDArray[np.int64] | None = None) -> Tensor:
        """Puts accepted rows, of ``n`` offered, in their slots, and returns the slots of all; only ``wanted`` came."""
        slots = np.empty(n, np.int64)
        slots.fill(-1)  # np.full takes several times as long
        if len(accepted.rows):
            slots[accepted.rows] = accepted.slots
            if wanted is not None:
                accepted = accepted._replace(rows=np.searchsorted(wanted, accepted.rows))
            incoming.write(accepted)
            self._pool.changed()
        return torch.from_numpy(slots)

    def _take_out(self, slots: NDArray[np.int64]) -> None:
        """Rows in distinct slots leave; the last rows move into the holes, and what was freed is overwritten."""
        if not len(slots):
            return
        size = len(self)
        source, target = self._books.remove(slots)
        self._table.move(source, target)
        self._table.clear(len(self), size)
        self._pool.changed()

    def _set_capacity(self, capacity: int) -> None:
        self._books.resize(capacity)
        self._table.resize(capacity, len(self))

    def _labels(self, values: Mapping[str, Tensor]) -> list[int]:
        assert self._group is not None
        labels = values.get(self._group)
        if labels is not None and labels.dtype is torch.int64 and labels.dim() == 1:
            return labels.tolist()
        labels = column_of_numbers(values, self._group)
        if labels.is_floating_point() or labels.is_complex():
            raise ValueError(f"column {self._group!r} is {labels.dtype}; expected integers that name a class")
        return labels.tolist()

    def _labels_held(self) -> NDArray[np.int64]:
        return np.array(self._labels(self._pool), np.int64)

    def _keys(self, values: Batch, n: int, ids: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        arrival = torch.arange(self.seen, self.seen + n) if ids is None else torch.from_numpy(ids[:n])
        assert self._keyed is not None
        keys = self._keyed.key({**values, "id": arrival}, self._keep_generator)
        given: NDArray[np.float64] = keys.detach().cpu().double().numpy()
        if given.shape != (n,) or np.isnan(given).any():
            raise ValueError(f"{self.keep!r} gave keys of shape {given.shape}, or NaN; expected {n} numbers")
        return given

    def _check_selection(self, index: Tensor, n: int, k: int) -> None:
        chosen = index.numpy()
        if len(chosen) > k or (
            len(chosen) and (chosen.min() < 0 or chosen.max() >= n or np.bincount(chosen).max() > 1)
        ):
            raise ValueError(f"the selector chose {index.tolist()[:8]}...; expected at most {k} distinct rows of {n}")

    def resize(self, capacity: int, keep: Selector | None = None) -> None:
        """Changes how many rows it can hold, and what it keeps.

        Growing keeps the thresholds: see `remove`. Shrinking gives up the rows the policy values least. With ``keep``,
        the new policy ranks the rows held now, not the stream they came from, of which no more is known.

        Raises:
            ValueError: ``capacity`` below 1, or columns that ``keep`` finds fault with; nothing is changed.
            TypeError: ``keep`` is no policy.
        """
        _check_capacity(capacity)
        held, before = vars(self).copy(), self._keep_generator.get_state()
        try:
            if keep is not None:
                self._change_policy(keep)
            surplus = self._surplus(capacity)
        except Exception:
            vars(self).update(held)
            self._keep_generator.set_state(before)
            raise
        self._budget = None
        self._take_out(surplus)
        self._set_capacity(capacity)

    def _surplus(self, capacity: int) -> NDArray[np.int64]:
        """Slots of the rows that a store of ``capacity`` rows would give up."""
        if len(self) <= capacity:
            return np.empty(0, np.int64)
        if self._keyed is not None:
            return self._books.evict(len(self) - capacity)
        kept = rank(self.keep, self._pool, capacity, generator=self._keep_generator).index
        self._check_selection(kept, len(self), capacity)
        return np.setdiff1d(np.arange(len(self)), kept.numpy())

    def _change_policy(self, keep: Selector) -> None:
        previous = self._books
        self._set_policy(keep)
        books = Admission(previous.capacity, self._keep_generator, self._group is not None)
        slots = np.arange(previous.size)
        keys = np.full(previous.size, np.nan)  # unknown, to a policy that gives them as it ranks
        if self._keyed is not None and previous.size:
            keys = self._keys({name: self._pool[name] for name in self._table.columns}, previous.size, previous.ids)
        books.place(slots, previous.ids[: previous.size], keys)
        books.seen = previous.seen
        self._books = books
        self._pool = StorePool(books, self._table)
        books.recount(self._labels_held() if self._group is not None and previous.size else None)


def parse_bytes(budget: int | str) -> int:
    """Bytes of a budget such as ``1000``, ``"50MB"`` (10**6 each) or ``"1.5GiB"`` (2**30 each).

    >>> parse_bytes("50MB"), parse_bytes("1KiB")
    (50000000, 1024)
    """
    if isinstance(budget, int) and budget > 0:
        return budget
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*", str(budget))
    if not match or float(match[1]) == 0 or (match[3] and not match[2]):
        raise ValueError(f'budget is {budget!r}; expected a number of bytes above 0, or text such as "50MB" or "1GiB"')
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " "))


def _check_capacity(capacity: object) -> None:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
        raise ValueError(f"capacity is {capacity!r}; expected a whole number of rows of at least 1")
