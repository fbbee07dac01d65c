"""Store: a bounded memory of rows."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch, batch_size
from ..retrievers.nearest import Nearest
from ..selection import ClassBalanced, Greedy, Keyed, Pool, Selection, Selector, Uniform, rank
from ..selection.balanced import equal_shares, groups_of
from ..selection.top_score import column_of_numbers
from .admission import Admission
from .columns import ColumnKind, Storage
from .files import Save, write_save
from .incoming import Incoming
from .keeping.challenging import Challenging
from .keeping.fifo import Fifo
from .keeping.jumping import Jumping
from .keeping.reservoir import Reservoir
from .look_ahead import Accepted
from .pool import StorePool, Union
from .rows import Rows
from .spec import build
from .table import Table, describe, expected
from .uniforms import Uniforms

Address: TypeAlias = Rows | Tensor | Iterable[int]
"""Rows as drawn, or their ids."""

_UNIFORM = Uniform()


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


class Store:
    """A bounded memory of rows: a policy decides what is kept, selectors decide what is recalled.

    The first batch fixes the columns (names, shapes, dtypes). The store owns two generators seeded from ``seed``, one
    for keeping and one for drawing, so that what is recalled never changes what is kept; the global random state is not
    touched. With a keyed policy other than one that reads columns (`Reservoir`, `Fifo`), nothing waits for a GPU.

    Threads that share a store while one of them changes it need a lock of their own around every call, those that only
    read included: without it, a row may come out with columns of two. Processes share it by its saves: `load` finds a
    whole one whenever it is called, also while another process saves to the same folder.

    Args:
        capacity: rows it can hold.
        budget: bytes it may use instead, as a number or text such as ``"50MB"`` or ``"1GiB"``; columns, keys and ids
            count. The first batch turns it into a capacity.
        keep: what stays when it is full: `Reservoir`, `Fifo`, `TopScore`, `WeightedReservoir`, `ClassBalanced` of one
            of them, or any `Keyed` or `Greedy` of your own.
        columns: how columns are stored (`Half`, `BFloat16`, `Quantized`, `Growable`, `Ragged`); `Plain` by default.
        device: where the columns live. Ids and keys stay on the CPU.
        path: a folder for memory-mapped columns, when they do not fit in RAM. Scratch, not a save.
        seed: of its generators.
        fingerprint: names what computed the features (`memreplay.fingerprint` of an encoder), saved with the rows.

    Raises:
        ValueError: not exactly one of ``capacity`` and ``budget``, or one that leaves no room for a row.
        TypeError: ``keep`` is no selector, or a column is no column kind.

    >>> store = Store(capacity=100, seed=0)
    >>> slots = store.add({"feature": torch.randn(8, 4), "label": torch.arange(8)})
    >>> rows = store.draw(5)
    >>> len(store), len(rows), rows["feature"].shape
    (8, 5, torch.Size([5, 4]))
    """

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

    # -- what it is ---------------------------------------------------------------------------------------------

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

    def summary(self) -> dict[str, Any]:
        """What the store holds, JSON-able: rows, bytes, policy, columns, rows per class where there is a label."""
        self.check()
        summary: dict[str, Any] = {
            "rows": len(self),
            "capacity": self.capacity,
            "seen": self.seen,
            "bytes": self.nbytes,
            "keep": repr(self.keep),
            "columns": self._table.schema(),
            "fingerprint": self.fingerprint,
            "skipped": self.skipped,
            "forgotten": len(self.audit),
        }
        label = self._group or "label"
        if self._table.schema().get(label, {}).get("shape") == []:
            values, counts = torch.unique(self._pool[label], return_counts=True)
            summary["classes"] = dict(zip(values.tolist(), counts.tolist(), strict=True))
        return summary

    def __repr__(self) -> str:
        return f"Store({len(self)} of {self.capacity} rows, keep={self.keep!r}, columns={list(self._table.columns)})"

    # -- keeping ------------------------------------------------------------------------------------------------

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
            return self._books.contenders(labels).rows
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
            elif (opened := self._table.open(batch)) is not None and opened[0]:
                given = batch[self._group]
                labels = given.numpy() if given.dtype is torch.int64 and given.dim() == 1 else self._labels(batch)
                done = self._books.copy_in_labelled(opened, labels)
            else:
                done = None
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
            incoming = Incoming(self._table, values, n, None if contenders is None else contenders.rows)
            self._make_room(values)  # moves nothing where rows can be copied as they are: they are of one width
            accepted = books.offer(n, labels, weights, keys, contenders)
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

    def consolidate(self, keep: Selector, k: int | None = None, candidates: Mapping[str, Any] | None = None) -> Tensor:
        """Keeps the best ``k`` of the rows held and the ``candidates``, by a selector that looks at all of them.

        This is where `Herding` and `KCenter` run, at the end of a session: with ``ClassBalanced(Herding("feature"))``
        every class gets an equal share of ``k``. The order in which rows were chosen is written to their ``rank``;
        where a class holds only rows ranked by the same selector before, it is cut to a prefix of that order, as iCaRL
        (Rebuffi et al., CVPR 2017) does, and its features are not looked at again.

        Args:
            keep: what to choose by.
            k: rows to keep; the capacity if None.
            candidates: rows that may join, with the store's columns.

        Returns:
            int64 (C,): slots of the candidates, -1 where not kept; empty without candidates.

        Raises:
            ValueError: ``k`` outside 1 .. capacity, or candidates that do not fit the store, which is unchanged.
        """
        fresh = not self._table.columns
        before = self._keep_generator.get_state()
        values: Batch = {}
        n = 0
        incoming = keys = None
        try:
            if candidates is not None:
                values, n = self._match(candidates)
            if not 1 <= (self.capacity if k is None else k) <= self.capacity or not self._table.columns:
                raise ValueError(f"k is {k}; expected 1 to {self.capacity} rows, the capacity")
            if n:
                if self._group is not None:
                    self._labels(values)
                incoming = Incoming(self._table, values, n)
                self._afford(values)
            pool = Union(self._pool, values, n, self.seen, forget_keys=repr(keep) != repr(self.keep))
            index, ranks, scores = self._ranked(keep, min(self.capacity, k or self.capacity), pool)
            if n:
                arrived = scores[len(self) :] if self._keyed is None else torch.from_numpy(self._keys(values, n))
                keys = torch.cat([torch.from_numpy(self._books.keys[: len(self)]), arrived])[index]
        except Exception:
            self._undo(fresh, before)
            raise
        if n:
            self._table.fit(values, len(self))
        self._ranked_by = repr(keep)
        return self._replace(index, incoming, n, keys=keys, ranks=ranks)

    def _ranked(self, keep: Selector, k: int, pool: Pool) -> tuple[Tensor, Tensor, Tensor]:
        """Rows to keep, the rank of each within its class, and the scores of all rows of the pool; NaN where they are
        not known, or of another selector than the store's."""
        inner, groups = keep, [torch.arange(pool.size)]
        if isinstance(keep, ClassBalanced):
            inner, groups = keep.inner, list(groups_of(pool, keep.column).values())
        ranks = np.full(pool.size, -1)
        if self._ranked_by == repr(keep):
            ranks[: len(self)] = self._books.ranks[: len(self)]
        chosen = [torch.empty(0, dtype=torch.int64)]
        scores = torch.full((pool.size,), torch.nan, dtype=torch.float64)
        for member, share in zip(
            groups, equal_shares([len(group) for group in groups], k, self._keep_generator), strict=True
        ):
            known = ranks[member.numpy()]
            if (known >= 0).all():
                chosen.append(member[torch.from_numpy(known).argsort(stable=True)[:share]])
            elif share:
                selection = rank(inner, pool.subset(member), share, generator=self._keep_generator)
                self._check_selection(selection.index, len(member), share)
                chosen.append(member[selection.index])
                if selection.score is not None and repr(keep) == repr(self.keep):
                    scores[chosen[-1]] = selection.score.cpu().double()
        return torch.cat(chosen), torch.cat([torch.arange(len(part)) for part in chosen]), scores

    # -- recalling ----------------------------------------------------------------------------------------------

    def draw(self, n: int, by: Selector = _UNIFORM, query: Mapping[str, Tensor] | None = None) -> Rows:
        """``n`` distinct rows, copied; all of them if it holds fewer.

        Args:
            n: rows to draw.
            by: the selector; uniform draws cost O(n) whatever the store holds.
            query: for selectors that compare rows with it, such as `Nearest`: ``{"feature": (Q, D)}``. A row's score is
                its best over the queries.

        Raises:
            ValueError: ``n`` is negative, or the selector finds fault with the query or the columns.
        """
        if n < 0:
            raise ValueError(f"n is {n}; expected a number of rows of at least 0")
        if type(by) is Uniform:
            return self._pool.draw(n, self._uniforms)
        generator = self._uniforms.generator
        before = generator.get_state()
        try:
            selection = rank(by, self._pool, n, query=query, generator=generator)
        except Exception:
            generator.set_state(before)
            raise
        columns, ids = self._pool.read(selection.index)
        return Rows(columns, selection.index, ids, selection.score, selection.weight)

    def search(self, query: Mapping[str, Tensor], k: int, by: Nearest | None = None) -> tuple[Tensor, Tensor]:
        """The ``k`` best rows for each query.

        Args:
            query: ``{"feature": (Q, D)}``.
            k: rows per query; all of them if the store holds fewer.
            by: the metric; cosine similarity to the query's column if None.

        Returns:
            scores (Q, k), best first, and slots, int64 (Q, k).
        """
        if k < 1:
            raise ValueError(f"k is {k}; expected at least 1 row per query")
        if by is None:
            if len(query) != 1:
                raise ValueError(f"query has columns {sorted(query)}; expected one, or by=Nearest(column)")
            by = Nearest(next(iter(query)))
        scores, slots = by.search(self._pool, query, k)
        return scores, slots

    def rows(self, ids: Address | None = None) -> Rows:
        """The rows with the given ids, in that order, or all rows by slot; copied.

        Raises:
            KeyError: an id the store does not hold.
        """
        if ids is None:
            index = torch.arange(len(self))
        else:
            slots, alive = self._locate(ids)
            if not alive.all():
                raise KeyError(f"{int((~alive).sum())} of the {len(alive)} rows asked for are no longer in the store")
            index = torch.from_numpy(slots)
        columns, ids_found = self._pool.read(index)
        return Rows(columns, index, ids_found)

    # -- changing what is there -----------------------------------------------------------------------------------

    def update(self, rows: Address, **columns: Any) -> int:
        """Overwrites columns of some rows, such as a score or a logit computed anew.

        Rows evicted since are passed over and counted in `skipped`. Keys do not change: who is kept later depends on
        what a row was when it arrived. A new class label moves the row to that class.

        Args:
            rows: as drawn, or their ids (n,).
            columns: new values, (n, ...) each.

        Returns:
            How many rows were updated.

        Raises:
            ValueError: a column the store does not have, or values that do not fit it; nothing is changed.
        """
        slots, alive = self._locate(rows)
        converted: Batch = {}
        encoded = {}
        for name, given in columns.items():
            column = self._table.column(name)
            values = column.kind.convert(name, given)
            n = batch_size({name: values}, "columns")
            if not column.accepts(values) or n != len(alive):
                raise ValueError(
                    f"column {name!r} came with {n} {describe(values)}; expected {len(alive)} {expected(column)}"
                )
            converted[name], encoded[name] = values, column.encode(values, None)
        if self._budget is not None:
            self._affordable(converted)
        at, source = slots[alive], np.flatnonzero(alive)
        for name, rows_encoded in encoded.items():
            column = self._table.columns[name]
            column.fit(converted[name], len(self))
            column.write(at, rows_encoded, source)
        if self._group in encoded:
            self._books.recount(self._labels_held())
        self.skipped += int((~alive).sum())
        self._pool.changed()
        self._afford({})
        return len(at)

    def remove(self, rows: Address) -> int:
        """Removes rows, given as drawn or by their ids; those evicted before are counted in `skipped`.

        The slots freed are refilled only by rows that would have been kept anyway (keys above every key lost so far):
        what a reservoir holds stays a uniform sample of its stream, only a smaller one.

        Returns:
            How many rows were removed.
        """
        slots, alive = self._locate(rows)
        self.skipped += int((~alive).sum())
        gone = np.unique(slots[alive])
        self._take_out(gone)
        return len(gone)

    def forget(self, **where: int | Iterable[int]) -> int:
        """Removes every row that has the given value in a column: ``forget(label=3)``, ``forget(source=[1, 2])``.

        Nothing of the rows stays in memory or in the next save, which replaces the last one; `audit` gets one line that
        says what was asked for and how many rows went (0 where there are none). With `ClassBalanced`, the class starts
        anew should it come back.

        Raises:
            ValueError: no column is named, or one the store does not have.
            TypeError: a value that is no whole number.
        """
        if not where:
            raise ValueError("forget was called without a column; expected one such as label=3")
        hit = np.ones(len(self), bool)
        values: dict[str, list[int]] = {}
        for name, value in where.items():
            self._table.column(name)
            values[name] = _whole_numbers(name, value)
            hit &= np.isin(column_of_numbers(self._pool, name).cpu().numpy(), values[name])
        gone = np.flatnonzero(hit)
        self._take_out(gone)
        self._table.clear(len(self), len(self))  # what is left of rows evicted before
        if self._group is not None and list(values) == [self._group]:
            self._books.drop(values[self._group])
        self.audit.append({"where": values, "rows": len(gone), "seen": self.seen})
        return len(gone)

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

    def refresh(
        self,
        encoder: Callable[[Tensor], Tensor],
        read: str = "input",
        write: str = "feature",
        batch_size: int = 256,
    ) -> None:
        """Recomputes a stale column from a stored one: ``feature = encoder(input)``.

        The new column replaces the old one when all of it is there, so an encoder that fails changes nothing, and its
        width may differ.

        Args:
            encoder: (B, ...) -> (B, ...); called without gradients, on the store's device, in whatever mode it is in.
            read: the column given to it.
            write: the column it fills.
            batch_size: rows per call.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1 row per call")
        source, old = self._table.column(read), self._table.column(write)
        fresh: Storage | None = None
        with torch.no_grad():
            for start in range(0, len(self), batch_size):
                rows = slice(start, min(start + batch_size, len(self)))
                values = old.kind.convert(write, encoder(source.read(rows)))
                if values.shape[0] != rows.stop - rows.start:
                    raise ValueError(f"encoder gave {values.shape[0]} rows; expected {rows.stop - rows.start}")
                if fresh is None:
                    fresh = old.kind.bind(write, values, self.capacity, self._table.device, self._table.folder)
                fresh.fit(values, start)
                fresh.write(rows, fresh.encode(values, None))
        if fresh is None:
            return
        self._table.columns[write] = fresh
        self._pool.changed()
        try:
            labels = self._labels_held() if write == self._group else None
            self._afford({})
        except ValueError:
            self._table.columns[write] = old
            self._pool.changed()
            raise
        if labels is not None:
            self._books.recount(labels)

    def merge(self, other: Store) -> None:
        """Takes in the rows of another store: exactly what one store would hold that had seen both streams.

        The highest keys of both stay. Rows of ``other`` get new ids, as if they had arrived after those seen here.

        Raises:
            TypeError: the policy has no keys.
            ValueError: another policy or other columns, or stores that drew the same random keys because they were made
                with the same seed, of which no uniform sample can come. The store is unchanged.
        """
        if self._keyed is None:
            raise TypeError(f"keep is {self.keep!r}; only stores whose rows have keys can be merged exactly")
        mine, theirs = repr(self.keep), repr(other.keep)
        if mine != theirs:
            raise ValueError(f"the other store keeps by {theirs}; expected {mine}")
        books, n = self._books, len(other)
        ids, keys = other._books.ids[:n], other._books.keys[:n]
        if self._jumping is not None and np.isin(keys[keys > -np.inf], books.keys[: len(self)]).any():
            raise ValueError(f"both stores drew the same keys; their seeds are {self._seed} and {other._seed}")
        # the keys of a Fifo are arrival numbers, which go on from those seen here
        later = float(self.seen) if isinstance(self._keyed, Fifo) else 0.0
        encoded = self._rows_of(other) if n else {}
        capacity, start = self.capacity, len(self)
        if n:
            self._set_capacity(max(capacity, start + n))
            slots = np.arange(start, start + n)
            books.place(slots, ids + self.seen, keys + later)
            self._table.write(slice(start, start + n), encoded)
            self._pool.changed()
            books.recount(None if self._group is None else self._labels_held())
        books.join(other._books, later)
        self._take_out(books.below_threshold())
        self._take_out(books.evict(max(0, len(self) - capacity)))
        if n:
            self._set_capacity(capacity)

    def _rows_of(self, other: Store) -> dict[str, Any]:
        """All rows of another store as they will be stored here; its columns must be the same."""
        fresh = not self._table.columns
        try:
            values, _ = self._match(other._table.read(slice(0, len(other))))
            mine, theirs = self._table.schema(), other._table.schema()
            if mine != theirs:
                raise ValueError(f"the other store has columns {theirs}; expected {mine}")
        except (TypeError, ValueError):
            if fresh:
                self._unbind()
            raise
        self._make_room(values)
        return {name: column.encode(values[name], None, trusted=True) for name, column in self._table.columns.items()}

    # -- state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything the future depends on: ``{"tensors": ..., "meta": ...}``, copied; ``meta`` is JSON-able."""
        state = self._state()
        return {"tensors": {name: tensor.clone() for name, tensor in state["tensors"].items()}, "meta": state["meta"]}

    def _state(self) -> dict[str, Any]:
        self.check()
        tensors = {f"books.{name}": tensor for name, tensor in self._books.state().items()}
        now, block, at = self._uniforms.state()
        tensors.update({"draw_generator": now, "draw_generator.block": block, "draw_generator.at": torch.tensor([at])})
        tensors.update({f"columns.{name}": tensor for name, tensor in self._table.tensors(len(self)).items()})
        meta = {
            "kind": "Store",
            "keep": repr(self.keep),
            "columns": self._table.schema(),
            "kinds": {name: repr(kind) for name, kind in self._table.kinds.items()},
            "capacity": self.capacity,
            "budget": self._budget,
            "seed": self._seed,
            "ranked_by": self._ranked_by,
            "skipped": self.skipped,
            "audit": list(self.audit),
            "fingerprint": self.fingerprint,
        }
        return {"tensors": tensors, "meta": meta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken; on the same machine bit for bit.

        Raises:
            ValueError: the state is of another policy, capacity, encoder or other columns, or is damaged; the store is
                unchanged.
        """
        try:
            meta, tensors = state["meta"], state["tensors"]
            self._check_meta(meta)
            other = Store(
                meta["capacity"] or None,
                budget=None if meta["capacity"] else meta["budget"],
                keep=self.keep,
                columns=self._table.kinds,
                device=self._table.device,
                path=self._table.folder,
                seed=meta["seed"],
            )
            other._restore(meta, tensors)
            rest = meta["budget"], meta["ranked_by"], meta["skipped"], list(meta["audit"]), meta["fingerprint"]
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"the state of the store is damaged: {error!r}") from error
        self._books, self._table, self._pool = other._books, other._table, other._pool
        self._uniforms, self._seed = other._uniforms, other._seed
        self._budget, self._ranked_by, self.skipped, self.audit, self.fingerprint = rest

    def _check_meta(self, meta: Mapping[str, Any]) -> None:
        if meta.get("kind") != "Store":
            raise ValueError(f"the state is of a {meta.get('kind')!r}; expected a 'Store'")
        if _policy_name(meta["keep"]) != _policy_name(repr(self.keep)):
            raise ValueError(f"the state keeps by {meta['keep']}; this store keeps by {self.keep!r}")
        if self.capacity and meta["capacity"] != self.capacity:
            raise ValueError(f"the state has capacity {meta['capacity']}; this store has {self.capacity}")
        if self.fingerprint is not None and meta["fingerprint"] != self.fingerprint:
            raise ValueError(f"the state has encoder {meta['fingerprint']}; this store has {self.fingerprint}")
        here = self._table.schema()
        if here and meta["columns"] and here.keys() != meta["columns"].keys():
            raise ValueError(f"the state has columns {sorted(meta['columns'])}; this store has {sorted(here)}")
        for name, schema in meta["columns"].items():
            if here and here[name] != schema:
                raise ValueError(f"the state has column {name!r} as {schema}; this store has {here[name]}")
        kinds = {name: schema["kind"] for name, schema in meta["columns"].items()} | meta["kinds"]
        for name, kind in kinds.items():
            own = repr(self._table.kind(name))
            if kind != own:
                raise ValueError(f"the state stores column {name!r} as {kind}; this store as {own}")

    def _restore(self, meta: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Fills a store just made; the caller drops it if this fails."""
        size = len(tensors["books.id"])
        self._table.bind_schema(meta["columns"], self.capacity)
        if isinstance(tensors, Save):  # straight into the columns, which hold nothing yet
            tensors = tensors.read({f"columns.{name}": rows for name, rows in self._table.tensors(size).items()})
        self._table.restore(_under("columns.", tensors), size)
        labels = None
        if self._group is not None and self._table.columns:
            labels = column_of_numbers({"label": self._table.column(self._group).view(size)}, "label").cpu().numpy()
        self._books.restore(_under("books.", tensors), labels)
        (at,) = tensors["draw_generator.at"].tolist()
        self._uniforms.restore(tensors["draw_generator"], tensors["draw_generator.block"], at)

    def save(self, folder: str | Path) -> None:
        """Writes the store to a folder: safetensors and a manifest, never pickle.

        The last save stays whole until the new one is complete on disk, whenever the process dies; then it is deleted.

        Raises:
            OSError: the folder cannot be written; the last save is untouched.
        """
        state = self._state()
        write_save(Path(folder), state["tensors"], state["meta"])

    @staticmethod
    def load(
        folder: str | Path,
        *,
        keep: Selector | None = None,
        columns: Mapping[str, ColumnKind] | None = None,
        device: torch.device | str = "cpu",
        path: str | Path | None = None,
        fingerprint: str | None = None,
    ) -> Store:
        """Reads a store written by `save`, checked byte for byte.

        Args:
            folder: where it was saved.
            keep: its policy, needed only if that is a class of your own or holds a function.
            columns: likewise, for column kinds of your own.
            device: where the columns shall live.
            path: see `Store`.
            fingerprint: if given, the encoder that the store must have been made with.

        Raises:
            FileNotFoundError: there is no save.
            ValueError: it is damaged, of a newer version, or of another encoder.
        """
        with Save(Path(folder)) as save:
            if save.meta.get("kind") != "Store":
                raise ValueError(f"{folder} holds a {save.meta.get('kind')!r}; expected a 'Store'")
            state = {"tensors": save, "meta": save.meta}
            return Store.of_state(state, keep=keep, columns=columns, device=device, path=path, fingerprint=fingerprint)

    @staticmethod
    def of_state(
        state: Mapping[str, Any],
        *,
        keep: Selector | None = None,
        columns: Mapping[str, ColumnKind] | None = None,
        device: torch.device | str = "cpu",
        path: str | Path | None = None,
        fingerprint: str | None = None,
    ) -> Store:
        """The store that `state_dict` was taken of; the arguments are those of `load`.

        Raises:
            ValueError: the state is damaged, or of another encoder.
        """
        try:
            meta = state["meta"]
            if keep is None:
                keep = build(meta["keep"], "keep")
            if columns is None:
                columns = {name: build(kind, "columns") for name, kind in meta["kinds"].items()}
            capacity, budget, seed = meta["capacity"] or None, meta["budget"], meta["seed"]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"the state of the store is damaged: {error!r}") from error
        store = Store(
            capacity,
            budget=None if capacity else budget,
            keep=keep,
            columns=columns,
            device=device,
            path=path,
            seed=seed,
            fingerprint=fingerprint,
        )
        store.load_state_dict(state)
        return store

    def __deepcopy__(self, memo: dict[int, Any]) -> Store:
        """A store with rows of its own, in memory, that goes on as this one does."""
        twin = Store.of_state(self._state(), keep=self.keep, columns=self._table.kinds, device=self._table.device)
        memo[id(self)] = twin
        return twin

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Store cannot be pickled or copied; expected save(folder), state_dict() or copy.deepcopy")

    def check(self) -> None:
        """Raises if a number that is NaN or infinite came in. On the CPU `add` has refused it already; on a GPU, where
        looking means waiting, this is where it shows, and `state_dict`, `save` and `summary` call it.

        Raises:
            ValueError: it names the columns and ids.
        """
        self._table.check(len(self), self._books.ids)

    # -- inside -------------------------------------------------------------------------------------------------

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

    def _locate(self, rows: Address) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The slot of each row addressed, and whether the row is still there."""
        held = self._books.ids[: len(self)]
        if isinstance(rows, Rows):
            slots, ids = rows.slots.numpy(), rows.ids.numpy()
            if len(ids) == 0 or (slots.max() < len(held) and np.array_equal(held[slots], ids)):
                return slots, np.ones(len(ids), bool)
        else:
            ids = rows.cpu().numpy() if isinstance(rows, Tensor) else np.array(list(rows))
            ids = ids.reshape(-1)
            if len(ids) and ids.dtype.kind not in "iu":
                raise TypeError(f"rows are {ids.dtype}; expected ids, which are whole numbers, or rows as drawn")
        order = self._pool.derived("by id", lambda: np.argsort(held))
        if not len(held):
            return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
        slots = order[np.searchsorted(held, ids, sorter=order).clip(max=len(held) - 1)]
        return slots, held[slots] == ids


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


def _whole_numbers(name: str, value: Any) -> list[int]:
    """One whole number, or several, as a list."""
    try:
        return [operator.index(value)]
    except TypeError:
        pass
    try:
        return [operator.index(number) for number in value]
    except TypeError:
        raise TypeError(f"{name} is {value!r}; expected a whole number or several") from None


def _policy_name(text: str) -> str:
    """The policy as printed, without what follows where an argument is an object with an address."""
    return re.sub(r"<.*", "", text)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
