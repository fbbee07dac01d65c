"""ProtoNet: features meta-trained so that queries are near the mean of the shots of their class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.mixers import Episodic, PrototypeLoss, Transform
from ...core.protocols.episodes import EpisodeBatches, Episodes
from ...core.readout import NearestClassMean, Readout
from ..backbones import Classifier
from ..data import ImageSet
from .training import Training, train_steps


@dataclass(frozen=True)
class ProtoNet(Training):
    """Prototypical networks (Snell, Swersky and Zemel, Prototypical Networks for Few-shot Learning, NeurIPS 2017):

        ``-log softmax_c(-|f(x) - p_c|^2)`` at the class of the query, with ``p_c`` the mean of ``f`` over its shots

    over training episodes of the base classes, with more ways than will be judged. The paper halves its learning rate
    in steps; here it falls along a cosine.

    Args:
        way: classes per training episode; at most those that there are.
        shot: shots per class.
        query: queries per class.
        episodes: optimizer steps.
        lr: learning rate of Adam at the start.
        augment: changes the images of an episode.
    """

    way: int = 30
    shot: int = 1
    query: int = 5
    episodes: int = 2000
    lr: float = 0.001
    augment: Transform | None = None

    def train(self, model: Classifier, base: ImageSet, *, seed: int = 0, **options: Any) -> Readout:
        """See `Training`."""
        way = min(self.way, len(base.classes))
        drawn = Episodes(base.labels, way, self.shot, self.query, self.episodes, seed)
        loader = EpisodeBatches(base.batch, drawn, self.augment)
        term = Episodic(PrototypeLoss("support"))
        train_steps(model, model.body.parameters(), loader, term, steps=self.episodes, lr=self.lr, **options)
        return NearestClassMean("euclidean")
