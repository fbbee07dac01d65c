"""Scatter: how the rows of each class spread about their mean, kept online and mergeable."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor


class Scatter(ABC):
    """Sums of products of the rows' deviations from their class mean, for classes in slots 0 .. C - 1.

    Everything is float64. A covariance is ``scale * matrix + diag(floor)``, where the caller divides by the degrees of
    freedom and shrinks by the choice of ``scale`` (C,) and ``floor`` (D,).

    Attributes:
        tensors: all that it knows, by name, one slot per class in the first dimension.
    """

    tensors: dict[str, Tensor]

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @abstractmethod
    def of(self, deviations: Tensor, group: Tensor, groups: int) -> Scatter:
        """The scatter of a batch: ``deviations`` (B, D) from the mean of its ``group`` (B,), as ``groups`` slots."""

    @abstractmethod
    def absorb(self, slots: Tensor, other: Scatter, weight: Tensor, gap: Tensor) -> None:
        """Adds the slots of ``other`` to ``slots`` (G,). With means ``gap`` (G, D) apart and ``weight = n m / (n + m)``
        (G,) for n and m rows, ``S = S_a + S_b + weight gap gap'`` (Chan, Golub and LeVeque 1979)."""

    @abstractmethod
    def diagonal(self) -> Tensor:
        """Diagonals, (C, D)."""

    @abstractmethod
    def matrix(self, slot: int) -> Tensor:
        """The scatter matrix of a class, (D, D), not a copy."""

    @abstractmethod
    def deviate(
        self, slots: Tensor, scale: Tensor, floor: Tensor, roots: dict[int, Tensor], generator: torch.Generator
    ) -> Tensor:
        """Random deviations (n, D) from the means of ``slots`` (n,). Matrix roots are remembered in ``roots``."""

    def degrees(self, counts: Tensor) -> Tensor:
        """Degrees of freedom of every slot, for classes of ``counts`` (C,) rows; at least 1."""
        return (counts - 1).clamp(min=1).double()

    def pooled(self, counts: Tensor) -> Tensor:
        """Variances within the classes, all taken together, (D,)."""
        return self.diagonal().sum(0) / (counts - 1).sum().clamp(min=1).item()

    def grow(self, extra: int) -> None:
        """``extra`` further slots, of classes without rows."""
        for name, values in self.tensors.items():
            self.tensors[name] = torch.cat([values, values.new_zeros(extra, *values.shape[1:])])

    def keep(self, slots: Tensor) -> None:
        """Only ``slots``, renumbered in their order."""
        self.tensors = {name: values[slots.to(values.device)] for name, values in self.tensors.items()}

    def to(self, device: torch.device) -> Self:
        """The same scatter on another device."""
        return type(self)({name: values.to(device) for name, values in self.tensors.items()})


class Diagonal(Scatter):
    """Sums of squares: variances without covariances, exact, D numbers per class."""

    @staticmethod
    def empty(dim: int, device: torch.device) -> Diagonal:
        return Diagonal({"diagonal": torch.zeros(0, dim, dtype=torch.float64, device=device)})

    def of(self, deviations: Tensor, group: Tensor, groups: int) -> Diagonal:
        return Diagonal({"diagonal": _sums_of_squares(deviations, group, groups)})

    def absorb(self, slots: Tensor, other: Scatter, weight: Tensor, gap: Tensor) -> None:
        self.tensors["diagonal"][slots] += other.tensors["diagonal"] + weight[:, None] * gap.square()

    def diagonal(self) -> Tensor:
        return self.tensors["diagonal"]

    def matrix(self, slot: int) -> Tensor:
        return self.tensors["diagonal"][slot].diag()

    def deviate(
        self, slots: Tensor, scale: Tensor, floor: Tensor, roots: dict[int, Tensor], generator: torch.Generator
    ) -> Tensor:
        variance = scale[slots, None] * self.tensors["diagonal"][slots] + floor
        return variance.sqrt() * normal(variance.shape, floor.device, generator)


