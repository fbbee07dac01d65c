"""FineTuning: a detector learns new classes from a few boxes each, by one of several methods."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..core.batch import Batch
from ..core.checkpoint import Progress
from ..core.loading import batches
from ..core.memory import ReplayMemory
from ..core.mixers import KnowledgeDistillation, Term
from ..core.retrievers import Nearest
from ..core.selection import ClassBalanced, Selector, TopScore, Uniform
from ..core.stores import Store
from ..core.stores.keeping import Reservoir
from ..core.training import fit
from .data import DetectionSet, image_batches
from .detector import Detector, Part, Tap, views
from .memory import ROIMemory
from .prototypes import PrototypeCalibration, Prototypes
from .regions import extract, unless_known
from .terms import DetectorLoss, ROIReplay

Method: TypeAlias = Literal["finetune", "tfa", "classic", "replay", "distill", "gaussian"]
METHODS: tuple[Method, ...] = ("finetune", "tfa", "classic", "replay", "distill", "gaussian")


@dataclass(frozen=True)
class FineTuning:
    """How a detector learns new classes.

    ``finetune``
        the box head learns from the shots alone.
    ``tfa``
        the same, but all is frozen except the predictor, whose scores are cosines (Wang et al., ICML 2020).
    ``classic``
        the memory keeps the regions with the largest gradients, and recalls those most similar to the shots at hand.
    ``replay``
        regions of all old classes are recalled, and learned together with those of the shots.
    ``distill``
        and on these the scores shall stay those of the detector that was (after Retentive R-CNN, Fan et al., CVPR 2021,
        which keeps a second head for this; here the scores are stored with the regions).
    ``gaussian``
        recalled are regions drawn from the mean and variance of every class. They have no boxes, so that only scores
        are learned from them.

    Args:
        method: one of these.
        steps: optimizer steps.
        lr: learning rate, which falls to 0 along a cosine.
        images: per step, where images are learned from.
        regions: per step, where regions are.
        replay: regions to recall per step.
        weight: of the recalled regions in the loss.
        distillation: weight of the old scores.
        temperature: of the distillation.
        back: after the last step the weights go back so far towards where they started, but for those of the classes
            learned: 0 not at all, 0.5 half way, 1 all of it; see `Detector.go_back`. What is known of old classes then
            lies between the detectors before and after, and is often better than both. None: half way for ``distill``,
            else 0.
        apart: classes before those learned keep the probabilities that they have among themselves, as if a second head
            were kept for them (after Retentive R-CNN); see `Detector.rounds`. The same box may then be found as one of
            them and as a new class.
        lift: added to the scores of the classes learned, after the last step: what was seen a few times has low
            probabilities, and what is below the threshold of the detector (mostly 0.05) is never found.
        calibration: corrects the scores of the classes learned by how much a find looks like their shots to a
            classifier; null: those learned now are not corrected.
        unmarked: background of the shots' images that the detector takes for an old class with a probability above this
            is not learned from; null: it is. For the methods that replay regions with their boxes, from regions.
        cached: learn from regions that are extracted once, instead of images; backbone and proposals are frozen then.
        passes: over the images to extract regions, see `extract`.
        learns: ``head``: box head and predictor; ``predictor`` alone; or ``all``: backbone and proposals too, from
            images.
        tap: of the memory, and of the regions that are extracted: before the box head, or, smaller, after it, where
            the box head does not learn; see `Detector.tap`.
        momentum: of SGD.
        weight_decay: of SGD.
    """

    method: Method = "distill"
    steps: int = 300
    lr: float = 0.003
    images: int = 4
    regions: int = 128
    replay: int = 128
    weight: float = 1.0
    distillation: float = 3.0
    temperature: float = 2.0
    back: float | None = None
    apart: bool = False
    lift: float = 0.0
    calibration: PrototypeCalibration | None = None
    unmarked: float | None = 0.5
    cached: bool = True
    passes: int = 4
    learns: Literal["predictor", "head", "all"] = "head"
    tap: Tap = "pooled"
    momentum: float = 0.9
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps is {self.steps}; expected at least 0")
        if self.back is not None and not 0 <= self.back <= 1:
            raise ValueError(f"back is {self.back}; expected a share from 0 to 1")
        if not math.isfinite(self.lift):
            raise ValueError(f"lift is {self.lift}; expected a finite number")
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; expected one of {', '.join(METHODS)}")
        if self.cached and self.learns == "all":
            raise ValueError("cached is True and learns is 'all'; regions can be cached only if the backbone is frozen")
        if self.learns == "all" and self.method == "tfa":
            raise ValueError("learns is 'all' and method is 'tfa', which freezes all but the predictor")
        if self.tap == "head" and "head" not in self.frozen:
            raise ValueError(
                f"tap is 'head' and learns is {self.learns!r}; expected 'predictor', or rows would go stale"
            )

    @property
    def replays(self) -> bool:
        """Whether the method needs a memory."""
        return self.method not in ("finetune", "tfa")

    @property
    def way_back(self) -> float:
        """The share of ``back``."""
        return self.back if self.back is not None else 0.5 if self.method == "distill" else 0.0

    @property
    def frozen(self) -> tuple[Part, ...]:
        """The parts that do not learn."""
        if self.method == "tfa" or self.learns == "predictor":
            return ("backbone", "proposals", "head")
        return () if self.learns == "all" else ("backbone", "proposals")

    @property
    def keep(self) -> Selector:
        """What a memory for this method keeps of each class."""
        return TopScore("gradient_norm") if self.method == "classic" else Reservoir()

    @property
    def mix(self) -> Term:
        """The loss."""
        if not self.replays:
            return DetectorLoss()
        loss = DetectorLoss() + self.weight * ROIReplay()
        if self.method == "distill":
            loss = loss + self.distillation * KnowledgeDistillation(temperature=self.temperature, name="distillation")
        return loss

    def new_memory(
        self, objects: int = 1000, background: int = 500, *, seed: int = 0, fingerprint: str | None = None
    ) -> ROIMemory | None:
        """An empty memory of the kind that the method needs, if it needs one."""
        if not self.replays:
            return None
        if self.method == "gaussian":
            return ROIMemory.of_statistics(seed=seed, fingerprint=fingerprint)
        return ROIMemory.of_rows(objects, background, self.keep, logits=True, seed=seed, fingerprint=fingerprint)

    def tune(
        self,
        detector: Detector,
        data: DetectionSet,
        memory: ROIMemory | None = None,
        *,
        rows: Batch | None = None,
        seed: int = 0,
        accelerator: Any | None = None,
        out: Path | None = None,
        resume: bool = False,
        **options: Any,
    ) -> Progress:
        """Teaches ``detector``, which is changed in place, the classes of ``data``. It must have a place for each.

        Args:
            memory: of the old classes.
            rows: the regions of ``data``, if they were extracted already.
            seed: of the order of the data and of what is sampled from images.
            accelerator: as for `fit`, which also takes ``out``, ``resume`` and the ``options``.

        Raises:
            ValueError: there are more classes than the detector has, no memory where one is needed, or one of another
                backbone or pooler; or the detector has prototypes of another calibration.
        """
        if len(data.classes) > detector.classes:
            raise ValueError(
                f"data has {len(data.classes)} classes, the detector {detector.classes}; expected grow first"
            )
        detector.tap = self.tap
        if self.replays:
            if memory is None or not len(memory):
                raise ValueError(f"memory is {memory!r}; expected one with regions for the method {self.method!r}")
            memory.check(detector.fingerprint(), detector.feature_shape)
            if self.method == "distill" and not isinstance(memory.objects, Store):
                raise ValueError(
                    "method is 'distill' and memory holds statistics, no scores; expected 'gaussian' for it"
                )
        prototypes = self._prototypes(detector, data)
        old = _classes_in(memory) if self.replays else 0
        if self.cached and rows is None:
            rows = extract(detector, data, passes=self.passes, seed=seed)
        if rows is not None and self.replays and self.method != "gaussian" and self.unmarked is not None:
            rows = unless_known(rows, old, self.unmarked)
        if self.method == "tfa":
            detector.use_cosines()
        detector.freeze(*self.frozen)
        by: Selector = Nearest("feature") if self.method == "classic" else ClassBalanced(Uniform())
        replay = ReplayMemory(memory if self.replays else None, by, self.mix, self.replay, seed=seed)
        learned = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(learned, self.lr, self.momentum, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        loader: Any
        if self.cached:
            assert rows is not None
            loader = batches(rows, min(self.regions, len(rows["label"])), seed=seed, drop_last=True)
        else:
            loader = image_batches(data, self.images, seed=seed)
        start = {n: p.detach().clone() for n, p in detector.named_parameters() if self.way_back and p.requires_grad}
        held, detector.prototypes = detector.prototypes, None  # nothing in them learns, so that no process sends them
        try:
            progress = fit(
                detector,
                optimizer,
                loader,
                replay,
                steps=self.steps,
                views=views,
                query=self._query(detector, data) if self.method == "classic" else None,
                remember=(),
                scheduler=scheduler,
                accelerator=accelerator,
                out=out,
                resume=resume,
                **options,
            )
        finally:
            detector.prototypes = None if held is None else held.to(next(detector.parameters()).device)
        taught = [label for label, boxes in enumerate(data.counts().values()) if boxes]
        if self.way_back:
            detector.go_back(start, self.way_back, taught)
        if self.apart and (first := min(taught, default=0)):
            detector.rounds = (*(known for known in detector.rounds if known < first), first)
        for label in taught:
            detector.lift(label, self.lift)
        if prototypes is not None:
            detector.prototypes = prototypes.to(next(detector.parameters()).device)
        return progress

    def _prototypes(self, detector: Detector, data: DetectionSet) -> Prototypes | None:
        """Those of the detector with the boxes of ``data`` as well, if scores are to be calibrated."""
        if self.calibration is None:
            return None
        found = copy.deepcopy(detector.prototypes)
        if found is None:
            found = Prototypes(self.calibration).to(next(detector.parameters()).device)
        elif found.calibration != (wanted := replace(self.calibration, weights=None)):
            raise ValueError(f"calibration is {wanted}; expected that of the detector, {found.calibration}")
        found.learn(data)
        return found

    def _query(self, detector: Detector, data: DetectionSet) -> Callable[[Any], Mapping[str, Tensor]]:
        """What the regions to recall shall be similar to: the objects among the new regions."""
        if self.cached:
            return lambda batch: {"feature": _objects(batch)}
        rows = extract(detector, data)
        by_image = {
            number: _objects({name: values[rows["source"] == number] for name, values in rows.items()})
            for number in rows["source"].unique().tolist()
        }
        return lambda batch: {"feature": torch.cat([by_image[int(number)] for number in batch["id"]])}


def _objects(rows: Mapping[str, Tensor]) -> Tensor:
    """Features of the objects among regions; of all, where there are none."""
    found = rows["label"] >= 0
    return rows["feature"][found] if bool(found.any()) else rows["feature"]


def _classes_in(memory: ROIMemory | None) -> int:
    """The number of classes up to the last one that is in a memory."""
    classes = [] if memory is None else memory.summary()["classes"]
    return 1 + max(classes, default=-1)
