"""GradientDiversity: rows whose gradients point in many directions."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...batch import Batch, batch_size
from ...gradients import DenseGradients, Gradients
from ...loops import loops
from ...retrievers.vectors import Vectors
from ...selection import Pool, Ranker, Selection
from ...selection.uniform import sample_distinct
from ..look_ahead import Accepted
from ..pool import Union

FIRST = 1.1
"""Score of rows that arrive while nothing is held to compare them with."""


class _GradientSelection(Ranker):
    """The algorithm of `GradientDiversity`, wherever the gradients come from."""

    sample: int

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise ValueError(f"sample is {self.sample}; expected at least 1 row")

    @abstractmethod
    def _gradients(self, rows: Batch) -> Tensor | Gradients:
        """One gradient per row."""

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        scores = _scores_given(pool)
        unknown = np.isnan(scores)
        held, new = np.flatnonzero(~unknown), np.flatnonzero(unknown)
        if len(held) > k:
            held = held[scores[held].argsort(kind="stable")[:k]]
        if not len(held):
            held, new = new[:k], new[k:]
            scores[held] = FIRST
        if k and len(new):
            sampled = held[sample_distinct(len(held), self.sample, generator).numpy()]
            rows = pool.take(torch.from_numpy(np.concatenate([sampled, new])))
            free = min(k - len(held), len(new))
            slots, scores[new] = self._admit(rows, len(new), scores[held], free, generator)
            held, won = np.concatenate([held, new[:free]]), slots >= 0
            held[slots[won]] = new[won]
        held = held[scores[held].argsort(kind="stable")]
        return Selection(torch.from_numpy(held), torch.from_numpy(scores[held]))

    def challenge(self, pool: Union, capacity: int, *, generator: torch.Generator) -> Accepted | None:
        """See `Challenging`: what `rank` chooses, row by row in the slots of the store."""
        size = pool.held.size
        held = pool.held["key"].numpy()
        if math.isnan(held.sum()):  # kept by another policy
            return None
        sampled = sample_distinct(size, self.sample, generator)
        free = min(capacity - size, pool.arrived)
        slots, scores = self._admit(pool.beside(sampled), pool.arrived, held, free, generator)
        rows = (slots >= 0).nonzero()[0]
        return Accepted(rows, slots[rows], scores[rows])

    def _admit(
        self, rows: Batch, n: int, held: NDArray[np.float64], free: int, generator: torch.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The slots of the last ``n`` rows, which are compared with the others, and their scores.

        Slots are those of the rows held, which have the scores ``held``, and ``free`` ones after them; -1 is none.
        """
        given, size = self._gradients(rows), batch_size(rows)
        if len(given) != size or (isinstance(given, Tensor) and given.dim() != 2):
            shape = f"({len(given)}, P)" if isinstance(given, Gradients) else str(tuple(given.shape))
            raise ValueError(f"gradients has shape {shape}; expected ({size}, P), one per row")
        gradients = given if isinstance(given, Gradients) else DenseGradients(given)
        products, squares = (
            np.ascontiguousarray(values.double().cpu().numpy()) for values in gradients.products(size - n)
        )
        chances = torch.rand(n - free, 2, dtype=torch.float64, generator=generator).numpy()
        slots, scores = np.empty(n, np.int64), np.empty(n)
        challenge = _challenge if loops is None else loops.challenge
        row = challenge(products, squares, held, free, chances, slots, scores)
        if row >= 0:
            raise ValueError(f"gradients has length {math.sqrt(squares[row])} in row {row}; expected finite gradients")
        return slots, scores


