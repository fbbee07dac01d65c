"""Session methods: ways to learn classes in sessions on frozen features, with the settings to choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from ..core.heads import LinearDiscriminant, TrainedHead
from ..core.incremental import (
    Means,
    Method,
    Neighbours,
    Probabilistic,
    ProjectedReplay,
    RandomProjection,
    Streaming,
    calibrated,
    classic,
    er,
    gaussian,
    none,
)
from ..core.memory_readout import MemoryReadout

WIDTH = 1536
"""Of random projections."""
KEPT = 10
"""Rows of each class that memories of rows keep."""


@dataclass(frozen=True)
class Candidate:
    """A method with the settings to choose from.

    Attributes:
        make: the method, from a seed, the number of classes that will ever come, and a setting.
        grid: values of each part of the setting.
        random: whether the seed changes anything.
        keeps_base: whether only settings count that keep the base accuracy, see `chosen`.
    """

    make: Callable[..., Method]
    grid: Mapping[str, Sequence[float]]
    random: bool = False
    keeps_base: bool = False

    def settings(self) -> list[dict[str, float]]:
        """All combinations."""
        return [dict(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


def _trained(lr: float) -> TrainedHead:
    return TrainedHead(lr=lr, steps=150, batch_size=64)


_RATES = {"lr": (0.001, 0.01)}
CANDIDATES: dict[str, Candidate] = {
    "none": Candidate(lambda seed, classes, lr: none(_trained(lr), seed), _RATES, True),
    "classic": Candidate(lambda seed, classes, lr: classic(_trained(lr), KEPT * classes, seed), _RATES, True),
    "er": Candidate(lambda seed, classes, lr: er(_trained(lr), KEPT * classes, seed), _RATES, True),
    "gaussian": Candidate(lambda seed, classes, lr: gaussian(_trained(lr), seed=seed), _RATES, True),
    "projected": Candidate(
        lambda seed, classes, later_lr: ProjectedReplay(classes, first=400, later_lr=later_lr, seed=seed),
        {"later_lr": (1e-4, 1e-3)},
        True,
    ),
    "ncm": Candidate(lambda seed, classes: Means(), {}),
    "teen": Candidate(
        lambda seed, classes, shift, sharpness: calibrated(shift, sharpness),
        {"shift": (0.1, 0.3, 0.5), "sharpness": (16, 64)},
    ),
    "knn": Candidate(
        lambda seed, classes, share, k: Neighbours(Means(), MemoryReadout("nearest", share, int(k)), KEPT, 20.0, seed),
        {"share": (0.2, 0.5, 0.8), "k": (5,)},
        True,
    ),
    "lda": Candidate(
        lambda seed, classes, shrinkage: Streaming(LinearDiscriminant(shrinkage)), {"shrinkage": (0.3, 0.6, 1.0)}
    ),
    "ranpac": Candidate(lambda seed, classes: RandomProjection(WIDTH, seed=seed), {}, True),
    "ranpac balanced": Candidate(
        lambda seed, classes, ridge: RandomProjection(WIDTH, ridge, balanced=True, seed=seed),
        {"ridge": (0.03, 0.3)},
        True,
    ),
    "ours": Candidate(
        lambda seed, classes, spread, offset: Probabilistic(0.3, spread, offset),
        {"spread": (0.8, 0.9), "offset": (0, 2, 4, 6)},
        keeps_base=True,
    ),
}
