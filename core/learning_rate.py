"""Learning rates that change over a session, as a factor that depends on how much of it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch


class Rate(Protocol):
    """A factor of the learning rate. It holds no state."""

    def __call__(self, done: float) -> float:
        """The factor when the share ``done`` of the steps, from 0 to 1, lies behind."""
        ...


@dataclass(frozen=True)
class FinalDecay:
    """Constant, then along a line to 0 over the last ``share`` of the steps.

    >>> FinalDecay(0.2)(0.5), round(FinalDecay(0.2)(0.9), 3)
    (1.0, 0.5)
    """

    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; expected a number above 0 and up to 1")

    def __call__(self, done: float) -> float:
        return min(1.0, (1 - done) / self.share)


@dataclass(frozen=True)
class WarmCosine:
    """Along a line from 0 to 1 over the first ``warm`` of the steps, then half a cosine down to ``least``: the schedule
    of most training scripts (Goyal et al., Accurate, Large Minibatch SGD, 2017, for the warm-up).

    >>> rate = WarmCosine(warm=0.2)
    >>> rate(0.0), rate(0.1), rate(0.2), round(rate(0.6), 3), rate(1.0)
    (0.0, 0.5, 1.0, 0.5, 0.0)
    """

    warm: float = 0.05
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.warm < 1:
            raise ValueError(f"warm is {self.warm}; expected a share of the steps, from 0 up to 1")

    def __call__(self, done: float) -> float:
        if done < self.warm:
            return done / self.warm
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * (done - self.warm) / (1 - self.warm))) / 2


@dataclass(frozen=True)
class CosineRestarts:
    """``cycles`` half cosines from 1 down to ``least``, each twice as long as the one before (Loshchilov and Hutter,
    SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017). With five of them and 31 epochs the first takes
    one epoch.

    >>> rate = CosineRestarts(cycles=2, least=0.0)
    >>> rate(0.0), round(rate(1 / 6), 3), round(rate(1 / 3), 3), round(rate(2 / 3), 3)
    (1.0, 0.5, 1.0, 0.5)
    """

    cycles: int = 5
    least: float = 0.01

    def __post_init__(self) -> None:
        if self.cycles < 1:
            raise ValueError(f"cycles is {self.cycles}; expected at least 1")

    def __call__(self, done: float) -> float:
        place = 1 + done * (2**self.cycles - 1)  # doubles from the start of a cycle to its end
        cycle = min(int(math.log2(place)), self.cycles - 1)
        return self.least + (1 - self.least) * (1 + math.cos(math.pi * (place / 2**cycle - 1))) / 2


def scheduler(optimizer: torch.optim.Optimizer, rate: Rate, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Steps the learning rates of ``optimizer`` through ``rate`` in ``steps`` steps.

    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    >>> each = scheduler(optimizer, FinalDecay(1.0), steps=4)
    >>> optimizer.step()
    >>> each.step()
    >>> round(optimizer.param_groups[0]["lr"], 4)
    0.075
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(min(1.0, step / steps)))