@dataclass(frozen=True)
class GradientDiversity(_GradientSelection):
    """Keeps rows whose gradients point in different directions (GSS-greedy).

    Aljundi et al., Gradient Based Sample Selection for Online Continual Learning, NeurIPS 2019, Algorithm 2. A row's
    score is 1 + the largest cosine similarity of its gradient to those of ``sample`` random rows held, so 0 to 2, and
    low is good. While there is room, every row is kept, with its score C. After that a row with score c below 1
    challenges one held row i, drawn with probability C_i / sum C, and takes its place with probability C_i / (C_i + c).

    Rows that arrive together are compared with the same random rows, drawn once from those held before, as in the
    authors' code; that is what makes it affordable. Also as there, rows that come while nothing is held count as having
    a cosine of 0.1.

    The pool tells by its column ``"key"`` which rows are held, with the score they were admitted with, and which are
    new (NaN); without that column all are new. The rows chosen come with their scores, lowest first.

    Args:
        gradients: from the columns of n rows to one gradient per row, (n, P), of any part of the model; or to
            `Gradients` in factors, a fraction of the cost: ``lambda rows: scores.factored_gradients(model, rows)``, or
            `memreplay.scores.last_layer_gradients`. It is called once per batch, for the random rows held followed by
            those that are new. None if there is no model yet, see `Store.complete`.
        sample: how many rows held are drawn for comparison.

    >>> policy = GradientDiversity(gradients=lambda rows: rows["input"], sample=2)
    >>> pool = {"input": torch.tensor([[1.0], [1.0], [1.0]]), "key": torch.tensor([1.1, float("nan"), float("nan")])}
    >>> policy.select(pool, 2, generator=torch.Generator()).tolist()
    [0, 1]
    """

    gradients: Callable[[Batch], Tensor | Gradients] | None = None
    sample: int = 10

    @property
    def needs(self) -> tuple[str, ...]:
        return ("key",)

    def _gradients(self, rows: Batch) -> Tensor | Gradients:
        if self.gradients is None:
            raise ValueError(f"gradients is None in {self!r}; pass it here, or store.complete(gradients=...)")
        return self.gradients(rows)


@dataclass(frozen=True)
class StoredGradientDiversity(_GradientSelection):
    """`GradientDiversity` on gradients stored with the rows, as they were when the rows arrived.

    Much cheaper, and not what was published: the model that the stored gradients belong to has moved on.

    Args:
        column: one gradient, or an embedding of it, per row; rows of any shape are flattened.
        sample: how many rows held are drawn for comparison.
    """

    column: str = "gradient"
    sample: int = 10

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.column, "key")

    def _gradients(self, rows: Batch) -> Tensor:
        return Vectors(rows, self.column)[:]


def _scores_given(pool: Pool) -> NDArray[np.float64]:
    """The scores that held rows came with, NaN for new rows; (N,), the caller's own."""
    if "key" not in list(pool):
        return np.full(pool.size, np.nan)
    scores: NDArray[np.float64] = pool["key"].to(device="cpu", dtype=torch.float64, copy=True).numpy()
    wrong = np.abs(scores - 1) > 1
    if wrong.any():
        raise ValueError(
            f"pool['key'] has {scores[wrong][0]}; expected scores from 0 to 2, or NaN for new rows: "
            "another policy kept these rows"
        )
    return scores


def _challenge(
    products: NDArray[np.float64],
    squares: NDArray[np.float64],
    held: NDArray[np.float64],
    free: int,
    chances: NDArray[np.float64],
    slots: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> int:
    """The contest in Python: writes the slots and scores of the new rows; returns the first row whose gradient has no
    finite length, or -1."""
    m = len(products)
    lengths = np.sqrt(squares)
    if not np.isfinite(lengths).all():
        return int((~np.isfinite(lengths)).argmax())
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scores[:] = ((products * scale[:m, None]).max(0) * scale[m:] + 1).clip(0, 2)
    slots[:] = -1
    slots[:free] = np.arange(len(held), len(held) + free)
    values = np.concatenate([held, scores[:free]])
    edges = values.cumsum()
    for i, (place, luck) in enumerate(chances.tolist(), free):
        if scores[i] < 1:
            slot = min(int(edges.searchsorted(place * edges[-1], side="right")), len(values) - 1)
            if luck * (values[slot] + scores[i]) < values[slot]:
                slots[slots == slot] = -1
                slots[i], values[slot] = slot, scores[i]
                edges = values.cumsum()
    return -1
