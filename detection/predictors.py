"""Predictors: the last layers of a box head, grown by new classes, or with cosines for scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory import FORGOTTEN


class CosineScores(nn.Linear):
    """Scores by cosine similarity, ``scale * cos(w_c, x)``, in place of the linear layer of a predictor (Wang et al.,
    Frustratingly Simple Few-Shot Object Detection, ICML 2020, with their scale of 20).

    The bias does not learn; it marks classes that were forgotten.

    Args:
        width: numbers that describe a region.
        scores: how many.
        scale: the alpha of the paper.

    >>> layer = CosineScores(3, 2)
    >>> _ = nn.init.eye_(layer.weight)
    >>> layer(torch.tensor([[5.0, 0.0, 0.0]])).tolist()
    [[20.0, 0.0]]
    """

    def __init__(self, width: int, scores: int, scale: float = 20.0) -> None:
        super().__init__(width, scores)
        self.scale = scale
        del self.bias
        self.register_buffer("bias", torch.zeros(scores))

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, C) of regions (B, D)."""
        return self.scale * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1)) + self.bias


@torch.no_grad()
def use_cosines(predictor: nn.Module) -> None:
    """Turns the layer ``cls_score`` of a predictor into `CosineScores`, if it is none. It starts with the same weights,
    as in the paper for the base classes.
    """
    scores = predictor.cls_score
    assert isinstance(scores, nn.Linear)
    if not isinstance(scores, CosineScores):
        made = CosineScores(scores.in_features, scores.out_features).to(scores.weight)
        made.weight.copy_(scores.weight)
        made.bias.copy_(torch.where(scores.bias <= FORGOTTEN, scores.bias, 0))
        predictor.cls_score = made


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
    weight, bias, *boxes = parts_of(predictor, label, background_last=background_last)
    for part in (weight, *boxes):
        part.zero_()
    bias.fill_(FORGOTTEN)


def parts_of(predictor: nn.Module, label: int, *, background_last: bool = False) -> list[Tensor]:
    """The weights that are those of one class alone, as views: of its score, and of its boxes if it has its own."""
    scores, boxes = predictor.cls_score, predictor.bbox_pred
    assert isinstance(scores, nn.Linear)
    assert isinstance(boxes, nn.Linear)
    place = label if background_last else label + 1
    found = [scores.weight[place], scores.bias[place]]
    if boxes.out_features > 4:
        found += [values[4 * place : 4 * place + 4] for values in (boxes.weight, boxes.bias)]
    return found


def _inserted(layer: nn.Linear, weight: Tensor, bias: Tensor, at: int) -> nn.Linear:
    """``layer`` with rows more, from place ``at`` on."""
    kind = CosineScores if isinstance(layer, CosineScores) else nn.Linear
    made = kind(layer.in_features, layer.out_features + len(weight)).to(weight)
    made.weight.copy_(torch.cat([layer.weight[:at], weight, layer.weight[at:]]))
    made.bias.copy_(torch.cat([layer.bias[:at], bias, layer.bias[at:]]))
    made.weight.requires_grad_(layer.weight.requires_grad)
    made.bias.requires_grad_(layer.bias.requires_grad)
    return made
