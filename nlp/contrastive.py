"""ContrastivePairs: texts of a class are drawn together, new and replayed ones alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.mixers.term import Composable
from ..core.mixers.view import View


@dataclass(frozen=True)
class ContrastivePairs(Composable):
    """Two pairs for each row, one of its own class and one of another, and the loss of Sentence-BERT on their cosine
    (Reimers and Gurevych, EMNLP 2019; Tunstall et al., Efficient Few-Shot Learning Without Prompts, 2022):

        ``mean over pairs (a, b) of (cos(f_a, f_b) - [y_a = y_b]) ** 2``

    Pairs are taken among the new and the recalled rows together: a row's partner of the same class is the next one in
    the batch, around, and its partner of another class the next one too. There are two per row, whatever the batch or
    the data: O(batch), never all pairs of all texts.

    Args:
        draws: names of the draws that enter; None: all of them.
        feature: output (B, D).
        label: integer column (B,).

    >>> new = View({"label": torch.tensor([0, 0, 1])}, {"feature": torch.eye(3)})
    >>> ContrastivePairs()(new, {})["contrastive_pairs"]
    tensor(0.4000)
    """

    draws: tuple[str, ...] | None = None
    feature: str = "feature"
    label: str = "label"
    name: str = "contrastive_pairs"

    def __call__(self, new: View, old: Mapping[str, View]) -> dict[str, Tensor]:
        views = [new, *(old[name] for name in (old if self.draws is None else self.draws) if name in old)]
        feature = F.normalize(torch.cat([view.output(self.feature) for view in views]), dim=1)
        labels = torch.cat([view.column(self.label).to(feature.device) for view in views])
        first, second = pairs(labels)
        cosine = (feature[first] * feature[second]).sum(1)
        return {self.name: F.mse_loss(cosine, (labels[first] == labels[second]).to(cosine.dtype))}

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(self.draws or ())


def pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of both members of every pair: each row with the next of its class, if it has another, and with the
    next row of another class, if there is one.

    >>> first, second = pairs(torch.tensor([5, 5, 7]))
    >>> list(zip(first.tolist(), second.tolist()))
    [(0, 1), (1, 0), (0, 2), (1, 2), (2, 0)]
    """
    n = len(labels)
    order = torch.sort(labels, stable=True).indices
    sorted_labels = labels[order]
    place = torch.arange(n, device=labels.device)
    starts = torch.searchsorted(sorted_labels, sorted_labels)
    ends = torch.searchsorted(sorted_labels, sorted_labels, right=True)
    following = torch.where(place + 1 < ends, place + 1, starts)
    several = ends - starts > 1
    same = torch.empty_like(place)
    same[order] = order[following]
    has_same = torch.empty_like(several)
    has_same[order] = several
    # rows of other classes follow the end of a row's own class, around
    other = torch.empty_like(place)
    others = n - (ends - starts)
    other[order] = order[(ends + (place - starts) % others.clamp(min=1)) % max(n, 1)]
    has_other = labels[other] != labels
    first = torch.cat([place[has_same], place[has_other]])
    return first, torch.cat([same[has_same], other[has_other]])
