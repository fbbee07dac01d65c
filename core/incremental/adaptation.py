"""Adaptation: how soon new classes are known and the old ones lost, with recall and without, from the same start."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..batch import Batch
from ..heads import LinearHead, TrainedHead
from ..memory import ReplayMemory
from ..mixers import CrossEntropy, ReplayCrossEntropy
from ..protocols.labels import rows_by_class
from ..selection import ClassBalanced, Uniform
from ..stores import Store
from .lent_spread import LentSpread

STEPS = (1, 3, 10, 30, 100)
SHOTS = (1, 2, 5, 10)
RATES = (0.003, 0.01, 0.03, 0.1)
"""Learning rates that `rehearse` chooses from."""

Outcome = dict[str, float]
"""``old after`` and ``new after``, accuracies in percent; ``seconds`` and ``processor seconds``."""


class Start(Protocol):
    """A classifier that knows the old classes, its memory, and rows to judge by. It stays as it is."""

    def trained(self, rows: Batch, steps: int, lr: float, recall: bool, seed: int) -> Outcome:
        """What is known after some steps on the ``rows`` of the new classes.

        Args:
            rows: their labels come after those of the old classes.
            steps: optimizer steps.
            lr: learning rate.
            recall: whether rows of the memory are mixed in.
            seed: of the order of the rows.
        """
        ...


@dataclass(eq=False)
class HeadStart:
    """`Start` of a linear head on vectors.

    Args:
        head: it knows the old classes.
        memory: rows of them, ``feature`` and ``label``, the row of the head.
        judged: rows of all classes to judge by, the new ones after the old ones.
        spread: makes more of the new rows where those of the memory are recalled; None: they stay as they are.
    """

    head: LinearHead
    memory: Store
    judged: Batch
    spread: LentSpread | None = None

    def trained(self, rows: Batch, steps: int, lr: float, recall: bool, seed: int) -> Outcome:
        """See `Start`."""
        old, classes = self.head.classes, int(self.judged["label"].max()) + 1
        store = copy.deepcopy(self.memory) if recall else None
        with stopwatch() as seconds:
            how = TrainedHead(scale=None, steps=steps, lr=lr)
            if store is not None and self.spread is not None:
                rows = self.spread(rows, store.rows().columns)
            head = how.fit(rows, classes, self.head, recalling(store), seed=seed)
        with torch.no_grad():
            right = head(self.judged["feature"]).argmax(1) == self.judged["label"]
        return {**by_age(right, self.judged["label"], old), **seconds}


def recalling(store: Store | None) -> ReplayMemory:
    """Experience replay with 32 recalled rows, in equal shares of the classes; with None no recall."""
    return ReplayMemory(store, ClassBalanced(Uniform()), CrossEntropy() + ReplayCrossEntropy(), replay=32)


def by_age(right: Tensor, labels: Tensor, old: int) -> Outcome:
    """Accuracy in percent on rows of the first ``old`` classes and on those of the later ones.

    >>> by_age(torch.tensor([True, False, True]), torch.tensor([0, 1, 2]), 2)
    {'old after': 50.0, 'new after': 100.0}
    """
    groups = {"old after": labels < old, "new after": labels >= old}
    return {name: 100 * float(right[group].double().mean()) for name, group in groups.items()}


@contextmanager
def stopwatch() -> Iterator[Outcome]:
    """Fills the dict that it gives with ``seconds`` and ``processor seconds`` when it is left."""
    passed: Outcome = {}
    began, worked = time.perf_counter(), time.process_time()
    yield passed
    passed |= {"seconds": time.perf_counter() - began, "processor seconds": time.process_time() - worked}


def first_shots(rows: Batch, shot: int) -> Batch:
    """The first ``shot`` rows of each class.

    >>> first_shots({"label": torch.tensor([3, 3, 4, 3])}, 2)
    {'label': tensor([3, 3, 4])}
    """
    index = torch.cat([members[:shot] for members in rows_by_class(rows["label"]).values()])
    return {name: values[index] for name, values in rows.items()}


def rehearse(
    start: Start,
    rows: Batch,
    *,
    seed: int,
    rates: Sequence[float] = RATES,
    steps: Sequence[int] = STEPS,
    shots: Sequence[int] = (5,),
) -> dict[bool, float]:
    """The learning rate with the best sum of old and new accuracy over all numbers of steps and of shots, with recall
    and without. It is to be judged on rows that no table is made with.

    Args:
        start: of a rehearsal.
        rows: of its new classes.
        seed: see `Start.trained`.
        rates: to choose from.
        steps: numbers of steps.
        shots: numbers of shots.
    """

    def score(recall: bool, lr: float) -> float:
        outcomes = [start.trained(first_shots(rows, shot), n, lr, recall, seed) for shot in shots for n in steps]
        return sum(outcome["old after"] + outcome["new after"] for outcome in outcomes)

    return {recall: max(rates, key=lambda lr: score(recall, lr)) for recall in (True, False)}


def by_steps(
    start: Start,
    rows: Callable[[int], Batch],
    rates: Mapping[bool, float],
    *,
    seed: int,
    shots: Sequence[int] = SHOTS,
    steps: Sequence[int] = STEPS,
) -> dict[str, Outcome]:
    """The outcome after every number of steps, at every number of shots, recall on and off.

    Args:
        start: what every run begins with.
        rows: of the new classes, so many of each.
        rates: learning rates with recall and without, see `rehearse`.
        seed: see `Start.trained`.
        shots: numbers of shots.
        steps: numbers of steps.
    """
    return {
        f"{shot}-shot, recall {'on' if recall else 'off'}, {n} steps": start.trained(
            rows(shot), n, rates[recall], recall, seed
        )
        for shot in shots
        for recall in (True, False)
        for n in steps
    }
