"""FeatureDistillation: keep the features that rows were stored with."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from .mean_squared_error import differing_shapes, mean_squared_error
from .term import RowTerm, weighted_mean
from .view import View


@dataclass(frozen=True)
class FeatureDistillation(RowTerm):
    """Distance between a draw's features and those it was stored with. Importance weights count.

    ``"mse"``: mean over rows and dimensions of ``(h - s) ** 2`` (Romero et al., FitNets, ICLR 2015).
    ``"cosine"``: mean over rows of ``1 - cos(h, s)``, the less-forget constraint of LUCIR (Hou et al., Learning a
    Unified Classifier Incrementally via Rebalancing, CVPR 2019).

    Args:
        draw: name of the draw; None: the new rows.
        distance: ``"mse"`` or ``"cosine"``.
        feature: output (B, ...).
        stored: column of the same shape.

    >>> import torch
    >>> view = View({"feature": torch.tensor([[1.0, 0.0]])}, {"feature": torch.tensor([[0.0, 2.0]])})
    >>> FeatureDistillation(distance="cosine")(view, {"replay": view})
    {'feature_distillation': tensor(1.)}
    """

    draw: str | None = "replay"
    _: KW_ONLY
    distance: Literal["mse", "cosine"] = "mse"
    feature: str = "feature"
    stored: str = "feature"
    name: str = "feature_distillation"

    def __post_init__(self) -> None:
        if self.distance not in ("mse", "cosine"):
            raise ValueError(f"distance is {self.distance!r}; expected 'mse' or 'cosine'")

    def loss(self, view: View) -> Tensor:
        if self.distance == "mse":
            return mean_squared_error(view, self.feature, self.stored)
        feature, stored = view.output(self.feature), view.column(self.stored)
        if feature.shape != stored.shape:
            raise ValueError(differing_shapes(self.feature, feature, self.stored, stored))
        return weighted_mean(1 - F.cosine_similarity(feature.flatten(1), stored.flatten(1)), view.weights)
