"""LogitDistillation: keep the logits that rows were stored with (DER)."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .mean_squared_error import squared_error
from .term import RowTerm
from .view import View


@dataclass(frozen=True)
class LogitDistillation(RowTerm):
    """Squared distance between a draw's logits and those it was stored with (Buzzega et al., Dark Experience for
    General Continual Learning, NeurIPS 2020): ``mean over rows and classes of (f(x) - z) ** 2``.

    DER++ is ``CrossEntropy() + beta * ReplayCrossEntropy("labels") + alpha * LogitDistillation("logits")``.
    A row is compared on the classes that were known when it was stored: classes beyond the width of the stored
    column, and those it holds NaN for (`Growable`), do not count. Importance weights do.

    Args:
        draw: name of the draw.
        logits: output (B, C).
        stored: column (B, W), W at most C.

    >>> view = View({"logits": torch.tensor([[1.0, torch.nan]])}, {"logits": torch.tensor([[3.0, 9.0, 9.0]])})
    >>> LogitDistillation()(view, {"replay": view})
    {'logit_distillation': tensor(4.)}
    """

    draw: str | None = "replay"
    _: KW_ONLY
    logits: str = "logits"
    stored: str = "logits"
    name: str = "logit_distillation"

    def loss(self, view: View) -> Tensor:
        logits, stored, unknown = known_classes(view, self.logits, self.stored)
        if unknown is None:
            return squared_error(logits, stored, view.weights)
        errors = F.mse_loss(logits, torch.where(unknown, logits.detach(), stored), reduction="none")
        counted = (~unknown).to(errors.dtype)
        if view.weights is not None:
            counted = counted * view.weights.to(errors.dtype).unsqueeze(1)
        return (errors * counted).sum() / counted.sum()


def known_classes(view: View, logits: str, stored: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """The output and the stored logits over the classes of the stored column, and which of those are NaN (all (B, W)).

    On the CPU the last is None where there are none; on a GPU it is always a mask, so that nothing waits for it.

    Raises:
        ValueError: the column is wider than the output.
    """
    found, kept = view.output(logits), view.column(stored)
    if found.dim() != 2 or kept.dim() != 2 or kept.shape[1] > found.shape[1]:
        shapes = f"column {stored!r} has shape {tuple(kept.shape)} and output {logits!r} {tuple(found.shape)}"
        raise ValueError(f"{shapes}; expected (B, W) and (B, C) with W at most C")
    if kept.shape[1] < found.shape[1]:
        found = found[:, : kept.shape[1]]
    unknown = kept.isnan()
    return found, kept, None if kept.is_cpu and not unknown.any() else unknown
