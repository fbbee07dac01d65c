"""Metrics: what was learned and what was forgotten, in percent."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .labels import Integers, as_integers


def accuracy(predicted: Integers, labels: Integers) -> float:
    """Percent of rows whose predicted class (N,) is their label (N,); NaN without rows.

    Raises:
        ValueError: as many predictions as labels are expected.

    >>> accuracy([1, 2, 3, 3], [1, 2, 3, 4])
    75.0
    """
    return _percent(_hits(predicted, labels)[0])


def per_class_accuracy(predicted: Integers, labels: Integers) -> dict[int, float]:
    """Accuracy on the rows of each class, in percent, by ascending class.

    >>> per_class_accuracy([0, 0, 1], [0, 1, 1])
    {0: 100.0, 1: 50.0}
    """
    hits, truth = _hits(predicted, labels)
    return {name: _percent(hits[truth == name]) for name in torch.unique(truth).tolist()}


def accuracy_by_group(predicted: Integers, labels: Integers, groups: Iterable[Integers]) -> list[float]:
    """Accuracy on the rows of each group of classes, in percent; with the classes of each session so far it is one
    row of an `AccuracyMatrix`.

    >>> accuracy_by_group([0, 0, 2], [0, 1, 2], [[0, 1], [2]])
    [50.0, 100.0]
    """
    hits, truth = _hits(predicted, labels)
    return [_percent(hits[torch.isin(truth, as_integers(group, "groups"))]) for group in groups]


def harmonic_mean(first: float, second: float) -> float:
    """``2 a b / (a + b)``, 0 where one of them is (Xian et al. 2017, "Zero-Shot Learning: the Good, the Bad and the
    Ugly").

    >>> harmonic_mean(60.0, 30.0)
    40.0
    """
    return 2 * first * second / (first + second) if first + second else 0.0


@dataclass(frozen=True)
class BaseNovel:
    """Accuracies in percent over the joint label space, by origin of the row's class.

    Attributes:
        base: on the rows of base classes.
        novel: on the rows of all other classes; NaN without such rows.
        harmonic: harmonic mean of the two; NaN where one is.
        overall: on all rows.
    """

    base: float
    novel: float
    harmonic: float
    overall: float


def base_novel(predicted: Integers, labels: Integers, base: Integers) -> BaseNovel:
    """Base, novel, harmonic and overall accuracy, where ``base`` lists the base classes.

    >>> base_novel([0, 0, 2, 0], [0, 0, 2, 3], base=[0, 1])
    BaseNovel(base=100.0, novel=50.0, harmonic=66.66666666666667, overall=75.0)
    """
    hits, truth = _hits(predicted, labels)
    is_base = torch.isin(truth, as_integers(base, "base"))
    old, new = _percent(hits[is_base]), _percent(hits[~is_base])
    return BaseNovel(old, new, harmonic_mean(old, new), _percent(hits))


class AccuracyMatrix:
    """``R[i, j]``: accuracy after session ``i`` on the test rows of session ``j``'s classes, sessions counted from 0.

    In the formulas T is the number of rows so far, and ``A[i]`` the accuracy after session i over all test rows of
    the classes seen, ``sum_j n_j R[i, j] / sum_j n_j`` over ``j <= i``.

    Args:
        rows: row i holds at least the accuracies on sessions 0 to i, in any one unit; what is missing above the
            diagonal is NaN.
        sizes: n_j, the test rows of each session; None = all the same.

    Raises:
        ValueError: no rows, an accuracy missing on or below the diagonal, or sizes that are too few or not positive.

    >>> matrix = AccuracyMatrix([[90.0], [70.0, 80.0]])
    >>> matrix.forgetting, matrix.average_accuracy, matrix.performance_drop
    (20.0, 75.0, 15.0)
    """

    def __init__(self, rows: Sequence[Sequence[float]] | Tensor, sizes: Sequence[float] | None = None) -> None:
        listed = [[float(value) for value in row] for row in rows]
        if not listed:
            raise ValueError("rows is empty; expected one row of accuracies per session")
        width = max(len(row) for row in listed)
        for i, row in enumerate(listed):
            if len(row) <= i or any(math.isnan(value) for value in row[: i + 1]):
                raise ValueError(f"rows[{i}] is {row}; expected accuracies on sessions 0 to {i}")
        sizes = [1.0] * width if sizes is None else [float(size) for size in sizes]
        if len(sizes) < len(listed) or min(sizes) <= 0:
            raise ValueError(f"sizes is {sizes}; expected at least {len(listed)} positive numbers")
        self._values = torch.tensor([row + [math.nan] * (width - len(row)) for row in listed], dtype=torch.float64)
        self._sizes = torch.tensor(sizes, dtype=torch.float64)

    @property
    def values(self) -> Tensor:
        """R, float64 (T, sessions tested), NaN where nothing was measured."""
        return self._values.clone()

    @property
    def overall(self) -> list[float]:
        """``A[i]`` for every session: accuracy over all test rows of the classes seen."""
        return [
            float((row[: i + 1] * self._sizes[: i + 1]).sum() / self._sizes[: i + 1].sum())
            for i, row in enumerate(self._values)
        ]

    @property
    def average_accuracy(self) -> float:
        """``mean_j R[T-1, j]``, every session counting the same (ACC of Lopez-Paz and Ranzato 2017, "Gradient Episodic
        Memory")."""
        return float(self._values[-1, : len(self._values)].mean())

    @property
    def base_novel(self) -> BaseNovel:
        """After the last session, on the classes of the first one and on those of all others.

        >>> AccuracyMatrix([[90.0], [60.0, 30.0]], sizes=[300, 100]).base_novel
        BaseNovel(base=60.0, novel=30.0, harmonic=40.0, overall=52.5)
        """
        last, sizes = self._values[-1, : len(self._values)], self._sizes[: len(self._values)]
        old, new = float(last[0]), float((last[1:] * sizes[1:]).sum() / sizes[1:].sum())
        return BaseNovel(old, new, harmonic_mean(old, new), self.overall[-1])

    @property
    def final_accuracy(self) -> float:
        """``A[T-1]``: accuracy over all test rows after the last session."""
        return self.overall[-1]

    @property
    def average_incremental_accuracy(self) -> float:
        """``mean_i A[i]`` (Rebuffi et al. 2017, "iCaRL"); the "average" column of few-shot class-incremental tables."""
        return sum(self.overall) / len(self.overall)

    @property
    def performance_drop(self) -> float:
        """``A[0] - A[T-1]`` (Zhang et al. 2021, "Few-Shot Incremental Learning with Continually Evolved
        Classifiers")."""
        return self.overall[0] - self.overall[-1]

    @property
    def forgetting(self) -> float:
        """``mean_{j<T-1} (max_{l<T-1} R[l, j] - R[T-1, j])`` (Chaudhry et al. 2018, "Riemannian Walk"), over what was
        measured; NaN after a single session."""
        before = self._values[:-1, : len(self._values) - 1].nan_to_num(nan=-math.inf)
        best = before.max(dim=0).values if len(before) else before.sum(dim=0)
        return float((best - self._values[-1, : len(best)]).mean())

    @property
    def backward_transfer(self) -> float:
        """``mean_{j<T-1} (R[T-1, j] - R[j, j])`` (Lopez-Paz and Ranzato 2017); NaN after a single session."""
        learned = self._values.diagonal()[: len(self._values) - 1]
        return float((self._values[-1, : len(learned)] - learned).mean())

    def forward_transfer(self, baseline: Sequence[float]) -> float:
        """``mean_{j>0} (R[j-1, j] - b_j)``, where ``b_j`` is the accuracy on session j before any training (Lopez-Paz
        and Ranzato 2017). Needs the accuracies one place above the diagonal; NaN after a single session.

        Raises:
            ValueError: ``baseline`` has not one number per session, or an accuracy above the diagonal is missing.
        """
        sessions = len(self._values)
        if len(baseline) != sessions:
            raise ValueError(f"baseline has {len(baseline)} numbers; expected {sessions}, one per session")
        ahead = self._values.diagonal(1)[: sessions - 1]
        if ahead.isnan().any():
            raise ValueError("rows has no accuracy on the next session; expected it, for forward_transfer")
        return float((ahead - torch.tensor(list(baseline[1:]), dtype=torch.float64)).mean())

    def __repr__(self) -> str:
        return f"AccuracyMatrix({[[value for value in row if value == value] for row in self._values.tolist()]})"


def _hits(predicted: Integers, labels: Integers) -> tuple[Tensor, Tensor]:
    guess, truth = as_integers(predicted, "predicted"), as_integers(labels, "labels")
    if len(guess) != len(truth):
        raise ValueError(f"predicted has {len(guess)} rows and labels {len(truth)}; expected one prediction per label")
    return guess == truth, truth


def _percent(hits: Tensor) -> float:
    return 100 * int(hits.sum()) / len(hits) if len(hits) else math.nan
