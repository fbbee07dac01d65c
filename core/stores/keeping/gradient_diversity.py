"""GradientDiversity: rows whose gradients point in many directions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...batch import Batch
from ...gradients import DenseGradients, Gradients
from ...retrievers.vectors import Vectors
from ...selection import Pool, Ranker, Selection
from ...selection.uniform import sample_distinct

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
            scores[new] = self._compare(pool, held, new, generator)
            free = k - len(held)
            held = _challenge(np.concatenate([held, new[:free]]), new[free:], scores, generator)
        held = held[scores[held].argsort(kind="stable")]
        return Selection(torch.from_numpy(held), torch.from_numpy(scores[held]))

    def _compare(
        self, pool: Pool, held: NDArray[np.int64], new: NDArray[np.int64], generator: torch.Generator
    ) -> NDArray[np.float64]:
        """Scores of the rows ``new``, (n,)."""
        sampled = held[sample_distinct(len(held), self.sample, generator).numpy()]
        rows = torch.from_numpy(np.concatenate([sampled, new]))
        given = self._gradients(pool.take(rows))
        shape = f"({len(given)}, P)" if isinstance(given, Gradients) else str(tuple(given.shape))
        if len(given) != len(rows) or (isinstance(given, Tensor) and given.dim() != 2):
            raise ValueError(f"gradients has shape {shape}; expected ({len(rows)}, P), one per row")
        gradients = given if isinstance(given, Gradients) else DenseGradients(given)
        products, squares = (values.double().cpu().numpy() for values in gradients.products(len(sampled)))
        lengths = np.sqrt(squares)
        if not np.isfinite(lengths).all():
            row = int((~np.isfinite(lengths)).argmax())
            raise ValueError(f"gradients has length {lengths[row]} in row {row}; expected finite gradients")
        scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
        cosines = (products * scale[: len(sampled), None]).max(0) * scale[len(sampled) :]
        scores: NDArray[np.float64] = (cosines + 1).clip(0, 2)
        return scores


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
            those that are new.
        sample: how many rows held are drawn for comparison.

    >>> policy = GradientDiversity(gradients=lambda rows: rows["input"], sample=2)
    >>> pool = {"input": torch.tensor([[1.0], [1.0], [1.0]]), "key": torch.tensor([1.1, float("nan"), float("nan")])}
    >>> policy.select(pool, 2, generator=torch.Generator()).tolist()
    [0, 1]
    """

    gradients: Callable[[Batch], Tensor | Gradients]
    sample: int = 10

    @property
    def needs(self) -> tuple[str, ...]:
        return ("key",)

    def _gradients(self, rows: Batch) -> Tensor | Gradients:
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
    held: NDArray[np.int64], new: NDArray[np.int64], scores: NDArray[np.float64], generator: torch.Generator
) -> NDArray[np.int64]:
    """The rows held after each of ``new``, in order, has challenged one of ``held``, which is overwritten."""
    challengers = new[scores[new] < 1]
    chances = torch.rand(len(challengers), 2, dtype=torch.float64, generator=generator).tolist()
    values = scores[held]
    edges = values.cumsum()
    for row, (place, luck) in zip(challengers.tolist(), chances, strict=True):
        score = scores[row]
        i = min(int(edges.searchsorted(place * edges[-1], side="right")), len(held) - 1)
        if luck * (values[i] + score) < values[i]:
            held[i], values[i] = row, score
            edges = values.cumsum()
    return held
