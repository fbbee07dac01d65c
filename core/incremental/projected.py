"""ProjectedReplay: a small projection onto directions fixed beforehand, with drawn vectors of the old classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..batch import Batch
from ..heads import simplex
from ..heads.trained import outputs_of
from ..loading import batches
from ..memory import ReplayMemory
from ..mixers import CrossEntropy, ReplayCrossEntropy
from ..protocols.seeding import generator_at
from ..stores import GaussianStore
from ..training import fit
from .method import Head


@dataclass
class ProjectedReplay:
    """The family of NC-FSCIL (Yang et al., Neural Collapse Inspired Feature-Classifier Alignment for Few-Shot Class
    Incremental Learning, ICLR 2023): every class that will ever come is assigned a direction of a `simplex` before the
    first session, and what is trained is a small network ``g`` towards them,

        ``logits_c = scale * cos(g(x), direction_c)``,  ``g(x) = A leaky_relu(B x)``.

    The first session trains ``g`` on its rows; each later one trains it further on the new rows and on as many vectors
    drawn from the mean of every old class and the covariance that all share, as ConCM (Wang et al., Consistency-driven
    Calibration and Matching for Few-Shot Class-Incremental Learning, 2025) replays. NC-FSCIL replays the means alone,
    and its loss is the squared distance ``(cos - 1)^2 / 2`` to the own direction, here it is cross-entropy among the
    classes so far, which also pushes away from others'.

    Args:
        classes: that will ever come.
        dim: of the directions, at least as many.
        hidden: width of B.
        first: optimizer steps in the first session.
        later: in every later one.
        first_lr: learning rate of AdamW in the first session, falling to 0 by a cosine.
        later_lr: likewise in later ones.
        scale: of the cosine.
        shrinkage: of the covariance, towards its diagonal.
        batch_size: new rows, and drawn ones, per step.
        seed: of directions, network, order and draws.
    """

    classes: int
    dim: int = 128
    hidden: int = 512
    first: int = 600
    later: int = 60
    first_lr: float = 3e-3
    later_lr: float = 3e-4
    scale: float = 16.0
    shrinkage: float = 0.1
    batch_size: int = 128
    seed: int = 0
    head: Head | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.memory = GaussianStore(covariance="shared", shrinkage=self.shrinkage, seed=self.seed)
        self.network: Projection | None = None

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`; what is known of the classes beforehand is not used.

        Raises:
            ValueError: more classes than were foreseen.
        """
        if classes > self.classes:
            raise ValueError(f"classes is {classes}; the method was made for {self.classes}")
        is_first = self.network is None
        if self.network is None:
            directions = simplex(self.classes, self.dim, generator_at(self.seed, "directions"))
            sizes = (rows["feature"].shape[1], self.hidden)
            self.network = Projection(*sizes, directions, self.scale, generator_at(self.seed, "network"))
        network = self.network
        network.seen = classes
        steps, lr = (self.first, self.first_lr) if is_first else (self.later, self.later_lr)
        optimizer = torch.optim.AdamW(network.parameters(), lr=lr)
        recall = ReplayMemory(
            None if is_first else self.memory,
            mix=CrossEntropy() + ReplayCrossEntropy(),
            replay=self.batch_size,
            seed=self.seed,
        )
        fit(
            network,
            optimizer,
            batches(rows, self.batch_size, seed=self.seed + classes),
            recall,
            steps=steps,
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
            forward=outputs_of,
            remember=(),
            progress_bar=False,
            log_every=steps,
        )
        recall.detach()
        self.memory.add(rows)
        self.head = network.eval()

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics."""
        return self.memory.nbytes


class Projection(nn.Module):
    """Cosines of ``g(x)`` with the directions of the classes so far, times ``scale``.

    Args:
        dim: D of the vectors.
        hidden: width of the layer between.
        directions: (classes, d).
        scale: of the cosine.
        generator: draws the weights.
    """

    def __init__(self, dim: int, hidden: int, directions: Tensor, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        self.inner = _linear(dim, hidden, generator)
        self.outer = _linear(hidden, directions.shape[1], generator)
        self.register_buffer("directions", directions)
        self.scale, self.seen = scale, len(directions)

    directions: Tensor

    def forward(self, feature: Tensor) -> Tensor:
        """Logits (B, seen) of vectors (B, D)."""
        projected = self.outer(F.leaky_relu(self.inner(feature), 0.1))
        return self.scale * F.normalize(projected, dim=1) @ self.directions[: self.seen].T


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0, (2 / inputs) ** 0.5, generator=generator)
        layer.bias.zero_()
    return layer
