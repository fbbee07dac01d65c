"""Narrow: directions in int16, which tell at half the cost what a product with them is at most."""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor

from .vectors import inverse

PANEL, STEP = 16, 16
"""Directions that are multiplied together, and what their length is a multiple of; known to `_scan.c`."""

UNIT = 32000.0
"""The length that rows and directions are scaled to. Sums of products of any of their numbers stay below 2 ** 31."""


class Narrow:
    """Directions (Q, D) as `Best.search` needs them.

    A row x and a direction d are scaled to length `UNIT` and rounded, so that each moves by at most half a step in each
    of D numbers: by a part r = sqrt(D) / 2 / UNIT of its length. So ``x . d`` is at most ``(p / UNIT ** 2 + 2 r +
    r ** 2) |x| |d|``, where p is the product of the rounded ones. Sums of D numbers of float32 lose less than
    D / 2 ** 24 of that in addition, and the few other steps less than 2e-6.

    Attributes:
        directions: (Q, D).
        panels: int16 (P, D / 2, PANEL, 2), the directions rounded, with zeros after Q and D.
        reach: (P * PANEL,), ``|d| / UNIT ** 2``.
        slack: (P * PANEL,), what is added to ``p * reach``, times ``|d|``; infinite where the length is not known well.
    """

    def __init__(self, directions: Tensor) -> None:
        q, dim = directions.shape
        padded, wide = -(-dim // STEP) * STEP, -(-q // PANEL) * PANEL
        lengths = torch.linalg.vector_norm(directions, dim=1)
        known = (lengths > 1e-15) & (lengths < 1e15)
        rounded = torch.zeros(wide, padded, dtype=torch.int16)
        rounded[:q, :dim] = (directions * (UNIT * inverse(lengths) * known).unsqueeze(1)).nan_to_num_().round_().short()
        self.directions = directions.contiguous()
        self.panels = rounded.view(-1, PANEL, padded // 2, 2).transpose(1, 2).contiguous()
        r = sqrt(dim) / 2 / UNIT
        part = 2 * r + r**2 + dim / 2**24 + 2e-6
        self.reach, self.slack = torch.zeros(wide), torch.zeros(wide)
        self.reach[:q] = lengths / UNIT**2 * known
        self.slack[:q] = torch.where(known, lengths * part, torch.inf)
