"""Intervals: a mean over seeds or episodes, with the range that holds the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """``mean ± half_width`` over ``n`` values; formats as ``"85.9 ± 0.5"``, and ``f"{interval:.2f}"`` as any number.

    Attributes:
        mean: the mean, in the unit of the values.
        half_width: half the width of the interval; NaN for a single value, which says nothing about spread.
        n: number of values.
    """

    mean: float
    half_width: float
    n: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half_width

    def __format__(self, spec: str) -> str:
        spec = spec or ".1f"
        if math.isnan(self.half_width):
            return format(self.mean, spec)
        return f"{self.mean:{spec}} ± {self.half_width:{spec}}"

    def __str__(self) -> str:
        return format(self)


def mean_interval(values: Sequence[float] | Tensor, confidence: float = 0.95) -> Interval:
    """Mean of independent ``values`` (n,) with its Student t interval, ``t(n - 1) * s / sqrt(n)``.

    Raises:
        ValueError: no values, or a confidence that is not between 0 and 1.

    >>> print(mean_interval([85.0, 86.0, 87.0]))
    86.0 ± 2.5
    """
    numbers = _numbers(values, "values")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1")
    n = len(numbers)
    if n == 1:
        return Interval(float(numbers[0]), math.nan, 1)
    error = float(numbers.std(ddof=1)) / math.sqrt(n)
    return Interval(float(numbers.mean()), student_t(confidence, n - 1) * error, n)


def paired_interval(
    values: Sequence[float] | Tensor, others: Sequence[float] | Tensor, confidence: float = 0.95
) -> Interval:
    """Mean of ``values - others``, two methods run on the same seeds or episodes; above 0 where the first is better.

    Raises:
        ValueError: no values, or not as many of one as of the other.

    >>> print(paired_interval([85.0, 91.0, 88.0], [84.0, 90.0, 86.0]))
    1.3 ± 1.4
    """
    first, second = _numbers(values, "values"), _numbers(others, "others")
    if len(first) != len(second):
        raise ValueError(f"values has {len(first)} numbers and others {len(second)}; expected one pair per seed")
    return mean_interval((first - second).tolist(), confidence)


@lru_cache(maxsize=256)
def student_t(confidence: float, dof: int) -> float:
    """The t that a Student variable with ``dof`` (1, 2, ...) degrees of freedom exceeds in size with probability
    ``1 - confidence``.

    For whole degrees of freedom the distribution is a finite sum in the angle ``atan(t / sqrt(dof))`` (Abramowitz and
    Stegun 1964, 26.7.3 and 26.7.4), which is inverted by bisection.

    >>> round(student_t(0.95, 9), 4)
    2.2622
    """
    odd = dof % 2
    i = np.arange(1, (dof - odd) // 2, dtype=np.float64)
    ratios = 2 * i / (2 * i + 1) if odd else (2 * i - 1) / (2 * i)

    def probability(angle: float) -> float:
        series = 1 + float(np.cumprod(ratios * math.cos(angle) ** 2).sum())
        if dof == 1:
            return 2 * angle / math.pi
        if odd:
            return 2 / math.pi * (angle + math.sin(angle) * math.cos(angle) * series)
        return math.sin(angle) * series

    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if probability(middle) < confidence else (low, middle)
    return math.sqrt(dof) * math.tan(low)


def _numbers(values: Sequence[float] | Tensor, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    listed = values.detach().cpu() if isinstance(values, Tensor) else values
    numbers = np.asarray(listed, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"{name} has shape {numbers.shape}; expected at least one number, shape (n,)")
    return numbers
