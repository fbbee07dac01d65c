"""GaussianReplay: a head solved for new rows and for vectors drawn from the statistics of the old ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..batch import Batch, concat
from ..heads import LinearHead, LogisticRegression
from ..stores import GaussianStore


@dataclass
class GaussianReplay:
    """Replays vectors drawn from a Gaussian per class, with one covariance for all; no row is stored. The head is
    solved for new rows and drawn ones (Zhang et al., SLCA: Slow Learner with Classifier Alignment, ICCV 2023, align
    the classifier likewise).

    Args:
        how: solves for the head.
        draws: pseudo-vectors of each class.
        shrinkage: of the covariance.
        seed: of the draws.
    """

    how: LogisticRegression
    draws: int = 20
    shrinkage: float = 0.1
    seed: int = 0
    head: LinearHead | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.memory = GaussianStore(covariance="shared", shrinkage=self.shrinkage, seed=self.seed)

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`; what is known of the classes beforehand is not used."""
        drawn = self.memory.draw(self.draws * len(self.memory)).columns
        old = {**drawn, "label": drawn["label"].long()} if len(self.memory) else None
        self.memory.add(rows)
        self.head = self.how.fit(rows if old is None else concat([old, rows]), classes, self.head)

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics."""
        return self.memory.nbytes
