"""Incremental: a classifier taught session by session, and what it knows after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.checkpoint import Progress
from ..core.loading import batches
from ..core.memory import ReplayMemory
from ..core.mixers.view import View
from ..core.protocols.metrics import AccuracyMatrix, BaseNovel, accuracy_by_group, base_novel
from ..core.protocols.sessions import Sessions
from ..core.training import Remember, fit, picker
from .backbones import Classifier
from .data import ImageSet

Optimizer: TypeAlias = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""Makes the optimizer of a session from the parameters."""


@dataclass(frozen=True)
class Stage:
    """How long and how fast to learn in a session.

    Args:
        epochs: times through the session's rows.
        steps: optimizer steps to take instead, through as many epochs as that needs.
        batch_size: new rows per step.
        lr: learning rate.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    lr: float = 0.1


class WithFeatures(nn.Module):
    """A classifier whose forward tells the features as well: ``{"logits": (B, C), "feature": (B, D)}``."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits and features of images (B, C, H, W)."""
        feature = self.model.features(x)
        return {"logits": self.model.head(feature), "feature": feature}


def outputs_of(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The forward for `WithFeatures`."""
    outputs: dict[str, Tensor] = model(batch["input"])
    return outputs


@dataclass(frozen=True)
class Learner:
    """How a classifier learns a session with a memory.

    Args:
        memory: what is recalled and how it enters the loss; None: plain training.
        remember: what a row of the memory holds: columns (``input``, ``label``), outputs (``logits``, ``feature``),
            scores (``loss``, ``el2n``, ``margin``, ``gradient_norm``); or a function of the view.
        when: rows are offered to the memory in every step, as they are learned; or all at once, before the session (so
            that they are recalled in it) or after it.
        query: the output that recall goes by, for selectors such as ``Nearest("feature")``.
        refresh: recompute stored features (from stored inputs) before every session.
        optimizer: made anew for every session; its learning rate is the stage's.
    """

    memory: ReplayMemory | None = None
    remember: Sequence[str] | Remember = ("input", "label")
    when: Literal["each_step", "before_session", "after_session"] = "each_step"
    query: str | None = None
    refresh: bool = False
    optimizer: Optimizer = torch.optim.SGD

    def learn(
        self,
        model: Classifier,
        rows: Batch,
        stage: Stage,
        *,
        seed: int = 0,
        number: int = 0,
        accelerator: Any | None = None,
        out: Path | None = None,
        resume: bool = False,
        **options: Any,
    ) -> Progress:
        """Teaches ``model`` the ``rows`` of session ``number``; the model is changed in place.

        Args:
            seed: of the order of the rows, together with ``number``.
            accelerator: as for `fit`, which also takes ``out``, ``resume`` and the ``options``.
        """
        taught = WithFeatures(model)
        memory = self.memory
        if memory is not None and self.refresh and number:
            memory.source.refresh(in_evaluation(model.features, model))  # type: ignore[union-attr]
        if memory is not None and self.when == "before_session":
            self._fill(taught, rows)
        optimizer = self.optimizer(model.parameters())
        for group in optimizer.param_groups:
            group["lr"] = stage.lr
        loader = batches(rows, stage.batch_size, seed=seed * 1_000_003 + number)
        progress = fit(
            taught,
            optimizer,
            loader,
            memory,
            epochs=stage.epochs if stage.steps is None else None,
            steps=stage.steps,
            forward=outputs_of,
            query=None if self.query is None else self._query(model, self.query),
            remember=self.remember if memory is not None and self.when == "each_step" else (),
            accelerator=accelerator,
            out=out,
            resume=resume,
            **options,
        )
        if memory is not None and self.when == "after_session":
            self._fill(taught, rows)
        return progress

    def _query(self, model: Classifier, name: str) -> Callable[[Batch], dict[str, Tensor]]:
        tell = in_evaluation(WithFeatures(model), model)
        return lambda batch: {name: tell(batch["input"])[name]}

    def _fill(self, model: WithFeatures, rows: Batch) -> None:
        """Offers the rows of the session to the memory, each once, as the model sees them now."""
        assert self.memory is not None
        self.memory.detach()  # every process has all the rows, so there is nothing to gather from the others
        tell, pick = in_evaluation(model, model), picker(self.remember)
        device = next(model.parameters()).device
        for start in range(0, len(rows["label"]), 256):
            part = {name: values[start : start + 256].to(device) for name, values in rows.items()}
            if columns := pick(View(part, tell(part["input"]))):
                self.memory.remember(**columns)


def in_evaluation(function: Callable[[Tensor], Any], model: nn.Module) -> Callable[[Tensor], Any]:
    """``function`` with ``model`` in evaluation mode and without gradients; the mode is put back afterwards."""

    def evaluated(x: Tensor) -> Any:
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return function(x)
        finally:
            model.train(training)

    return evaluated


@dataclass
class Outcome:
    """What a classifier knew after each session.

    Attributes:
        by_session: base, novel, harmonic and overall accuracy after each session, in percent.
        accuracies: after each session, accuracy on the classes of every session so far, in percent.
        seconds: spent learning each session.
        memory_bytes: held by the memory at the end.
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

    def observe(self, model: Classifier, sessions: Sessions, number: int, test: ImageSet) -> None:
        """Judges ``model`` after session ``number`` on the test images of all classes seen, against all of these."""
        session = sessions[number]
        rows = test.rows(session.test(test.labels))
        predicted = predict(model, rows, session.seen)
        groups = [past.classes for past in sessions[: number + 1]]
        self.by_session.append(base_novel(predicted, rows.labels, sessions[0].classes))
        self.accuracies.append(accuracy_by_group(predicted, rows.labels, groups))


def predict(model: Classifier, images: ImageSet, classes: Tensor, batch_size: int = 512) -> Tensor:
    """The likeliest of ``classes`` (int64, (C,)) for each image, int64 (N,)."""
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
    **options: Any,
) -> Outcome:
    """Teaches ``model`` one session after the other and judges it after each.

    Args:
        stages: one per session; the last one also serves for those that follow.
        seed: of the order of the rows.
        out: every session has a folder in it. With ``resume``, sessions that were finished are taken from there.
        options: for `fit`.
    """
    outcome = Outcome()
    for number, session in enumerate(sessions):
        folder = None if out is None else out / f"session-{number}"
        stage = stages[min(number, len(stages) - 1)]
        rows = train.batch(session.train)
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
        outcome.observe(model, sessions, number, test)
    memory = learner.memory
    outcome.memory_bytes = int(getattr(memory.source, "nbytes", 0)) if memory is not None else 0
    return outcome
