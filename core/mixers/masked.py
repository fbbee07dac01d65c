"""MaskedCrossEntropy: new classes do not push old ones away (ER-ACE)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from .cross_entropy import cross_entropy, out_of_range
from .term import RowTerm
from .view import View


@dataclass(frozen=True)
class MaskedCrossEntropy(RowTerm):
    """The asymmetric half of ER-ACE (Caccia et al., New Insights on Reducing Abrupt Representation Change in Online
    Continual Learning, ICLR 2022): cross-entropy of the new rows over the classes present among them alone.

        ``L = CE(new, classes of the new batch) + CE(replayed, classes seen)``
        ``MaskedCrossEntropy() + ReplayCrossEntropy()``

    As in the paper, every absent class is masked. The authors' code leaves classes that no task has shown yet in the
    softmax, and masks nothing in the first task. The replay half here is over all logits, as in the authors' code.

    Args:
        label: integer column (B,) with the class of each row.
        logits: output (B, C).

    >>> view = View({"label": torch.tensor([0, 1])}, {"logits": torch.zeros(2, 10)})
    >>> MaskedCrossEntropy()(view, {})
    {'cross_entropy': tensor(0.6931)}
    """

    _: KW_ONLY
    label: str = "label"
    logits: str = "logits"
    name: str = "cross_entropy"

    def loss(self, view: View) -> Tensor:
        logits, labels = view.output(self.logits), view.column(self.label).long()
        absent = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
        try:
            absent.scatter_(0, labels.reshape(-1), False)
        except RuntimeError:
            raise ValueError(out_of_range(labels, logits.shape[1])) from None
        return cross_entropy(logits.masked_fill(absent, float("-inf")), labels)
