"""BaseTraining: a detector learns its first classes from images, and its memory is filled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..core.checkpoint import Progress
from ..core.memory import ReplayMemory
from ..core.training import fit
from .data import DetectionSet, image_batches
from .detector import Detector, Part, views
from .memory import ROIMemory
from .terms import DetectorLoss


@dataclass(frozen=True)
class BaseTraining:
    """How a detector learns its first classes.

    Args:
        steps: optimizer steps.
        images: per step.
        lr: largest learning rate; it rises from 0 during the first ``warmup`` steps and falls to 0 along a cosine.
        optimizer: SGD with momentum 0.9, or AdamW.
        weight_decay: of the optimizer.
        warmup: steps.
        clip_norm: largest norm of the gradient; null: any.
        frozen: parts that do not learn.
        flip: share of the images that are flipped.
    """

    steps: int = 2000
    images: int = 8
    lr: float = 0.02
    optimizer: Literal["sgd", "adamw"] = "sgd"
    weight_decay: float = 1e-4
    warmup: int = 100
    clip_norm: float | None = 10.0
    frozen: tuple[Part, ...] = ()
    flip: float = 0.5

    def train(
        self,
        detector: Detector,
        data: DetectionSet,
        memory: ROIMemory | None = None,
        *,
        seed: int = 0,
        accelerator: Any | None = None,
        out: Path | None = None,
        resume: bool = False,
        **options: Any,
    ) -> Progress:
        """Teaches ``detector``, which is changed in place.

        Args:
            memory: takes in the regions of every step, as they are sampled. Their features are of a backbone that still
                learned; after training it has the fingerprint of what the backbone became.
            seed: of the order of the images.
            accelerator: as for `fit`, which also takes ``out``, ``resume`` and the ``options``.

        Raises:
            ValueError: the detector has another number of classes than ``data``.
        """
        if len(data.classes) != detector.classes:
            raise ValueError(f"data has {len(data.classes)} classes; expected {detector.classes}, as the detector has")
        detector.freeze(*self.frozen)
        learned = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        make: Any = torch.optim.AdamW if self.optimizer == "adamw" else torch.optim.SGD
        settings: dict[str, Any] = {} if self.optimizer == "adamw" else {"momentum": 0.9}
        optimizer = make(learned, lr=self.lr, weight_decay=self.weight_decay, **settings)
        progress = fit(
            detector,
            optimizer,
            image_batches(data, self.images, flip=self.flip, seed=seed),
            ReplayMemory(memory, mix=DetectorLoss(), replay=0),
            steps=self.steps,
            views=views,
            remember=() if memory is None else lambda view: dict(view.rows.items()),
            scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, self._share),
            clip_norm=self.clip_norm,
            accelerator=accelerator,
            out=out,
            resume=resume,
            **options,
        )
        if memory is not None:
            memory.fingerprint = detector.fingerprint()
        return progress

    def _share(self, step: int) -> float:
        """Of the learning rate, at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