class LowRank(Scatter):
    """The exact diagonal and, beside it, the leading ``rank`` directions: (rank + 1) D numbers per class.

    The directions are an incremental singular value decomposition (Ross, Lim, Lin and Yang 2008, "Incremental Learning
    for Robust Visual Tracking", without forgetting factor): the old directions, the new ones and the gap between the
    means are decomposed together and cut to ``rank``. As long as a class has at most ``rank + 1`` rows this is exact.
    Afterwards each cut drops what lies outside the leading directions, so that the result depends slightly on how the
    rows were batched; its variances stay exact, and the sum stays a valid covariance, because the dropped part goes to
    the diagonal.
    """

    @staticmethod
    def empty(rank: int, dim: int, device: torch.device) -> LowRank:
        diagonal = torch.zeros(0, dim, dtype=torch.float64, device=device)
        return LowRank({"diagonal": diagonal, "factor": diagonal.new_zeros(0, rank, dim)})

    def of(self, deviations: Tensor, group: Tensor, groups: int) -> LowRank:
        rank = min(self.tensors["factor"].shape[1], int(torch.bincount(group).max()))
        factors = [_leading(deviations[group == g], rank) for g in range(groups)]
        diagonal = _sums_of_squares(deviations, group, groups)
        return LowRank({"diagonal": diagonal, "factor": torch.stack(factors)})

    def absorb(self, slots: Tensor, other: Scatter, weight: Tensor, gap: Tensor) -> None:
        factor = self.tensors["factor"]
        bridge = weight.sqrt()[:, None] * gap
        self.tensors["diagonal"][slots] += other.tensors["diagonal"] + bridge.square()
        parts = torch.cat([factor[slots], other.tensors["factor"], bridge[:, None]], dim=1)
        factor[slots] = _leading(parts, factor.shape[1])

    def diagonal(self) -> Tensor:
        return self.tensors["diagonal"]

    def matrix(self, slot: int) -> Tensor:
        factor = self.tensors["factor"][slot]
        return factor.T @ factor + self._residual(torch.tensor([slot])).squeeze(0).diag()

    def deviate(
        self, slots: Tensor, scale: Tensor, floor: Tensor, roots: dict[int, Tensor], generator: torch.Generator
    ) -> Tensor:
        factor = self.tensors["factor"]
        spread = (scale[slots, None] * self._residual(slots) + floor).sqrt()
        along = normal((len(slots), 1, factor.shape[1]), factor.device, generator) @ factor[slots]
        across = spread * normal(spread.shape, factor.device, generator)
        return scale[slots, None].sqrt() * along.squeeze(1) + across

    def _residual(self, slots: Tensor) -> Tensor:
        explained = self.tensors["factor"][slots].square().sum(1)
        return (self.tensors["diagonal"][slots] - explained).clamp(min=0)


class Full(Scatter):
    """The whole matrix, exact, D * D numbers per class."""

    @staticmethod
    def empty(dim: int, device: torch.device) -> Full:
        return Full({"matrix": torch.zeros(0, dim, dim, dtype=torch.float64, device=device)})

    def of(self, deviations: Tensor, group: Tensor, groups: int) -> Full:
        parts = [deviations[group == g] for g in range(groups)]
        return Full({"matrix": torch.stack([part.T @ part for part in parts])})

    def absorb(self, slots: Tensor, other: Scatter, weight: Tensor, gap: Tensor) -> None:
        matrix = self.tensors["matrix"]
        bridge = weight.sqrt()[:, None] * gap
        for slot, extra, apart in zip(slots.tolist(), other.tensors["matrix"], bridge, strict=True):
            matrix[slot].add_(extra).addr_(apart, apart)

    def diagonal(self) -> Tensor:
        return self.tensors["matrix"].diagonal(dim1=1, dim2=2)

    def matrix(self, slot: int) -> Tensor:
        return self.tensors["matrix"][slot]

    def deviate(
        self, slots: Tensor, scale: Tensor, floor: Tensor, roots: dict[int, Tensor], generator: torch.Generator
    ) -> Tensor:
        noise = normal((len(slots), len(floor)), floor.device, generator)
        for slot in torch.unique(slots).tolist():
            if slot not in roots:
                roots[slot] = square_root(scale[slot] * self.matrix(slot) + floor.diag())
            here = slots == slot
            noise[here] = noise[here] @ roots[slot].T
        return noise


