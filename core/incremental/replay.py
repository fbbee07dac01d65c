"""Replay: a head trained step by step, with what a memory recalls."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..batch import Batch
from ..heads import LinearHead, TrainedHead
from ..heads.trained import remembered
from ..memory import ReplayMemory
from ..mixers import CrossEntropy, LogitDistillation, ReplayCrossEntropy
from ..retrievers import Nearest
from ..selection import ClassBalanced, TopScore, Uniform
from ..stores import GaussianStore, Growable, Store
from ..stores.keeping import Reservoir


@dataclass
class Replay:
    """A head trained step by step, with or without a memory.

    Args:
        how: the head and how it is trained.
        memory: what is recalled and how it enters the loss; None: nothing.
        remember: what the memory takes in of every row, after the session.
        seed: of the order of the rows.
    """

    how: TrainedHead
    memory: ReplayMemory | None = None
    remember: tuple[str, ...] = ("feature", "label")
    seed: int = 0
    head: LinearHead | None = field(default=None, init=False)

    def learn(self, rows: Batch, named: Tensor | None, classes: int) -> None:
        """See `Method`; what is known of the classes beforehand is not used."""
        self.head = self.how.fit(rows, classes, self.head, self.memory, seed=self.seed + classes)
        if self.memory is not None:
            self.memory.detach()
            self.memory.remember(**remembered(self.head, rows, self.remember))

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return 0 if self.memory is None else int(getattr(self.memory.source, "nbytes", 0))


def none(how: TrainedHead, seed: int = 0) -> Replay:
    """No memory: the control."""
    return Replay(how, seed=seed)


def er(how: TrainedHead, capacity: int, seed: int = 0) -> Replay:
    """Experience replay: a balanced sample is kept, and recalled in equal shares (Chaudhry et al., On Tiny Episodic
    Memories in Continual Learning, 2019)."""
    store = Store(capacity, keep=ClassBalanced(Reservoir()), seed=seed)
    mix = CrossEntropy() + ReplayCrossEntropy()
    return Replay(how, ReplayMemory(store, ClassBalanced(Uniform()), mix, seed=seed), seed=seed)


def der_pp(how: TrainedHead, capacity: int, alpha: float = 0.2, beta: float = 1.0, seed: int = 0) -> Replay:
    """DER++: logits are kept as well, and held on to (Buzzega et al., Dark Experience for General Continual Learning,
    NeurIPS 2020)."""
    store = Store(capacity, keep=ClassBalanced(Reservoir()), columns={"logits": Growable()}, seed=seed)
    mix = CrossEntropy() + beta * ReplayCrossEntropy("labels") + alpha * LogitDistillation("logits")
    memory = ReplayMemory(store, ClassBalanced(Uniform()), mix, {"labels": 32, "logits": 32}, seed=seed)
    return Replay(how, memory, ("feature", "label", "logits"), seed=seed)


def gaussian(how: TrainedHead, shrinkage: float = 0.1, seed: int = 0) -> Replay:
    """Vectors are recalled that are drawn anew at every step from a Gaussian per class, with one covariance for all; no
    row is stored. `GaussianReplay` does so with a head that is solved."""
    store = GaussianStore(covariance="shared", shrinkage=shrinkage, seed=seed)
    return Replay(how, ReplayMemory(store, mix=CrossEntropy() + ReplayCrossEntropy(), seed=seed), seed=seed)


def classic(how: TrainedHead, capacity: int, seed: int = 0) -> Replay:
    """Kept by gradient norm, recalled by similarity to the new rows, the same loss on memory as on data."""
    store = Store(capacity, keep=TopScore("gradient_norm"), seed=seed)
    mix = CrossEntropy() + ReplayCrossEntropy()
    memory = ReplayMemory(store, Nearest("feature"), mix, seed=seed)
    return Replay(how, memory, ("feature", "label", "gradient_norm"), seed=seed)
