"""Predictors: the last layers of a box head, grown by new classes, or with cosines in place of products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory import FORGOTTEN


class CosinePredictor(nn.Module):
    """Scores by cosine similarity, boxes by a linear layer; ``scale * cos(w_c, x)`` (Wang et al., Frustratingly Simple
    Few-Shot Object Detection, ICML 2020, with their scale of 20).

    Args:
        width: numbers that describe a region.
        classes: number of classes; the background is one more, and the first.
        scale: the alpha of the paper.
    """

    def __init__(self, width: int, classes: int, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = scale
        self.cls_score = nn.Linear(width, classes + 1)
        nn.init.zeros_(self.cls_score.bias)
        # the bias does not learn; it marks classes that were forgotten
        self.cls_score.bias.requires_grad_(False)
        self.bbox_pred = nn.Linear(width, 4 * (classes + 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, C + 1) and box corrections (B, 4 (C + 1)) of regions (B, D)."""
        x = x.flatten(1)
        weight = F.normalize(self.cls_score.weight, dim=1)
        return self.scale * F.linear(F.normalize(x, dim=1), weight) + self.cls_score.bias, self.bbox_pred(x)

    def requires_grad_(self, requires_grad: bool = True) -> CosinePredictor:
        super().requires_grad_(requires_grad)
        self.cls_score.bias.requires_grad_(False)
        return self

    @staticmethod
    def of(predictor: nn.Module) -> CosinePredictor:
        """One that starts with the weights of a linear predictor, as the paper does for the base classes."""
        scores = predictor.cls_score
        assert isinstance(scores, nn.Linear)
        made = CosinePredictor(scores.in_features, scores.out_features - 1).to(scores.weight.device)
        with torch.no_grad():
            made.cls_score.weight.copy_(scores.weight)
            made.cls_score.bias.copy_(torch.where(scores.bias <= FORGOTTEN, scores.bias, 0))
        made.bbox_pred.load_state_dict(predictor.bbox_pred.state_dict())  # type: ignore[union-attr]
        return made


@torch.no_grad()
def grow(predictor: nn.Module, classes: int, generator: torch.Generator, *, background_last: bool = False) -> None:
    """Adds classes to a predictor with the layers ``cls_score`` and ``bbox_pred``, in place.

    The weights that are there stay as they are. Scores of new classes start near 0, with random weights of standard
    deviation 0.01; their boxes start with the mean correction of the classes that are there.

    Args:
        classes: how many to add.
        background_last: whether the background has the last score, and no box, or the first, with a box.

    >>> predictor = nn.Module()
    >>> predictor.cls_score, predictor.bbox_pred = nn.Linear(8, 3), nn.Linear(8, 12)
    >>> grow(predictor, 2, torch.Generator())
    >>> predictor.cls_score.out_features, predictor.bbox_pred.out_features
    (5, 20)

    Raises:
        ValueError: ``classes`` is below 1.
    """
    if classes < 1:
        raise ValueError(f"classes is {classes}; expected at least 1")
    scores, boxes = predictor.cls_score, predictor.bbox_pred
    assert isinstance(scores, nn.Linear)
    assert isinstance(boxes, nn.Linear)
    weight = 0.01 * torch.randn(classes, scores.in_features, generator=generator)
    at = scores.out_features - 1 if background_last else scores.out_features
    predictor.cls_score = _inserted(scores, weight.to(scores.weight), scores.bias.new_zeros(classes), at)
    if boxes.out_features == 4:  # one correction for all classes
        return
    first = 0 if background_last else 1
    mean_weight = boxes.weight.unflatten(0, (-1, 4))[first:].mean(0).repeat(classes, 1)
    mean_bias = boxes.bias.unflatten(0, (-1, 4))[first:].mean(0).repeat(classes)
    predictor.bbox_pred = _inserted(boxes, mean_weight, mean_bias, boxes.out_features)


@torch.no_grad()
def drop(predictor: nn.Module, label: int, *, background_last: bool = False) -> None:
    """Erases the weights of a class, in place: its score becomes so low that it is never predicted."""
    scores, boxes = predictor.cls_score, predictor.bbox_pred
    assert isinstance(scores, nn.Linear)
    assert isinstance(boxes, nn.Linear)
    place = label if background_last else label + 1
    scores.weight[place] = 0
    scores.bias[place] = FORGOTTEN
    if boxes.out_features > 4:
        boxes.weight[4 * place : 4 * place + 4] = 0
        boxes.bias[4 * place : 4 * place + 4] = 0


def _inserted(layer: nn.Linear, weight: Tensor, bias: Tensor, at: int) -> nn.Linear:
    """``layer`` with rows more, from place ``at`` on."""
    made = nn.Linear(layer.in_features, layer.out_features + len(weight), device=weight.device, dtype=weight.dtype)
    made.weight.copy_(torch.cat([layer.weight[:at], weight, layer.weight[at:]]))
    made.bias.copy_(torch.cat([layer.bias[:at], bias, layer.bias[at:]]))
    made.weight.requires_grad_(layer.weight.requires_grad)
    made.bias.requires_grad_(layer.bias.requires_grad)
    return made
