"""Incremental: a classifier taught session by session, and what it knows after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.protocols.metrics import AccuracyMatrix, BaseNovel, accuracy_by_group, base_novel
from ..core.protocols.sessions import Sessions
from ..core.reporting.results import note
from .backbones import Classifier
from .data import ImageSet
from .learner import Learner, Stage, in_evaluation


@dataclass
class Outcome:
    """What a classifier knew after each session.

    Attributes:
        by_session: base, novel, harmonic and overall accuracy after each session, in percent.
        accuracies: after each session, accuracy on the classes of every session so far, in percent.
        seconds: spent learning each session.
        memory_bytes: held at the end beside the classifier, see `Learner.nbytes`.
    """

    by_session: list[BaseNovel] = field(default_factory=list)
    accuracies: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    memory_bytes: int = 0

    @property
    def last(self) -> BaseNovel:
        """Accuracies after the last session."""
        return self.by_session[-1]

    @property
    def matrix(self) -> AccuracyMatrix:
        """Accuracies by session, for forgetting and transfer."""
        return AccuracyMatrix(self.accuracies)

    def observe(self, model: nn.Module, sessions: Sessions, number: int, test: ImageSet) -> None:
        """Judges ``model`` after session ``number`` on the test images of all classes seen, against all of these."""
        session = sessions[number]
        rows = test.part(session.test(test.labels))
        self.note(predict(model, rows, session.seen), rows.labels, sessions, number)

    def note(self, predicted: Tensor, labels: Tensor, sessions: Sessions, number: int) -> None:
        """Adds what was ``predicted`` after session ``number`` for test images of all classes seen, whose ``labels``
        are these; both int64 (N,)."""
        groups = [past.classes for past in sessions[: number + 1]]
        self.by_session.append(base_novel(predicted, labels, sessions[0].classes))
        self.accuracies.append(accuracy_by_group(predicted, labels, groups))


def predict(model: nn.Module, images: ImageSet, classes: Tensor, batch_size: int = 512) -> Tensor:
    """The likeliest of ``classes`` (int64, (C,)) for each image, int64 (N,).

    Args:
        model: from images to one number per class.
    """
    device = next(model.parameters()).device
    tell = in_evaluation(model, model)
    parts = []
    for index in torch.arange(len(images)).split(batch_size):
        logits = tell(images.batch(index)["input"].to(device))
        parts.append(classes[logits[:, classes.to(device)].argmax(1).cpu()])
    return torch.cat(parts)


def learn_sessions(
    learner: Learner,
    model: Classifier,
    sessions: Sessions,
    train: ImageSet,
    test: ImageSet,
    stages: Sequence[Stage],
    *,
    seed: int = 0,
    accelerator: Any | None = None,
    out: Path | None = None,
    resume: bool = False,
    as_bytes: bool = False,
    **options: Any,
) -> Outcome:
    """Teaches ``model`` one session after the other and judges it after each.

    Args:
        stages: one per session; the last one also serves for those that follow.
        seed: of the order of the rows.
        out: every session has a folder in it, and a line in its ``metrics.jsonl``. With ``resume``, sessions that were
            finished are taken from there.
        as_bytes: images of bytes stay so, also in the memory of the learner, which takes a quarter of the room: the
            network divides them by 255.
        options: for `Learner.learn` and `fit`.
    """
    outcome = Outcome()
    for number, session in enumerate(sessions):
        folder = None if out is None else out / f"session-{number}"
        stage = stages[min(number, len(stages) - 1)]
        rows = train.part(session.train).stored() if as_bytes else train.batch(session.train)
        progress = learner.learn(
            model,
            rows,
            stage,
            seed=seed,
            number=number,
            accelerator=accelerator,
            out=folder,
            resume=resume,
            **options,
        )
        outcome.seconds.append(progress.seconds)
        outcome.observe(learner.judged(model), sessions, number, test)
        if out is not None and (accelerator is None or accelerator.is_main_process):
            note(out, f"session-{number}", {**asdict(outcome.last), "seconds": progress.seconds})
    outcome.memory_bytes = learner.nbytes
    return outcome
