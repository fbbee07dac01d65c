"""PrototypeLoss: classify the new rows by the class means of a draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .term import Composable
from .view import View


@dataclass(frozen=True)
class PrototypeLoss(Composable):
    """Cross-entropy of the new rows over similarities to class means, the prototypes, of a draw (Snell et al.,
    Prototypical Networks for Few-shot Learning, NeurIPS 2017): ``-log softmax_c(scale * s(h, mean_c))`` at the row's
    class, with ``s = -|h - mean_c| ** 2`` or, as Gidaris and Komodakis (Dynamic Few-Shot Visual Learning without
    Forgetting, CVPR 2018), ``s = cos(h, mean_c)``.

    New rows are the query set, the draw is the support set; gradients reach both. A new row whose class has no row
    in the draw does not count; where no row counts the loss is 0.

    Args:
        draw: name of the draw with the support rows.
        metric: ``"euclidean"`` or ``"cosine"``.
        scale: factor of the similarities; None: 1 for euclidean, 10 for cosine.
        feature: output (B, D).
        label: integer column (B,); the values need not be 0 .. C - 1.

    >>> support = View({"label": torch.tensor([5, 7])}, {"feature": torch.tensor([[0.0], [2.0]])})
    >>> query = View({"label": torch.tensor([7])}, {"feature": torch.tensor([[1.0]])})
    >>> PrototypeLoss()(query, {"replay": support})
    {'prototype': tensor(0.6931)}
    """

    draw: str = "replay"
    _: KW_ONLY
    metric: Literal["euclidean", "cosine"] = "euclidean"
    scale: float | None = None
    feature: str = "feature"
    label: str = "label"
    name: str = "prototype"

    def __post_init__(self) -> None:
        if self.metric not in ("euclidean", "cosine"):
            raise ValueError(f"metric is {self.metric!r}; expected 'euclidean' or 'cosine'")
        if self.scale is not None and not self.scale > 0:
            raise ValueError(f"scale is {self.scale}; expected a number above 0")

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        support = old.get(self.draw)
        return {} if support is None else {self.name: self._loss(new, support)}

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset({self.draw})

    def _loss(self, query: View, support: View) -> Tensor:
        features, labels = query.output(self.feature), query.column(self.label)
        classes, prototypes = class_means(support.output(self.feature), support.column(self.label))
        position = torch.searchsorted(classes, labels.contiguous()).clamp_(max=len(classes) - 1)
        known = classes[position] == labels
        target = torch.where(known, position, -100)
        losses = F.cross_entropy(self._similarity(features, prototypes), target, ignore_index=-100, reduction="sum")
        return losses / known.sum().clamp(min=1)

    def _similarity(self, features: Tensor, prototypes: Tensor) -> Tensor:
        if self.metric == "cosine":
            return (self.scale or 10.0) * F.normalize(features) @ F.normalize(prototypes).T
        # |h|^2 is the same for every class and drops out of the softmax
        return (self.scale or 1.0) * (2 * features @ prototypes.T - prototypes.square().sum(1))


def class_means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The classes among ``labels`` (B,), ascending, and the mean of ``features`` (B, D) of each, (C, D).

    >>> class_means(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([9, 3, 9]))
    (tensor([3, 9]), tensor([[2.0000],
            [2.5000]]))
    """
    classes, group, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(classes), features.shape[1]).index_add(0, group, features)
    return classes, sums / counts.unsqueeze(1)
