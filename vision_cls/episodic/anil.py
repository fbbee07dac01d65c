"""ANILTraining: features meta-trained so that a few gradient steps of the head learn new classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...core.heads import ANIL, Fitted
from ...core.mixers import Episodic, Transform
from ...core.protocols.episodes import EpisodeBatches, Episodes
from ...core.protocols.seeding import generator_at
from ...core.readout import Readout
from ..backbones import Classifier
from ..data import ImageSet
from .training import Training, train_steps


@dataclass(frozen=True)
class ANILTraining(Training):
    """ANIL (Raghu et al., Rapid Learning or Feature Reuse?, ICLR 2020), see `memreplay.core.heads.ANIL`. The paper
    averages the loss of several episodes per step; here it is one.

    Args:
        way: classes per episode, in training and in use.
        shot: shots per class.
        query: queries per class.
        episodes: optimizer steps.
        rate: of the inner steps.
        steps: inner steps.
        lr: learning rate of Adam at the start.
        augment: changes the images of an episode.
    """

    way: int = 5
    shot: int = 1
    query: int = 15
    episodes: int = 2000
    rate: float = 0.1
    steps: int = 5
    lr: float = 0.001
    augment: Transform | None = None

    def train(self, model: Classifier, base: ImageSet, *, seed: int = 0, **options: Any) -> Readout:
        """See `Training`; the readout is for episodes of this ``way`` alone."""
        anil = ANIL(model.head.in_features, self.way, self.rate, self.steps, generator_at(seed, "anil"))
        drawn = Episodes(base.labels, self.way, self.shot, self.query, self.episodes, seed)
        loader = EpisodeBatches(base.batch, drawn, self.augment)
        parameters = [*model.body.parameters(), *anil.parameters()]
        train_steps(model, parameters, loader, Episodic(anil), steps=self.episodes, lr=self.lr, **options)
        return Fitted(anil)
