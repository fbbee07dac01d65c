"""Scope: telling texts that belong to no class by how little they resemble the memory."""

from __future__ import annotations

import torch
from torch import Tensor


def choose_threshold(inside: Tensor, outside: Tensor | None = None, kept: float = 0.95) -> float:
    """The similarity below which a text counts as out of scope, from validation texts.

    With examples of texts out of scope it is the one with the best mean of the two rates, texts inside that are kept
    and texts outside that are told; without, the one that keeps the share ``kept`` of the texts inside.

    Args:
        inside: similarity of each validation text that belongs to a class to its nearest row of the memory, (N,).
        outside: likewise of texts that belong to none, (M,).
        kept: see above.

    Raises:
        ValueError: no text inside.

    >>> choose_threshold(torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.2, 0.3]))
    0.5
    """
    if not len(inside):
        raise ValueError("inside is empty; expected at least one validation text that belongs to a class")
    inside = inside.double()
    if outside is None or not len(outside):
        return float(inside.quantile(1 - kept))
    outside = outside.double()
    levels = torch.cat([inside, outside]).unique()
    between = torch.cat([levels[:1] - 1, (levels[1:] + levels[:-1]) / 2])
    inside_sorted, outside_sorted = inside.sort().values, outside.sort().values
    lost = torch.searchsorted(inside_sorted, between) / len(inside)
    told = torch.searchsorted(outside_sorted, between) / len(outside)
    # the widest gap in the similarities among the best, so that the threshold is near no text
    score = told - lost
    best = score >= score.max() - 1e-12
    gap = torch.cat([levels.new_zeros(1), levels.diff()])
    return float(between[int(torch.where(best, gap, -1.0).argmax())])


def area_under_curve(inside: Tensor, outside: Tensor) -> float:
    """How often a text inside is more similar than one outside, in percent: AUROC, ties count half.

    >>> area_under_curve(torch.tensor([0.9, 0.5]), torch.tensor([0.5, 0.1]))
    87.5
    """
    ranked = outside.double().sort().values
    values = inside.double()
    below = torch.searchsorted(ranked, values)
    upto = torch.searchsorted(ranked, values, right=True)
    return 100 * float((below + upto).double().mean()) / 2 / len(outside)
