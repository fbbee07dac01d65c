"""Detector: what the memory and the training loop need of a two-stage detector, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..core.batch import Batch
from ..core.fingerprint import fingerprint
from ..core.mixers.view import View, columns_of, on_device
from ..core.stores import Rows
from .detections import Detections, merged
from .memory import BACKGROUND
from .predictors import CosineScores, drop, grow, parts_of, use_cosines
from .prototypes import Prototypes

Images: TypeAlias = Mapping[str, list[Tensor]]
"""A batch of images: ``image`` (3, H, W), uint8 or floats in [0, 1]; and where they are learned from ``boxes`` (N, 4),
x1, y1, x2, y2 in pixels, ``label`` (N,), the class, and ``id`` (), the image. Each a list with an entry per image."""

Part: TypeAlias = Literal["backbone", "proposals", "head", "predictor"]
Tap: TypeAlias = Literal["pooled", "head"]
PARTS: tuple[Part, ...] = ("backbone", "proposals", "head", "predictor")
"""The parts of a detector, in the order in which an image passes them."""


@dataclass(frozen=True)
class Proposed:
    """What backbone and proposals make of images: regions that may hold an object, pooled.

    Attributes:
        feature: (N, ...), those of the first image first.
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the resized images.
        counts: regions on each image.
        sizes: height and width of each image, resized,
        originals: and as it came.
    """

    feature: Tensor
    boxes: Tensor
    counts: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    originals: tuple[tuple[int, int], ...]


class Detector(nn.Module):
    """Base of the detectors of this package. A backend says how images pass (`live`, `propose`, `regions`) and how
    pooled regions do (`judge`, `find`); this class puts new images or regions and recalled regions into one forward.

    The logits of all backends have the background first, then the classes in the order in which they came: class c has
    the logit c + 1, so what was stored before a class came still fits.
    """

    classes: int
    """Number of classes, those forgotten included."""
    heads: Any
    """Pools regions, describes them and judges them; has the attribute ``tap``."""
    background_last: ClassVar[bool] = False
    """Whether the background has the last score of the predictor, or the first."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen: tuple[Part, ...] = ()
        self.rounds: tuple[int, ...] = ()
        """Classes known before each later round of learning whose scores are apart: the probability of a class is that
        among the background and the classes up to the end of its own round, so that classes learned later take nothing
        from it. None: all share."""
        self.prototypes: Prototypes | None = None
        """How boxes of classes that were seen a few times look, if scores are corrected by that; see `detect`."""

    @property
    def tap(self) -> Tap:
        """Where the features of rows are taken: ``pooled``, before the box head, or ``head``, after it. The latter are
        smaller; they go stale with the first step that the box head learns, so that `freeze` then insists on it.
        """
        found: Tap = self.heads.tap
        return found

    @tap.setter
    def tap(self, value: Tap) -> None:
        self.heads.tap = value

    # -- what a backend says ----------------------------------------------------------------------------------------

    def part(self, name: Part) -> nn.Module:
        """The module that is a part of the detector."""
        raise TypeError(f"{type(self).__name__} must override part")

    def live(self, batch: Images) -> tuple[Batch, dict[str, Tensor]]:
        """Regions sampled on images to learn from, as rows for the memory, and the detector's own losses on them, each
        expanded to one number per region.
        """
        raise TypeError(f"{type(self).__name__} must override live")

    def judge(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What box head and predictor say about pooled regions: ``logits``, the background first; ``loss_cls``, and
        ``loss_box`` where there are boxes, each expanded to one number per region.
        """
        raise TypeError(f"{type(self).__name__} must override judge")

    def regions(self, batch: Images) -> Batch:
        """Regions of images as rows for the memory, as the detector in evaluation mode samples them."""
        raise TypeError(f"{type(self).__name__} must override regions")

    def propose(self, images: Sequence[Tensor]) -> Proposed:
        """Regions of images (3, H, W) that may hold an object."""
        raise TypeError(f"{type(self).__name__} must override propose")

    def pool(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Pooled features (N, ...) of given boxes, in pixels of the resized images, those of the first image first."""
        raise TypeError(f"{type(self).__name__} must override pool")

    def predictions(self, proposed: Proposed) -> tuple[Tensor, Tensor]:
        """What box head and predictor say of these regions: scores and box corrections, in the predictor's order."""
        raise TypeError(f"{type(self).__name__} must override predictions")

    def detections(self, scores: Tensor, corrections: Tensor, proposed: Proposed) -> list[Detections]:
        """What is found where the predictor says so of these regions, image by image, not more than `most`."""
        raise TypeError(f"{type(self).__name__} must override detections")

    @property
    def most(self) -> int:
        """Detections on an image, at most."""
        raise TypeError(f"{type(self).__name__} must override most")

    def find(self, proposed: Proposed) -> list[Detections]:
        """What box head and predictor find in these regions, image by image; for `rounds`, round by round."""
        with evaluating(self):
            scores, corrections = self.predictions(proposed)
            found = []
            for first, end in pairwise((0, *self.rounds, self.classes)):
                places = torch.arange(end, self.classes) + (not self.background_last)
                known = scores.index_fill(1, places.to(scores.device), -torch.inf)
                found.append([one.within(first, end) for one in self.detections(known, corrections, proposed)])
        return [merged(parts, self.most) for parts in zip(*found, strict=True)]

    def grow(self, classes: int, generator: torch.Generator) -> None:
        """Adds classes to the predictor; the weights of those there are stay as they are."""
        grow(self.part("predictor"), classes, generator, background_last=self.background_last)

    def drop(self, label: int) -> None:
        """Erases what the predictor and the prototypes know of a class, which is then never predicted. Its place stays
        empty."""
        drop(self.part("predictor"), label, background_last=self.background_last)
        if self.prototypes is not None:
            self.prototypes.drop(label)

    @torch.no_grad()
    def go_back(self, start: Mapping[str, Tensor], share: float, learned: Iterable[int]) -> None:
        """Moves weights back towards where they started, in place (WiSE-FT, Wortsman et al., Robust fine-tuning of
        zero-shot models, CVPR 2022). Unlike there, what is a new class's alone stays, since it started at random.

        Args:
            start: weights by name; others stay as they are.
            share: of the way; 0: none, 1: all of it.
            learned: classes whose own weights in the predictor stay as they are.
        """
        predictor = self.part("predictor")
        own = [parts_of(predictor, label, background_last=self.background_last) for label in learned]
        kept = [part.clone() for parts in own for part in parts]
        for name, weights in self.named_parameters():
            if name in start:
                weights.lerp_(start[name].to(weights), share)
        for part, values in zip((part for parts in own for part in parts), kept, strict=True):
            part.copy_(values)

    @torch.no_grad()
    def lift(self, label: int, by: float) -> None:
        """Adds a number to all scores of a class."""
        parts_of(self.part("predictor"), label, background_last=self.background_last)[1].add_(by)

    def use_cosines(self) -> None:
        """Turns the scores of the predictor into cosines, with the same weights, if they are none."""
        use_cosines(self.part("predictor"))

    @property
    def cosines(self) -> bool:
        """Whether the scores of the predictor are cosines."""
        return isinstance(self.part("predictor").cls_score, CosineScores)

    @property
    def pooled_shape(self) -> tuple[int, ...]:
        """Shape of a pooled region."""
        raise TypeError(f"{type(self).__name__} must override pooled_shape")

    def pooled_by(self) -> str:
        """Describes all that pooled features depend on besides the weights of the backbone."""
        raise TypeError(f"{type(self).__name__} must override pooled_by")

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of the feature of a row, which depends on the `tap`."""
        if self.tap == "pooled":
            return self.pooled_shape
        scores = self.part("predictor").cls_score
        assert isinstance(scores, nn.Linear)
        return (scores.in_features,)

    def fingerprint(self) -> str:
        """Names all that the features of rows depend on, the backbone with its weights and the pooler, and the box head
        if they are taken after it: regions of another one do not fit.
        """
        behind = [] if self.tap == "pooled" else [fingerprint(self.part("head"))]
        return fingerprint(self.part("backbone"), self.pooled_by(), *behind)[:16]

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """What is on images (3, H, W), uint8 or floats in [0, 1]; scores are corrected by the `prototypes`."""
        found = self.find(self.propose(images))
        return found if self.prototypes is None else self.prototypes.calibrate(found, images)

    # -- the step ---------------------------------------------------------------------------------------------------

    def forward(
        self, batch: Images | Mapping[str, Tensor], recalled: Mapping[str, Mapping[str, Tensor]] | None = None
    ) -> dict[str, Any]:
        """One step over new images, or regions in their place, and over recalled regions.

        Returns:
            ``rows`` of the regions that are new, the ``outputs`` for them, and ``recalled``: the outputs by draw.
        """
        rows: Mapping[str, Tensor]
        if "image" in batch:
            rows, outputs = self.live(batch)  # type: ignore[arg-type]
        else:
            rows = batch  # type: ignore[assignment]
            outputs = self.judge(rows)
        return {
            "rows": rows,
            "outputs": outputs,
            "recalled": {name: self.judge(drawn) for name, drawn in (recalled or {}).items()},
        }

    def freeze(self, *parts: Part) -> None:
        """Learns nothing any more in these parts, which stay in evaluation mode; all others learn.

        Raises:
            ValueError: there is no such part; or the box head would learn, though rows are taken after it.
        """
        for name in parts:
            if name not in PARTS:
                raise ValueError(f"parts has {name!r}; expected some of {', '.join(PARTS)}")
        if self.tap == "head" and not {"backbone", "head"} <= set(parts):
            raise ValueError(
                f"tap is 'head' and parts is {parts}; expected backbone and head to be frozen, or rows would go stale"
            )
        self.frozen = tuple(name for name in PARTS if name in parts)
        for name in PARTS:
            self.part(name).requires_grad_(name not in parts)
        self.train(self.training)

    def train(self, mode: bool = True) -> Detector:
        super().train(mode)
        for name in self.frozen:
            self.part(name).eval()
        return self


def views(model: Any, batch: Any, recalled: Mapping[str, Rows] | None) -> tuple[View, dict[str, View]]:
    """What `memreplay.core.training.fit` takes in place of `joint_forward`, for a `Detector`."""
    device = next(model.parameters()).device
    draws = {name: on_device(rows, device) for name, rows in (recalled or {}).items() if len(rows)}
    found = model(batch, {name: columns_of(rows) for name, rows in draws.items()})
    new = View(found["rows"], found["outputs"])
    return new, {name: View(rows, found["recalled"][name]) for name, rows in draws.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """``model`` in evaluation mode and without gradients; the mode is put back afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def region_rows(feature: Tensor, label: Tensor, proposal: Tensor, target: Tensor, source: Tensor) -> Batch:
    """Regions as rows for the memory, detached. Background has its proposal as its target, so that no number in a row
    is arbitrary.

    Args:
        feature: (B, ...).
        label: int64 (B,), -1 for background.
        proposal: (B, 4).
        target: (B, 4), anything where there is no object.
        source: int64 (B,).
    """
    proposal = proposal.detach().float()
    target = torch.where((label == BACKGROUND)[:, None], proposal, target.detach().float())
    corner = torch.maximum(proposal[:, :2], target[:, :2]), torch.minimum(proposal[:, 2:], target[:, 2:])
    shared = (corner[1] - corner[0]).clamp(min=0).prod(1)
    areas = sum((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (proposal, target))
    return {
        "feature": feature.detach(),
        "label": label,
        "proposal": proposal,
        "target": target,
        "iou": torch.where(label == BACKGROUND, 0.0, shared / (areas - shared)),
        "source": source,
    }
