"""Simplex: directions that are as far from each other as can be."""

from __future__ import annotations

import torch
from torch import Tensor


def simplex(classes: int, dim: int, generator: torch.Generator) -> Tensor:
    """A simplex equiangular tight frame, ``sqrt(K / (K - 1)) U (I - 1 1^T / K)`` with orthonormal columns U drawn at
    random: K directions (K, D) of length 1, any two of which have the cosine ``-1 / (K - 1)``. To these the means of
    classes collapse when a network is trained to the end on balanced data (Papyan, Han and Donoho, Prevalence of Neural
    Collapse, PNAS 2020).

    Args:
        classes: K, at least 2.
        dim: D, at least K.
        generator: of U.

    Raises:
        ValueError: fewer dimensions than classes, or a single class.

    >>> frame = simplex(3, 4, torch.Generator().manual_seed(0))
    >>> (frame @ frame.T).mul(2).round().int().tolist()
    [[2, -1, -1], [-1, 2, -1], [-1, -1, 2]]
    """
    if not 2 <= classes <= dim:
        raise ValueError(f"classes is {classes} and dim is {dim}; expected at least 2 classes and as many dimensions")
    basis = torch.linalg.qr(torch.randn(dim, classes, generator=generator, dtype=torch.float64)).Q
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    frame: Tensor = (classes / (classes - 1)) ** 0.5 * (basis @ centred).T
    return frame.float()
