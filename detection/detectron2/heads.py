"""ROIMemoryHeads: detectron2's standard heads with a tap between pooler and box head, and replay in their losses."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage, has_event_storage
from torch import Tensor

from ...core.batch import Batch
from ...core.scores import gradient_norm
from ..detector import Tap, region_rows
from ..memory import BACKGROUND, ROIMemory


@ROI_HEADS_REGISTRY.register()
class ROIMemoryHeads(StandardROIHeads):  # type: ignore[misc]
    """Heads that tell the regions they sampled, and learn from recalled ones where they have a memory.

    From yacs: ``MODEL.ROI_HEADS.NAME: ROIMemoryHeads``. From a LazyConfig: ``model.roi_heads._target_ =
    ROIMemoryHeads``. In a training loop of detectron2's own, give them a memory: ``model.roi_heads.memory = memory``
    and ``.replay = 128``; the losses then have ``loss_cls_replay`` and ``loss_box_reg_replay`` too. Without one, losses
    are bit for bit those of the standard heads. Class c of a memory is class c here, whatever number background has.

    Attributes:
        memory: what to recall from, or None.
        replay: regions to recall per step.
        sampled: rows for a memory, of the last step in training mode.
        tap: whether the features of rows are taken before the box head or after it.
        sources: numbers of the images of the next step, for these rows; their places in the batch where it is None.

    Raises:
        ValueError: there is a mask or keypoint head, which no memory of regions could replay.
    """

    sampled: Batch
    tap: Tap = "pooled"

    @configurable  # type: ignore[untyped-decorator]
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for name in ("mask", "keypoint"):
            if getattr(self, f"{name}_on"):
                raise ValueError(
                    f"the detector has a {name} head; expected boxes alone: MODEL.{name.upper()}_ON: False"
                )
        self.memory: ROIMemory | None = None
        self.replay = 0
        self.sources: list[int] | None = None

    @staticmethod
    def of(heads: StandardROIHeads) -> ROIMemoryHeads:
        """Heads made of the parts of others, not copied."""
        if heads.mask_on or heads.keypoint_on:
            raise ValueError("the detector has a mask or keypoint head; expected boxes alone")
        names = ("box_in_features", "box_pooler", "box_head", "box_predictor", "num_classes", "batch_size_per_image")
        more = ("positive_fraction", "proposal_matcher", "proposal_append_gt", "train_on_pred_boxes")
        made: ROIMemoryHeads = ROIMemoryHeads(**{name: getattr(heads, name) for name in (*names, *more)})
        return made

    def forward(
        self, images: Any, features: dict[str, Tensor], proposals: list[Instances], targets: Any = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        if not self.training:
            found: tuple[list[Instances], dict[str, Tensor]] = super().forward(images, features, proposals, targets)
            return found
        with storage():
            chosen, predictions, self.sampled = self.sample(features, proposals, targets)
            losses: dict[str, Tensor] = self.box_predictor.losses(predictions, chosen)
        if self.memory is not None and self.replay:
            rows = self.memory.draw(self.replay)
            if len(rows):
                recalled = self.judge(rows.to(self.box_predictor.cls_score.weight.device).columns)
                losses |= {f"{name}_replay": value for name, value in recalled.items() if name.startswith("loss_")}
        return chosen, losses

    def sample(
        self, features: dict[str, Tensor], proposals: list[Instances], targets: list[Instances]
    ) -> tuple[list[Instances], tuple[Tensor, Tensor], Batch]:
        """Samples regions around targets as in training, pools them and predicts.

        Returns:
            The regions, the predictions for them, and their rows for a memory.
        """
        with storage():
            chosen = self.label_and_sample_proposals(proposals, targets)
        pooled = self.box_pooler([features[name] for name in self.box_in_features], [p.proposal_boxes for p in chosen])
        described = self.box_head(pooled)
        predictions = self.box_predictor(described)
        classes = torch.cat([part.gt_classes for part in chosen])
        label = torch.where(classes == self.num_classes, BACKGROUND, classes)
        numbers = range(len(chosen)) if self.sources is None else self.sources
        self.sources = None
        source = torch.cat([classes.new_full((len(part),), i) for i, part in zip(numbers, chosen, strict=True)])
        boxes = torch.cat([part.proposal_boxes.tensor for part in chosen])
        goals = torch.cat([(part.gt_boxes if part.has("gt_boxes") else part.proposal_boxes).tensor for part in chosen])
        rows = region_rows(pooled if self.tap == "pooled" else described, label, boxes, goals, source)
        rows["logits"] = background_first(predictions[0]).detach().float()
        rows["gradient_norm"] = gradient_norm(described.detach().float(), rows["logits"], label + 1)
        return chosen, predictions, rows

    def judge(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the predictor on recalled regions, by detectron2's names and with its weights, and ``logits``,
        the background first. Regions without boxes have no ``loss_box_reg``.
        """
        predictor = self.box_predictor
        feature = rows["feature"].to(predictor.cls_score.weight)
        predictions = predictor(self.box_head(feature) if self.tap == "pooled" else feature)
        label = rows["label"]
        # any box will do where there is none, since what it leads to is left out
        unit = torch.tensor([0.0, 0.0, 1.0, 1.0], device=label.device).expand(len(label), 4)
        regions = Instances((1, 1))
        regions.proposal_boxes = Boxes(rows.get("proposal", unit))
        regions.gt_boxes = Boxes(rows.get("target", unit))
        regions.gt_classes = torch.where(label == BACKGROUND, self.num_classes, label)
        with EventStorage():  # so that the figures that detectron2 notes stay those of the live regions
            losses: dict[str, Tensor] = predictor.losses(predictions, [regions])
        if "proposal" not in rows:
            del losses["loss_box_reg"]
        return {"logits": background_first(predictions[0]), **losses}


def background_first(scores: Tensor) -> Tensor:
    """Scores (B, C + 1) with the last column, detectron2's background, first."""
    return torch.cat([scores[:, -1:], scores[:, :-1]], 1)


def storage() -> AbstractContextManager[Any]:
    """A place for the figures that detectron2 notes in training, unless the caller has one."""
    place: AbstractContextManager[Any] = nullcontext() if has_event_storage() else EventStorage()
    return place
