"""RandomProjection: ridge regression on random features, from statistics that add up."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..batch import Batch
from ..heads import LinearHead
from ..protocols.labels import rows_by_class
from ..protocols.seeding import generator_at

GRID = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Ridges to choose from, in units of the mean of the diagonal of ``G``."""


@dataclass
class RandomProjection:
    """RanPAC (McDonnell et al., Random Projections and Pre-trained Models for Continual Learning, NeurIPS 2023): a
    fixed random layer widens the vectors, and a ridge regression onto the classes is solved from sums over all rows,

        ``h = relu(x W)``,  ``G = sum_i w_i h_i h_i^T``,  ``c_k = sum over rows of class k of w_i h_i``,
        ``logits = h^T (G + ridge g I)^-1 C``,  ``g`` the mean of the diagonal of ``G``

    with ``w_i = 1``. With few shots the classes of the first session then outvote all others; ``balanced`` weighs every
    class alike, ``w_i = 1 / n_k``, which is ours. Vectors are brought to length sqrt(D) first. The paper
    adapts the encoder in the first session; here it is frozen. Its ridge is not in units of ``g``.

    Args:
        width: M, of the random layer. 10,000 in the paper.
        ridge: None: chosen on the first session, the best of `GRID` on a fifth of its rows, as the paper chooses it.
        balanced: whether every class has the same weight.
        seed: of the random layer and of the rows that are left out.
    """

    width: int = 4096
    ridge: float | None = None
    balanced: bool = False
    seed: int = 0
    head: RandomHead | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; expected at least 1")

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`; what is known of the classes beforehand is not used."""
        dim = rows["feature"].shape[1]
        if self.head is None or self.ridge is None:
            self.layer = torch.randn(dim, self.width, generator=generator_at(self.seed, "layer")) / dim**0.5
            self.gram = torch.zeros(self.width, self.width)
            self.sums = torch.zeros(0, self.width)
            if self.ridge is None:
                self.ridge = self._choose(rows, classes)
        gram, sums = self._statistics(rows, classes)
        self.gram += gram
        self.sums = F.pad(self.sums, (0, 0, 0, classes - len(self.sums))) + sums
        self.head = RandomHead(self.layer, LinearHead(solved(self.gram, self.sums, self.ridge)))

    def _statistics(self, rows: Batch, classes: int) -> tuple[Tensor, Tensor]:
        label = rows["label"]
        weight = 1 / label.bincount(minlength=classes).clamp(min=1)[label] if self.balanced else torch.ones(len(label))
        hidden = widened(rows["feature"], self.layer)
        shared = hidden * weight.sqrt()[:, None]
        sums = torch.zeros(classes, self.width).index_add_(0, label, hidden * weight[:, None])
        return shared.T @ shared, sums

    def _choose(self, rows: Batch, classes: int) -> float:
        """The ridge with the least squared error on a fifth of every class."""
        out = torch.zeros(len(rows["label"]), dtype=torch.bool)
        for name, members in rows_by_class(rows["label"]).items():
            order = torch.randperm(len(members), generator=generator_at(self.seed, "left out", name))
            out[members[order[: len(members) // 5]]] = True
        if not out.any():
            return GRID[len(GRID) // 2]
        gram, sums = self._statistics({name: values[~out] for name, values in rows.items()}, classes)
        hidden = widened(rows["feature"][out], self.layer)
        target = F.one_hot(rows["label"][out], classes)

        def error(ridge: float) -> float:
            return float((hidden @ solved(gram, sums, ridge).T - target).square().sum())

        return min(GRID, key=error)

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics."""
        return 0 if self.head is None else self.gram.nbytes + self.sums.nbytes


@dataclass(frozen=True)
class RandomHead:
    """A head on random features of a vector.

    Args:
        layer: (D, M).
        linear: on the M features.
    """

    layer: Tensor
    linear: LinearHead

    def __call__(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.linear(widened(feature, self.layer))
        return logits


def widened(feature: Tensor, layer: Tensor) -> Tensor:
    """``relu(x W)`` of vectors (B, D) brought to length sqrt(D), (B, M)."""
    return torch.relu(F.normalize(feature, dim=1) * feature.shape[1] ** 0.5 @ layer)


def solved(gram: Tensor, sums: Tensor, ridge: float) -> Tensor:
    """``C^T (G + ridge g I)^-1``, (classes, M), float32."""
    regular = gram.double()
    regular.diagonal().add_(ridge * regular.diagonal().mean())
    root = torch.linalg.cholesky(regular)
    return torch.cholesky_solve(sums.double().T, root).T.float()
