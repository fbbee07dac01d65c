"""Learner: how a classifier learns a session with a memory, and how it is read out afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from ..core import scores
from ..core.batch import Batch, concat
from ..core.checkpoint import Progress
from ..core.learning_rate import Rate, scheduler
from ..core.loading import Table, batches
from ..core.memory import ReplayMemory
from ..core.mixers.ema import EMA
from ..core.mixers.view import View
from ..core.readout import Readout
from ..core.selection import Selector
from ..core.stores import Store
from ..core.stores.keeping import GradientDiversity
from ..core.training import Remember, fit, new_accelerator, picker
from .augment import Augmented
from .backbones import Classifier

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
        rate: how the learning rate changes over the session; None: not at all.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 32
    lr: float = 0.1
    rate: Rate | None = None

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("steps", 0), ("batch_size", 1), ("lr", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; expected at least {least}")


class WithFeatures(nn.Module):
    """A classifier whose forward tells the features as well: ``{"logits": (B, C), "feature": (B, D)}``."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits and features of images (B, C, H, W)."""
        feature = self.model.features(x)
        return {"logits": self.model.head(feature), "feature": feature}


class ByMemory(nn.Module):
    """A classifier read out by the rows of a memory instead of its head: log-probabilities (B, C), ``-inf`` for a class
    that the memory does not hold.

    Args:
        model: makes the features, of the rows too.
        rows: ``input`` and ``label``.
        readout: from their features to classes.
    """

    def __init__(self, model: Classifier, rows: Mapping[str, Tensor], readout: Readout) -> None:
        super().__init__()
        self.model = model
        device = next(model.parameters()).device
        tell = in_evaluation(model.features, model)
        features = torch.cat([tell(part.to(device)) for part in rows["input"].split(256)])
        self._rows = {"feature": features, "label": rows["label"].to(device)}
        self._readout = readout

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities (B, C) of images (B, C, H, W)."""
        said = self._readout(self._rows, self.model.features(x))
        found = said.probabilities.new_full((len(x), self.model.head.out_features), -torch.inf)
        found[:, said.classes] = said.probabilities.log()
        return found


def outputs_of(model: Callable[..., Any], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The forward for `WithFeatures`."""
    outputs: dict[str, Tensor] = model(batch["input"])
    return outputs


