"""NetworkStart: a network that knows the old classes, from where new ones are learned."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from ..core.batch import Batch
from ..core.incremental.adaptation import Outcome, by_age, recalling, stopwatch
from ..core.stores import Store
from .backbones import Classifier
from .learner import Learner, Stage, in_evaluation


@dataclass(eq=False)
class NetworkStart:
    """A `Start`, see `memreplay.core.incremental.adaptation`, of a network whose weights all learn, by SGD. The head
    gets rows of zeros for the new classes.

    Args:
        model: it knows the old classes.
        memory: rows of them, ``input`` and ``label``.
        judged: ``input`` and ``label`` of all classes, the new ones after the old ones.
    """

    model: Classifier
    memory: Store
    judged: Batch

    def trained(self, rows: Batch, steps: int, lr: float, recall: bool, seed: int) -> Outcome:
        """See `Start`."""
        model = copy.deepcopy(self.model)
        model.expand(int(self.judged["label"].max()) + 1)
        memory = recalling(copy.deepcopy(self.memory) if recall else None)
        with stopwatch() as seconds:
            stage = Stage(steps=steps, batch_size=32, lr=lr)
            Learner(memory, remember=()).learn(model, rows, stage, seed=seed, progress_bar=False, log_every=10**6)
        predicted = in_evaluation(model, model)(self.judged["input"]).argmax(1)
        right = predicted == self.judged["label"]
        return {**by_age(right, self.judged["label"], self.model.head.out_features), **seconds}
