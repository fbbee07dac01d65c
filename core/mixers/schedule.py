"""Schedule: a weight that depends on the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A number for every step. It holds no state: whoever counts the steps asks with ``term.at(step)``."""

    def value(self, step: int) -> float:
        """The number at ``step``, counted from 0."""
        ...


@dataclass(frozen=True)
class _Ramp:
    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected at least 1")

    def _progress(self, step: int) -> float:
        if step < 0:
            raise ValueError(f"step is {step}; expected at least 0")
        return min(step / self.steps, 1.0)


@dataclass(frozen=True)
class LinearSchedule(_Ramp):
    """From ``start`` at step 0 to ``end`` at step ``steps`` along a line, then constant.

    >>> LinearSchedule(0.0, 1.0, steps=4).value(1)
    0.25
    """

    def value(self, step: int) -> float:
        """The number at ``step``."""
        return self.start + (self.end - self.start) * self._progress(step)


@dataclass(frozen=True)
class CosineSchedule(_Ramp):
    """From ``start`` at step 0 to ``end`` at step ``steps`` along half a cosine, then constant
    (Loshchilov and Hutter, SGDR, ICLR 2017, without restarts).

    >>> CosineSchedule(1.0, 0.0, steps=4).value(2)
    0.5
    """

    def value(self, step: int) -> float:
        """The number at ``step``."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * self._progress(step))) / 2
