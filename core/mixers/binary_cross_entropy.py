"""BinaryCrossEntropy: one sigmoid per class, against targets that may be soft (iCaRL)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch.nn.functional as F
from torch import Tensor

from .term import RowTerm
from .view import View


@dataclass(frozen=True)
class BinaryCrossEntropy(RowTerm):
    """Classification and distillation of iCaRL in one (Rebuffi et al., iCaRL: Incremental Classifier and Representation
    Learning, CVPR 2017, Algorithm 3): every class is told from the rest by a sigmoid of its own,

        ``mean over rows and classes of BCE(sigmoid(f(x)), q)``

    where ``q`` is what the network said before the session for the classes it knew, and one-hot for the new ones. The
    paper sums over the classes. A class that is not known yet has NaN in ``q`` and does not count.

    Args:
        draw: name of the draw; None: the new rows.
        logits: output (B, C).
        target: column (B, C) with ``q``, from 0 to 1 or NaN.

    >>> import torch
    >>> view = View({"target": torch.tensor([[1.0, 0.0, torch.nan]])}, {"logits": torch.zeros(1, 3)})
    >>> BinaryCrossEntropy()(view, {})
    {'binary_cross_entropy': tensor(0.6931)}
    """

    _: KW_ONLY
    logits: str = "logits"
    target: str = "target"
    name: str = "binary_cross_entropy"

    def loss(self, view: View) -> Tensor:
        logits, target = view.output(self.logits), view.column(self.target)
        if logits.shape != target.shape:
            raise ValueError(
                f"output {self.logits!r} has shape {tuple(logits.shape)} and column {self.target!r} "
                f"{tuple(target.shape)}; expected the same"
            )
        known = ~target.isnan()
        losses = F.binary_cross_entropy_with_logits(logits, target.nan_to_num(), known.to(logits), reduction="sum")
        return losses / known.sum()
