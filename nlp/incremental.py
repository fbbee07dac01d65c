"""Incremental: classes of texts that arrive in sessions, learned on vectors by several methods.

A method learns the rows of a session and never sees them again but through its memory. Labels count up: the classes of
a session come after those before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..core.batch import Batch, concat
from ..core.memory import ReplayMemory
from ..core.mixers import CrossEntropy, LogitDistillation, ReplayCrossEntropy
from ..core.protocols.metrics import AccuracyMatrix, accuracy_by_group
from ..core.protocols.sessions import Sessions
from ..core.retrievers import Nearest
from ..core.selection import ClassBalanced, TopScore, Uniform
from ..core.stores import GaussianStore, Growable, Store
from ..core.stores.keeping import Reservoir
from .heads.discriminant import LinearDiscriminant
from .heads.linear import LinearHead
from .heads.logistic import LogisticRegression
from .heads.trained import TrainedHead, remembered


class Method(Protocol):
    """A way to learn classes in sessions."""

    head: LinearHead | None
    """From vectors to the logits of the classes so far."""

    def learn(self, rows: Batch, named: Tensor, classes: int) -> None:
        """Learns a session.

        Args:
            rows: ``feature`` (N, D) and ``label`` int64 (N,).
            named: vectors (classes, D) of the names of all classes so far.
            classes: how many there are so far.
        """
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        ...


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

    def learn(self, rows: Batch, named: Tensor, classes: int) -> None:
        """See `Method`; the names of the classes are not used."""
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


def classic(how: TrainedHead, capacity: int, seed: int = 0) -> Replay:
    """Kept by gradient norm, recalled by similarity to the new rows, the same loss on memory as on data."""
    store = Store(capacity, keep=TopScore("gradient_norm"), seed=seed)
    mix = CrossEntropy() + ReplayCrossEntropy()
    memory = ReplayMemory(store, Nearest("feature"), mix, seed=seed)
    return Replay(how, memory, ("feature", "label", "gradient_norm"), seed=seed)


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

    def learn(self, rows: Batch, named: Tensor, classes: int) -> None:
        """See `Method`; the names of the classes are not used."""
        drawn = self.memory.draw(self.draws * len(self.memory)).columns
        old = {**drawn, "label": drawn["label"].long()} if len(self.memory) else None
        self.memory.add(rows)
        self.head = self.how.fit(rows if old is None else concat([old, rows]), classes, self.head)

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics."""
        return self.memory.nbytes


@dataclass
class Streaming:
    """A Gaussian per class with one covariance for all, and the head that follows from them; no row is stored.

    Args:
        how: see `LinearDiscriminant`.
    """

    how: LinearDiscriminant
    head: LinearHead | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.memory = GaussianStore(covariance="shared")

    def learn(self, rows: Batch, named: Tensor, classes: int) -> None:
        """See `Method`; the names of the classes are not used."""
        self.memory.add(rows)
        # the memory has them in the order they came, which is that of their numbers
        self.head = self.how.fit(self.memory).of_classes(self.memory.classes.argsort())

    @property
    def nbytes(self) -> int:
        """Bytes of the statistics."""
        return self.memory.nbytes


@dataclass
class Solved:
    """What a `TextAdapter` does: the head is solved for the rows of the memory, the new rows and the names of the
    classes; once rows have left the memory, the head so far is the prior.

    Args:
        how: solves for the head.
        capacity: rows of the memory; None keeps all, which makes it joint training.
        per_class: rows of every class so far instead.
        label_texts: whether names of classes count as rows.
        seed: of the memory.
    """

    how: LogisticRegression
    capacity: int | None = None
    per_class: int | None = None
    label_texts: bool = True
    seed: int = 0
    head: LinearHead | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.memory = Store(self.capacity or 1_000_000, keep=ClassBalanced(Reservoir()), seed=self.seed)

    def learn(self, rows: Batch, named: Tensor, classes: int) -> None:
        """See `Method`."""
        held = concat([self.memory.rows().columns, rows]) if len(self.memory) else rows
        if self.label_texts:
            held = concat([held, {"feature": named, "label": torch.arange(classes)}])
        prior = self.memory.seen > len(self.memory)
        self.head = self.how.fit(held, classes, self.head, prior=prior)
        if self.per_class is not None:
            self.memory.resize(self.per_class * classes)
        self.memory.add(rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the memory."""
        return self.memory.nbytes


def learn_sessions(
    method: Method,
    sessions: Sessions,
    train: Batch,
    test: Batch,
    named: Tensor,
    after: Callable[[int], None] | None = None,
) -> AccuracyMatrix:
    """Accuracies after each session on the classes of every session so far, in percent.

    Args:
        method: it has learned nothing yet.
        sessions: over the labels of ``train``.
        train: ``feature`` (N, D) and ``label`` (N,).
        test: likewise.
        named: vectors of the names of the classes, one per label.
        after: called with the number of every session that was learned.
    """
    order = sessions.class_order
    labels, test_labels = sessions.relabel(train["label"]), sessions.relabel(test["label"])
    rows, sizes = [], []
    for session in sessions:
        classes = len(session.seen)
        new = {"feature": train["feature"][session.train], "label": labels[session.train]}
        method.learn(new, named[order[:classes]], classes)
        assert method.head is not None
        judged = session.test(test["label"])
        with torch.no_grad():
            predicted = method.head(test["feature"][judged]).argmax(1)
        groups = [sessions.relabel(past.classes) for past in sessions[: session.number + 1]]
        rows.append(accuracy_by_group(predicted, test_labels[judged], groups))
        sizes.append(int(torch.isin(test["label"], session.classes).sum()))
        if after is not None:
            after(session.number)
    return AccuracyMatrix(rows, sizes)
