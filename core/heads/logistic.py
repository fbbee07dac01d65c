"""LogisticRegression: the linear head with the least penalised cross-entropy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..protocols.labels import rows_by_class
from ..protocols.seeding import generator_at
from .linear import LinearHead

GRID = (1.0, 3.0, 10.0, 30.0, 100.0)
"""The values of C that cross-validation chooses from."""


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial logistic regression, solved to convergence in float64,

        ``min over W, b of  C * sum_i w_i CE(W x_i + b, y_i) + ||W - W_0||^2 / 2``

    where ``W_0`` is zero, or the weights of classes that were learned before from rows that are gone: what the memory
    no longer shows is then kept as it was (Daumé III, Frustratingly Easy Domain Adaptation, 2007, discusses such
    priors; Evgeniou and Pontil, Regularized Multi-Task Learning, KDD 2004).

    A loose solution in float32 costs up to 0.7 points of accuracy on few-shot intents.

    Args:
        C: weight of the rows against the penalty; None chooses it by cross-validation on the rows themselves.
        folds: of the cross-validation.
        tolerance: largest entry of the gradient of the mean loss.
        iterations: at most.
    """

    C: float | None = 10.0
    folds: int = 5
    tolerance: float = 1e-7
    iterations: int = 1000

    def __post_init__(self) -> None:
        if self.C is not None and not self.C > 0:
            raise ValueError(f"C is {self.C}; expected a number above 0, or None")
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}; expected at least 2")

    def fit(
        self,
        rows: Mapping[str, Tensor],
        classes: int,
        start: LinearHead | None = None,
        *,
        prior: bool = False,
        seed: int = 0,
    ) -> LinearHead:
        """The head for ``classes`` classes.

        Args:
            rows: ``feature`` (N, D), ``label`` int64 (N,) and, if rows count differently, ``weight`` (N,).
            classes: rows of the head.
            start: a head whose classes come first: where the search starts, which saves time.
            prior: whether ``start`` is ``W_0`` too; the bias is then held in the same way. Otherwise it is free.
            seed: of the folds.
        """
        feature, label = rows["feature"].double().cpu(), rows["label"].cpu()
        weight = rows["weight"].double().cpu() if "weight" in rows else torch.ones(len(label), dtype=torch.float64)
        strength = self.C if self.C is not None else self._choose(feature, label, weight, classes, seed)
        first = _padded(start, classes, feature.shape[1])
        origin = first if prior else torch.zeros_like(first)
        return self._solve(_Problem(feature, label, weight * strength, origin, hold_bias=prior), first)

    def _choose(self, feature: Tensor, label: Tensor, weight: Tensor, classes: int, seed: int) -> float:
        """The C that is best on folds left out; classes of a single row are never left out."""
        fold = torch.full((len(label),), -1)
        for name, members in rows_by_class(label).items():
            if len(members) > 1:
                order = torch.randperm(len(members), generator=generator_at(seed, "folds", name))
                fold[members[order]] = torch.arange(len(members)) % self.folds
        losses = torch.zeros(len(GRID), dtype=torch.float64)
        for number in range(self.folds):
            out = fold == number
            if not out.any():
                continue
            head: LinearHead | None = None
            for i, strength in enumerate(GRID):
                first = _padded(head, classes, feature.shape[1])
                problem = _Problem(feature[~out], label[~out], weight[~out] * strength, torch.zeros_like(first))
                head = self._solve(problem, first)
                losses[i] += F.cross_entropy(head(feature[out].float()).double(), label[out], reduction="sum")
        return GRID[int(losses.argmin())]

    def _solve(self, problem: _Problem, first: Tensor) -> LinearHead:
        from scipy.optimize import minimize

        options = {"maxiter": self.iterations, "maxfun": 2 * self.iterations, "gtol": self.tolerance, "ftol": 0.0}
        found = minimize(problem, problem.scaled(first), jac=True, method="L-BFGS-B", options=options)
        solution = problem.unscaled(found.x).float()
        return LinearHead(solution[:, :-1], solution[:, -1])


def equal_say(label: Tensor) -> Tensor:
    """Weights (N,) of rows, 1 on average, that give every class the same say, however many rows it has.

    >>> equal_say(torch.tensor([0, 0, 0, 1]))
    tensor([0.6667, 0.6667, 0.6667, 2.0000], dtype=torch.float64)
    """
    _, group, counts = label.unique(return_inverse=True, return_counts=True)
    weight: Tensor = (len(label) / len(counts)) / counts[group].double()
    return weight


class _Problem:
    """The objective per row, as a function of variables in which its curvature is about the same in all directions:
    ``W = Z L^-1`` with ``L L^T`` the bound of Boehning (Multinomial logistic regression algorithm, 1992) on it."""

    def __init__(
        self, feature: Tensor, label: Tensor, share: Tensor, origin: Tensor, *, hold_bias: bool = False
    ) -> None:
        self.x = torch.cat([feature, feature.new_ones(len(feature), 1)], 1)
        self.label, self.share, self.origin = label[:, None], share[:, None], origin
        self.total = float(share.sum())
        self.penalised = torch.ones_like(origin[:1])
        self.penalised[0, -1] = float(hold_bias)
        ridge = self.penalised[0].clamp(min=1e-3).diag()
        # half the bound: few probabilities are near one half
        self.root = torch.linalg.cholesky(self.x.T @ (self.x * self.share) / 4 + ridge)

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        w = self.unscaled(flat)
        log_p = (self.x @ w.T).log_softmax(1)
        gap = (w - self.origin) * self.penalised
        loss = 0.5 * gap.square().sum() - (self.share * log_p.gather(1, self.label)).sum()
        residual = log_p.exp_().scatter_add_(1, self.label, -torch.ones_like(self.share)).mul_(self.share)
        gradient = torch.linalg.solve_triangular(self.root, (residual.T @ self.x + gap).T, upper=False).T
        return float(loss) / self.total, (gradient / self.total).flatten().numpy()

    def scaled(self, w: Tensor) -> NDArray[np.float64]:
        """The variables of weights (C, D + 1)."""
        scaled: NDArray[np.float64] = (w @ self.root).flatten().numpy()
        return scaled

    def unscaled(self, flat: NDArray[np.float64]) -> Tensor:
        """The weights (C, D + 1) of the variables."""
        z = torch.from_numpy(flat).view_as(self.origin)
        weights: Tensor = torch.linalg.solve_triangular(self.root.T, z.T, upper=True).T
        return weights


def _padded(head: LinearHead | None, classes: int, dim: int) -> Tensor:
    """Weights and bias (C, D + 1) of a head, zero for the classes it has not."""
    values = torch.zeros(classes, dim + 1, dtype=torch.float64)
    if head is not None:
        values[: head.classes, :dim] = head.weight.detach().double().cpu()
        if head.bias is not None:
            values[: head.classes, dim] = head.bias.detach().double().cpu()
    return values
