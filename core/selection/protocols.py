"""Keyed and Greedy: every way of keeping and of recalling is "rank a pool of rows, take k"."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from torch import Tensor

from ..batch import Batch, batch_size, take

T = TypeVar("T")


@runtime_checkable
class Keyed(Protocol):
    """A row's rank is a number known when the row arrives (reservoir, FIFO, weighted, top score).

    A store keeps the rows with the highest keys. Besides the caller's columns the batch carries ``"id"``, the
    arrival number of each row (int64).
    """

    def key(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """One float64 number per row, shape (B,); higher is better."""
        ...


@runtime_checkable
class Greedy(Protocol):
    """A row's rank depends on the pool or on a query (herding, k-center, similarity, a model's verdict)."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns it reads; the rest is never touched."""
        ...

    def select(
        self,
        pool: Mapping[str, Tensor],
        k: int,
        *,
        query: Mapping[str, Tensor] | None = None,
        generator: torch.Generator,
    ) -> Tensor:
        """Indices (int64) of at most ``k`` distinct rows of the pool, best first."""
        ...


Selector: TypeAlias = Keyed | Greedy


@dataclass(slots=True)
class Selection:
    """Rows chosen from a pool, best first.

    Attributes:
        index: int64 (n,), positions in the pool, on the CPU.
        score: (n,) what they were ranked by, or None.
        weight: (n,) importance weights that undo a non-uniform draw, or None.
    """

    index: Tensor
    score: Tensor | None = None
    weight: Tensor | None = None


class Pool(Mapping[str, Tensor]):
    """Rows to choose from. Columns are materialised only when read, so that a selector pays for what it needs.

    >>> pool = Pool({"label": torch.tensor([0, 1, 1])})
    >>> pool.size, pool["label"].tolist()
    (3, [0, 1, 1])
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self._columns = columns
        self._derived: dict[Hashable, Any] = {}

    @staticmethod
    def of(pool: Mapping[str, Tensor]) -> Pool:
        """``pool`` itself, or a plain batch wrapped as a pool."""
        return pool if isinstance(pool, Pool) else Pool(pool)

    @property
    def size(self) -> int:
        """Number of rows."""
        return batch_size(self._columns, "pool")

    def __getitem__(self, name: str) -> Tensor:
        try:
            return self._columns[name]
        except KeyError:
            raise KeyError(f"the pool has no column {name!r}; it has {sorted(self)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def chunk(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start .. stop - 1`` of a column; of a compressed column only these are decoded."""
        return self[name][start:stop]

    def gather(self, name: str, index: Tensor) -> Tensor:
        """Rows ``index`` of one column, copied; of a compressed column only these are decoded."""
        return take({name: self[name]}, index)[name]

    def take(self, index: Tensor) -> Batch:
        """Rows ``index`` of every column, copied."""
        return take(self._columns, index)

    def subset(self, index: Tensor) -> Pool:
        """The rows ``index`` as a pool of their own."""
        return _Subset(self, index)

    def derived(self, name: Hashable, build: Callable[[], T]) -> T:
        """``build()``, remembered for as long as the rows stay the same (an index, a covariance)."""
        if name not in self._derived:
            self._derived[name] = build()
        value: T = self._derived[name]
        return value

    def known(self, name: Hashable) -> Any:
        """What is `derived` already, or None."""
        return self._derived.get(name)


class _Subset(Pool):
    def __init__(self, parent: Pool, index: Tensor) -> None:
        super().__init__(parent)
        self._parent = parent
        self._index = index

    @property
    def size(self) -> int:
        return int(self._index.numel())

    def __getitem__(self, name: str) -> Tensor:
        return self.derived(("column", name), lambda: self._parent.gather(name, self._index))

    def take(self, index: Tensor) -> Batch:
        return self._parent.take(self._index[index])


class Ranker:
    """Base of the selectors in this package: `rank` says what was chosen and why, `select` is its index."""

    @property
    def needs(self) -> tuple[str, ...]:
        return ()

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        """The chosen rows with their scores and importance weights."""
        raise TypeError(f"{type(self).__name__} must override rank")

    def select(
        self,
        pool: Mapping[str, Tensor],
        k: int,
        *,
        query: Mapping[str, Tensor] | None = None,
        generator: torch.Generator,
    ) -> Tensor:
        """Indices (int64) of at most ``k`` distinct rows of the pool, best first."""
        if k < 0:
            raise ValueError(f"k is {k}; expected a number of rows of at least 0")
        return self.rank(Pool.of(pool), k, query=query, generator=generator).index


def rank(
    selector: Selector,
    pool: Mapping[str, Tensor],
    k: int,
    *,
    query: Mapping[str, Tensor] | None = None,
    generator: torch.Generator,
) -> Selection:
    """What ``selector`` chooses from ``pool``, whichever of the two protocols it speaks.

    Raises:
        TypeError: ``selector`` has neither ``key`` nor ``select``.
    """
    if k < 0:
        raise ValueError(f"k is {k}; expected a number of rows of at least 0")
    pool = Pool.of(pool)
    if isinstance(selector, Ranker):
        return selector.rank(pool, k, query=query, generator=generator)
    if isinstance(selector, Greedy):
        index = selector.select(pool, k, query=query, generator=generator)
        return Selection(torch.as_tensor(index, dtype=torch.int64, device="cpu"))
    if isinstance(selector, Keyed):
        return top(selector.key(pool, generator), k)
    raise TypeError(f"{selector!r} is no selector; expected an object with key(...) or select(...)")


def top(scores: Tensor, k: int) -> Selection:
    """The ``k`` highest of ``scores`` (N,), best first; on equal scores the earlier row first, NaN last.

    >>> top(torch.tensor([1.0, 3.0, 3.0, 2.0]), 2).index.tolist()
    [1, 2]
    """
    k = min(k, scores.numel())
    if k == 0:
        return Selection(torch.empty(0, dtype=torch.int64), scores[:0])
    ranked = (
        scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf) if scores.is_floating_point() else scores
    )
    least = torch.topk(ranked, k).values[-1]
    above = (ranked >= least).nonzero().squeeze(1)
    # topk leaves the order of ties open; a stable sort of the few rows that can be among them does not
    order = torch.sort(ranked[above], descending=True, stable=True).indices[:k]
    index = above[order]
    return Selection(index.cpu(), scores[index])
