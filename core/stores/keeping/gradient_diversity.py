"""GradientDiversity: rows whose gradients point in many directions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...batch import Batch
from ...retrievers.vectors import Vectors, inverse
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
    def _gradients(self, rows: Batch) -> Tensor:
        """One gradient per row, (n, P)."""

    def rank(
        self, pool: Pool, k: int, *, query: Mapping[str, Tensor] | None = None, generator: torch.Generator
    ) -> Selection:
        scores = _scores_given(pool)
        unknown = scores.isnan()
        held, new = (~unknown).nonzero().squeeze(1), unknown.nonzero().squeeze(1)
        if len(held) > k:
            held = held[scores[held].sort(stable=True).indices[:k]]
        if not len(held):
            held, new = new[:k], new[k:]
            scores[held] = FIRST
        if k and len(new):
            scores[new] = self._compare(pool, held, new, generator)
            free = k - len(held)
            held = _challenge(torch.cat([held, new[:free]]), new[free:], scores, generator)
        score, order = scores[held].sort(stable=True)
        return Selection(held[order], score)

    def _compare(self, pool: Pool, held: Tensor, new: Tensor, generator: torch.Generator) -> Tensor:
        """Scores of the rows ``new``, float64 (n,)."""
        sampled = held[sample_distinct(len(held), self.sample, generator)]
        rows = torch.cat([sampled, new])
        gradients = self._gradients(pool.take(rows)).detach()
        if gradients.dim() != 2 or len(gradients) != len(rows):
            raise ValueError(f"gradients has shape {tuple(gradients.shape)}; expected ({len(rows)}, P), one per row")
        gradients = gradients.to(torch.promote_types(gradients.dtype, torch.float32))
        lengths = torch.linalg.vector_norm(gradients, dim=1)
        if not lengths.isfinite().all():
            row = int((~lengths.isfinite()).nonzero()[0])
            raise ValueError(f"gradients has length {lengths[row].item()} in row {row}; expected finite gradients")
        known, arrived = gradients.split([len(sampled), len(new)])
        scale = inverse(lengths)
        cosines: Tensor = (known @ arrived.t()).mul_(scale[: len(sampled), None]).amax(0).mul_(scale[len(sampled) :])
        return cosines.double().cpu().add_(1).clamp_(0, 2)


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
        gradients: from the columns of n rows to one gradient per row, (n, P), of any part of the model. It is called
            once per batch, for the random rows held followed by those that are new.
        sample: how many rows held are drawn for comparison.

    >>> policy = GradientDiversity(gradients=lambda rows: rows["input"], sample=2)
    >>> pool = {"input": torch.tensor([[1.0], [1.0], [1.0]]), "key": torch.tensor([1.1, float("nan"), float("nan")])}
    >>> policy.select(pool, 2, generator=torch.Generator()).tolist()
    [0, 1]
    """

    gradients: Callable[[Batch], Tensor]
    sample: int = 10

    @property
    def needs(self) -> tuple[str, ...]:
        return ("key",)

    def _gradients(self, rows: Batch) -> Tensor:
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


def _scores_given(pool: Pool) -> Tensor:
    """The scores that held rows came with, NaN for new rows; float64 (N,), the caller's own."""
    if "key" not in list(pool):
        return torch.full((pool.size,), torch.nan, dtype=torch.float64)
    scores = pool["key"].to(device="cpu", dtype=torch.float64, copy=True)
    wrong = (scores - 1).abs() > 1
    if wrong.any():
        raise ValueError(
            f"pool['key'] has {scores[wrong][0].item()}; expected scores from 0 to 2, or NaN for new rows: "
            "another policy kept these rows"
        )
    return scores


def _challenge(held: Tensor, new: Tensor, scores: Tensor, generator: torch.Generator) -> Tensor:
    """The rows held after each of ``new``, in order, has challenged one of ``held``, which is overwritten."""
    challengers = new[scores[new] < 1]
    chances = torch.rand(len(challengers), 2, dtype=torch.float64, generator=generator)
    values = scores[held].numpy()
    edges = values.cumsum()
    for row, score, (place, luck) in zip(
        challengers.tolist(), scores[challengers].tolist(), chances.tolist(), strict=True
    ):
        i = min(int(edges.searchsorted(place * edges[-1], side="right")), len(held) - 1)
        if luck * (values[i] + score) < values[i]:
            held[i], values[i] = row, score
            edges = values.cumsum()
    return held