@dataclass(frozen=True)
class Learner:
    """How a classifier learns a session with a memory.

    A learner belongs to one classifier: its memory, and its average of the weights, are of what that one has learned.

    Args:
        memory: what is recalled and how it enters the loss; None: plain training.
        remember: what a row of the memory holds: columns (``input``, ``label``), outputs (``logits``, ``feature``),
            scores (``loss``, ``el2n``, ``margin``, ``gradient_norm``); or a function of the view.
        when: rows are offered to the memory in every step, as they are learned; or all at once, before the session (so
            that they are recalled in it) or after it.
        consolidate: with ``after_session``: chooses among the rows held and those of the session, all in one look, such
            as ``ClassBalanced(Herding())``.
        query: the output that recall goes by, for selectors such as ``Nearest("feature")``.
        score: the model's verdict that recall goes by, for `Rescored`: how much the coming step would raise the loss
            of a row (MIR).
        rows: what the steps go through: the ``new`` rows; these ``joined`` with the memory; or the ``memory`` alone.
        fresh: start every session from the weights that the classifier had at the very first.
        distil: rows carry a column ``target`` with what the model said of the old classes before the session, and
            one-hot labels of the new ones (`BinaryCrossEntropy`).
        refresh: recompute stored features (from stored inputs) before every session.
        average: makes a moving average of the weights, such as `EMA`, updated in every step; it is what is read out.
        readout: predicts from the memory, such as `NearestClassMean`; None: the head does.
        optimizer: made anew for every session; its learning rate is the stage's.
    """

    memory: ReplayMemory | None = None
    remember: Sequence[str] | Remember = ("input", "label")
    when: Literal["each_step", "before_session", "after_session"] = "each_step"
    consolidate: Selector | None = None
    query: str | None = None
    score: Literal["interference"] | None = None
    rows: Literal["new", "joined", "memory"] = "new"
    fresh: bool = False
    distil: bool = False
    refresh: bool = False
    average: Callable[[nn.Module], EMA] | None = None
    readout: Readout | None = None
    optimizer: Optimizer = torch.optim.SGD
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        on_step_end: Callable[[Progress], Mapping[str, float] | None] | None = None,
        augment: nn.Module | None = None,
        workers: int = 0,
        **options: Any,
    ) -> Progress:
        """Teaches ``model`` the ``rows`` of session ``number``; the model is changed in place.

        Args:
            seed: of the order of the rows and of their changes, together with ``number``.
            augment: changes the images of the steps by chance, see `Augmented`; not those that are recalled.
            workers: processes that make batches ahead.
            accelerator: as for `fit`, which also takes ``out``, ``resume``, ``on_step_end`` and the ``options``.
        """
        accelerator = accelerator or new_accelerator()
        taught, memory = WithFeatures(model), self.memory
        self._begin(model, number)
        if memory is not None and self.when == "before_session":
            self._fill(taught, rows)
        steps_through = self._prepared(model, rows)
        optimizer = self.optimizer(model.parameters())
        for group in optimizer.param_groups:
            group["lr"] = stage.lr
        seed = seed * 1_000_003 + number
        table = Table(steps_through) if augment is None else Augmented(steps_through, augment, seed)
        loader = batches(table, stage.batch_size, seed=seed, workers=workers)
        average: EMA | None = self._kept.get("average")

        def after_step(progress: Progress) -> Mapping[str, float] | None:
            if average is not None:
                average.update(model)
            return None if on_step_end is None else on_step_end(progress)

        def interference(candidates: Batch, batch: Batch) -> Tensor:
            lr = optimizer.param_groups[0]["lr"]
            return scores.interference(taught, candidates, batch, lr, forward=outputs_of)

        steps = stage.steps
        if steps is None:
            together = accelerator.num_processes * accelerator.gradient_accumulation_steps
            steps = stage.epochs * -(-len(loader) // together)
        progress = fit(
            taught,
            optimizer,
            loader,
            memory,
            epochs=stage.epochs if stage.steps is None else None,
            steps=stage.steps,
            forward=outputs_of,
            query=None if self.query is None else self._query(model, self.query),
            score=None if self.score is None else interference,
            remember=self.remember if memory is not None and self.when == "each_step" else (),
            scheduler=None if stage.rate is None or not steps else scheduler(optimizer, stage.rate, steps),
            accelerator=accelerator,
            out=out,
            resume=resume,
            on_step_end=None if average is None and on_step_end is None else after_step,
            stateful=None if average is None else {"average": average},
            **options,
        )
        if memory is not None and self.when == "after_session":
            self._fill(taught, rows)
        return progress

    def judged(self, model: Classifier) -> nn.Module:
        """From images to one number per class, the likeliest the highest: ``model`` itself, or what it is read out by.

        The result is up to date until the next session.
        """
        average: EMA | None = self._kept.get("average")
        read = model if average is None else cast(Classifier, average.module)
        if self.readout is None or self.memory is None:
            return read
        return ByMemory(read, cast(Store, self.memory.source).rows().columns, self.readout)

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept beside the classifier between sessions: the memory, the average, the first weights."""
        held = 0 if self.memory is None else int(getattr(self.memory.source, "nbytes", 0))
        average: EMA | None = self._kept.get("average")
        kept = [] if average is None else list(average.module.state_dict().values())
        return held + sum(int(values.nbytes) for values in [*kept, *self._kept.get("first", {}).values()])

    # -- inside -------------------------------------------------------------------------------------------------

    def _begin(self, model: Classifier, number: int) -> None:
        """What has to be done before a session."""
        if number == 0:
            self._kept.clear()
            if self.average is not None:
                self._kept["average"] = self.average(model)
            if self.fresh:
                self._kept["first"] = {name: values.clone() for name, values in model.state_dict().items()}
        elif self.fresh:
            model.load_state_dict(self._kept["first"])
        source = None if self.memory is None else self.memory.source
        if self.refresh and number:
            cast(Store, source).refresh(in_evaluation(model.features, model))
        if isinstance(source, Store) and isinstance(source.keep, GradientDiversity):
            taught = WithFeatures(model)
            source.complete(
                gradients=lambda rows: in_evaluation(
                    lambda rows: scores.factored_gradients(taught, rows, forward=outputs_of), taught
                )(rows)
            )

    def _prepared(self, model: Classifier, new: Batch) -> Batch:
        """The rows that the steps go through."""
        held: Batch = {}
        if self.memory is not None and (self.rows != "new" or self.distil):
            source = cast(Store, self.memory.source)
            held = source.rows().columns if len(source) else {}
        rows = new
        if self.rows == "memory":
            if not held:
                raise ValueError(f"rows is 'memory', which is empty; when is {self.when!r}, expected 'before_session'")
            rows = {name: held[name] for name in new}
        elif self.rows == "joined" and held:
            rows = concat([new, held])
        if not self.distil:
            return rows
        return {**rows, "target": _targets(model, rows, new["label"], held.get("label"))}

    def _query(self, model: Classifier, name: str) -> Callable[[Batch], dict[str, Tensor]]:
        tell = in_evaluation(WithFeatures(model), model)
        return lambda batch: {name: tell(batch["input"])[name]}

    def _fill(self, model: WithFeatures, rows: Batch) -> None:
        """Offers the rows of the session to the memory, each once, as the model sees them now."""
        assert self.memory is not None
        self.memory.detach()  # every process has all the rows, so there is nothing to gather from the others
        tell, pick = in_evaluation(model, model), picker(self.remember)
        device = next(model.parameters()).device
        candidates = []
        for start in range(0, len(rows["label"]), 256):
            part = {name: values[start : start + 256].to(device) for name, values in rows.items()}
            columns = pick(View(part, tell(part["input"])))
            if columns and self.consolidate is None:
                self.memory.remember(**columns)
            elif columns:
                candidates.append({name: values.detach() for name, values in columns.items()})
        if self.consolidate is not None and candidates:
            cast(Store, self.memory.source).consolidate(self.consolidate, candidates=concat(candidates))


def _targets(model: Classifier, rows: Batch, new: Tensor, old: Tensor | None) -> Tensor:
    """What each class's sigmoid shall say of each row, (N, C): as ``model`` does for the classes of ``old``, one-hot
    for those of ``new``, NaN for all others."""
    device = next(model.parameters()).device
    tell = in_evaluation(model, model)
    said = torch.cat([tell(part.to(device)).cpu() for part in rows["input"].split(512)])
    target = torch.full_like(said, torch.nan)
    fresh = new.unique()
    target[:, fresh] = (rows["label"].unsqueeze(1) == fresh).to(target)
    if old is not None:
        known = old[~torch.isin(old, fresh)].unique()
        target[:, known] = said[:, known].sigmoid()
    return target


def in_evaluation(function: Callable[[Any], Any], model: nn.Module) -> Callable[[Any], Any]:
    """``function`` with ``model`` in evaluation mode and without gradients; the mode is put back afterwards."""

    def evaluated(x: Any) -> Any:
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return function(x)
        finally:
            model.train(training)

    return evaluated
