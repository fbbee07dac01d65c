"""ClassBalanced: a selector applied inside groups, with equal shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .protocols import Pool, Ranker, Selection, Selector, rank
from .top_score import column_of_numbers


@dataclass(frozen=True)
class ClassBalanced(Ranker):
    """Applies ``inner`` inside each class and gives every class the same share of the rows.

    A class with fewer rows than its share leaves the rest to the others; what does not divide evenly goes to classes
    drawn at random. As a store's ``keep``, a full store makes room by giving up the worst row of its largest class, or
    of the new row's own class if that is as large but for one row: with ``Reservoir()`` inside, each class is a uniform
    sample of its own stream. The classes need not be known.

    Args:
        inner: the selector inside a class.
        column: an integer column that names the class.

    >>> pool = {"label": torch.tensor([0, 0, 0, 0, 1])}
    >>> chosen = ClassBalanced(Uniform()).select(pool, 2, generator=torch.Generator())
    >>> pool["label"][chosen].sort().values.tolist()
    [0, 1]
    """

    inner: Selector
    column: str = "label"

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.column, *(name for name in getattr(self.inner, "needs", ()) if name != self.column))

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        groups = pool.derived(("groups", self.column), lambda: groups_of(pool, self.column))
        members = list(groups.values())
        shares = equal_shares([len(member) for member in members], k, generator)
        chosen = []
        for member, share in zip(members, shares, strict=True):
            if share:
                inner = rank(self.inner, pool.subset(member), share, query=query, generator=generator)
                chosen.append((member.index_select(0, inner.index), inner.score, inner.weight))
        return _interleave(chosen)


def groups_of(pool: Mapping[str, Tensor], column: str) -> dict[int, Tensor]:
    """Row indices (int64, CPU, ascending) of every value of an integer column, by ascending value."""
    labels = column_of_numbers(pool, column).cpu()
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"column {column!r} is {labels.dtype}; expected integers that name a class")
    numbers = labels.numpy()
    if not len(numbers):
        return {}
    narrow = numbers.min() >= -(2**15) and numbers.max() < 2**15
    # small integers are sorted by their digits, several times as fast
    order = (numbers.astype(np.int16) if narrow else numbers).argsort(kind="stable")
    ranked = numbers[order]
    starts = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
    return dict(zip(ranked[[0, *starts]].tolist(), map(torch.from_numpy, np.split(order, starts)), strict=True))


def equal_shares(sizes: Sequence[int], k: int, generator: torch.Generator) -> list[int]:
    """How many of ``k`` rows each group gives: equal where the sizes allow, the remainder to groups at random.

    >>> equal_shares([10, 10, 1], 9, torch.Generator())
    [4, 4, 1]
    """
    shares = [0] * len(sizes)
    left = min(k, sum(sizes))
    open_groups = [i for i, size in enumerate(sizes) if size > 0]
    while left:
        if left < len(open_groups):
            lucky = torch.randperm(len(open_groups), generator=generator)[:left].tolist()
            for i in lucky:
                shares[open_groups[i]] += 1
            break
        step = min(left // len(open_groups), min(sizes[i] - shares[i] for i in open_groups))
        for i in open_groups:
            shares[i] += step
        left -= step * len(open_groups)
        open_groups = [i for i in open_groups if shares[i] < sizes[i]]
    return shares


def _interleave(groups: list[tuple[Tensor, Tensor | None, Tensor | None]]) -> Selection:
    """The groups' rows, every group's best first, then every group's second, so that a prefix is balanced too."""
    if not groups:
        return Selection(torch.empty(0, dtype=torch.int64))
    depth = torch.cat([torch.arange(len(index)) for index, _, _ in groups])
    order = torch.sort(depth, stable=True).indices
    index, score, weight = (
        None if any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
        for parts in ([group[i] for group in groups] for i in range(3))
    )
    assert index is not None
    return Selection(
        index[order],
        None if score is None else score[order.to(score.device)],
        None if weight is None else weight[order.to(weight.device)],
    )