class Shared(Scatter):
    """One matrix for all classes, exact: the pooled scatter within classes. D * D numbers in all.

    It cannot tell whose deviations it holds: a class that is forgotten leaves its mean, not its share of the matrix.
    """

    @staticmethod
    def empty(dim: int, device: torch.device) -> Shared:
        matrix = torch.zeros(1, dim, dim, dtype=torch.float64, device=device)
        return Shared({"matrix": matrix, "degrees": torch.zeros(1, dtype=torch.int64, device=device)})

    def of(self, deviations: Tensor, group: Tensor, groups: int) -> Shared:
        degrees = torch.tensor([len(deviations) - groups], device=deviations.device)
        return Shared({"matrix": (deviations.T @ deviations)[None], "degrees": degrees})

    def absorb(self, slots: Tensor, other: Scatter, weight: Tensor, gap: Tensor) -> None:
        self.tensors["matrix"][0] += other.tensors["matrix"][0] + gap.T @ (weight[:, None] * gap)
        # each mean that two parts estimated apart and now share gives a degree of freedom back
        self.tensors["degrees"] += other.tensors["degrees"] + (weight > 0).sum()

    def diagonal(self) -> Tensor:
        return self.tensors["matrix"].diagonal(dim1=1, dim2=2)

    def matrix(self, slot: int) -> Tensor:
        return self.tensors["matrix"][0]

    def deviate(
        self, slots: Tensor, scale: Tensor, floor: Tensor, roots: dict[int, Tensor], generator: torch.Generator
    ) -> Tensor:
        if 0 not in roots:  # single precision, which the noise has as well, in half the time
            roots[0] = square_root(scale[0] * self.matrix(0) + floor.diag()).T.float()
        noise = normal((len(slots), len(floor)), floor.device, generator).float()
        return (noise @ roots[0]).double()

    def degrees(self, counts: Tensor) -> Tensor:
        return self.tensors["degrees"].clamp(min=1).double().expand(len(counts))

    def pooled(self, counts: Tensor) -> Tensor:
        return self.diagonal()[0] / self.tensors["degrees"].clamp(min=1).item()

    def grow(self, extra: int) -> None:
        pass

    def keep(self, slots: Tensor) -> None:
        pass


def empty_scatter(kind: str, dim: int, device: torch.device) -> Scatter:
    """A scatter without classes.

    Raises:
        ValueError: ``kind`` is not "diag", "shared", "full" or "lowrank:r" with r of at least 1.
    """
    if kind == "diag":
        return Diagonal.empty(dim, device)
    if kind == "shared":
        return Shared.empty(dim, device)
    if kind == "full":
        return Full.empty(dim, device)
    rank = re.fullmatch(r"lowrank:([1-9]\d*)", kind)
    if rank is None:
        raise ValueError(f"covariance is {kind!r}; expected 'diag', 'shared', 'full' or 'lowrank:r' with r at least 1")
    return LowRank.empty(min(int(rank[1]), dim), dim, device)


def square_root(covariance: Tensor) -> Tensor:
    """R (D, D) with ``R R' = covariance``: the Cholesky factor, or one from eigenvectors where the matrix is singular.

    >>> square_root(torch.tensor([[4.0, 0.0], [0.0, 9.0]]).double()).diagonal().tolist()
    [2.0, 3.0]
    """
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        values, vectors = torch.linalg.eigh(covariance)
        factor = vectors * values.clamp(min=0).sqrt()
    return factor


def normal(shape: tuple[int, ...], device: torch.device, generator: torch.Generator) -> Tensor:
    """Standard normal numbers from a CPU generator, the same on every device; float64, of float32 resolution."""
    return torch.randn(shape, dtype=torch.float32, generator=generator).to(device, torch.float64)


def _sums_of_squares(deviations: Tensor, group: Tensor, groups: int) -> Tensor:
    return deviations.new_zeros(groups, deviations.shape[1]).index_add_(0, group, deviations.square())


def _leading(rows: Tensor, rank: int) -> Tensor:
    """The best factor F (..., rank, D) with ``F' F`` near ``rows' rows``, for rows (..., n, D)."""
    n, dim = rows.shape[-2:]
    if n <= dim:
        across = torch.linalg.eigh(rows @ rows.mT)[1]
        factor = across.flip(-1).mT[..., :rank, :] @ rows
    else:
        values, along = torch.linalg.eigh(rows.mT @ rows)
        factor = (along * values.clamp(min=0).sqrt()[..., None, :]).flip(-1).mT[..., :rank, :]
    missing = rank - factor.shape[-2]
    return torch.nn.functional.pad(factor, (0, 0, 0, missing)) if missing else factor
