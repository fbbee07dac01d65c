"""Store: a bounded memory of rows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch, batch_size
from ..retrievers.nearest import Nearest
from ..selection import ClassBalanced, Pool, Selector, Uniform, rank
from ..selection.balanced import equal_shares, groups_of
from ..selection.top_score import column_of_numbers
from .columns import Storage
from .incoming import Incoming
from .keeping.fifo import Fifo
from .pool import Union
from .resumable import Resumable
from .rows import Rows
from .table import describe, expected

Address: TypeAlias = Rows | Tensor | Iterable[int]
"""Rows as drawn, or their ids."""

_UNIFORM = Uniform()


class Store(Resumable):
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
