"""TorchvisionDetector: Faster R-CNN of torchvision with a tap between its pooler and its box head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss

from ..core.batch import Batch
from ..core.scores import gradient_norm
from .data import in_unit
from .detections import Detections
from .detector import Detector, Images, Part, Proposed, Tap, evaluating, region_rows

_NAMES = {
    "loss_classifier": "loss_cls",
    "loss_box_reg": "loss_box",
    "loss_objectness": "loss_objectness",
    "loss_rpn_box_reg": "loss_rpn_box",
}


class TappedRoIHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's heads, which also tell the regions that they sampled and pooled; losses and detections are theirs.

    Attributes:
        sampled: rows for the memory, of the last step in training mode.
        tap: whether their features are taken before the box head or after it.
    """

    sampled: Batch
    tap: Tap = "pooled"

    @staticmethod
    def of(heads: RoIHeads) -> TappedRoIHeads:
        """Heads made of the parts of others, not copied.

        Raises:
            ValueError: they have masks or keypoints, which no memory of regions could replay.
        """
        for name in ("mask", "keypoint"):
            if getattr(heads, f"has_{name}")():
                raise ValueError(f"the detector has a {name} head; expected boxes alone, as in Faster R-CNN")
        matcher, sampler = heads.proposal_matcher, heads.fg_bg_sampler
        return TappedRoIHeads(
            heads.box_roi_pool,
            heads.box_head,
            heads.box_predictor,
            matcher.high_threshold,
            matcher.low_threshold,
            sampler.batch_size_per_image,
            sampler.positive_fraction,
            heads.box_coder.weights,
            heads.score_thresh,
            heads.nms_thresh,
            heads.detections_per_img,
        )

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if not self.training:
            found: tuple[list[dict[str, Tensor]], dict[str, Tensor]] = super().forward(
                features, proposals, image_shapes, targets
            )
            return found
        if targets is None:
            raise ValueError("targets is None; expected boxes and labels to learn from")
        self.sampled, (logits, deltas), labels, corrections = self.sample(features, proposals, image_shapes, targets)
        loss_cls, loss_box = fastrcnn_loss(logits, deltas, labels, corrections)
        return [], {"loss_classifier": loss_cls, "loss_box_reg": loss_box}

    def sample(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
    ) -> tuple[Batch, tuple[Tensor, Tensor], list[Tensor], list[Tensor]]:
        """Samples regions around targets as in training, pools them and predicts.

        Returns:
            Rows for the memory; logits and box corrections; labels and corrections that are right, by image.
        """
        boxes, matched, labels, corrections = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, boxes, image_shapes)
        described = self.box_head(pooled)
        logits, deltas = self.box_predictor(described)
        goals = [
            target["boxes"][index] if len(target["boxes"]) else torch.zeros_like(proposal)
            for target, index, proposal in zip(targets, matched, boxes, strict=True)
        ]
        sources = [target["id"].reshape(1).expand(len(part)) for target, part in zip(targets, labels, strict=True)]
        label = torch.cat(labels)
        feature = pooled if self.tap == "pooled" else described
        rows = region_rows(feature, label - 1, torch.cat(boxes), torch.cat(goals), torch.cat(sources))
        rows["logits"] = logits.detach().float()
        rows["gradient_norm"] = gradient_norm(described.detach().float(), rows["logits"], label)
        return rows, (logits, deltas), labels, corrections


class TorchvisionDetector(Detector):
    """A torchvision detector with a box head, ready for a memory of regions.

    The backbone may be any that torchvision's `FasterRCNN` takes. Class c is torchvision's label c + 1.

    Args:
        model: from `torchvision.models.detection`; it is changed in place.

    Raises:
        ValueError: it is of another kind, such as RetinaNet, or has masks or keypoints.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, GeneralizedRCNN) or not isinstance(getattr(model, "roi_heads", None), RoIHeads):
            raise ValueError(f"model is a {type(model).__name__}; expected one with a box head, such as FasterRCNN")
        self.model: Any = model
        self.model.roi_heads = TappedRoIHeads.of(model.roi_heads)

    @property
    def classes(self) -> int:  # type: ignore[override]
        return int(self.heads.box_predictor.cls_score.out_features) - 1

    @property
    def heads(self) -> Any:
        """The `TappedRoIHeads`."""
        return self.model.roi_heads

    def part(self, name: Part) -> nn.Module:
        found: dict[Part, nn.Module] = {
            "backbone": self.model.backbone,
            "proposals": self.model.rpn,
            "head": self.heads.box_head,
            "predictor": self.heads.box_predictor,
        }
        return found[name]

    def live(self, batch: Images) -> tuple[Batch, dict[str, Tensor]]:
        losses = self.model([in_unit(image) for image in batch["image"]], _targets(batch))
        rows = self.heads.sampled
        size = len(rows["label"])
        return rows, {_NAMES[name]: value.expand(size) for name, value in losses.items()}

    def judge(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        heads = self.heads
        feature = rows["feature"].to(heads.box_predictor.cls_score.weight)
        logits, deltas = heads.box_predictor(heads.box_head(feature) if self.tap == "pooled" else feature)
        places = rows["label"] + 1
        if "proposal" not in rows:
            return {"logits": logits, "loss_cls": F.cross_entropy(logits, places).expand(len(places))}
        corrections = heads.box_coder.encode([rows["target"]], [rows["proposal"]])
        loss_cls, loss_box = fastrcnn_loss(logits, deltas, [places], corrections)
        return {"logits": logits, "loss_cls": loss_cls.expand(len(places)), "loss_box": loss_box.expand(len(places))}

    def regions(self, batch: Images) -> Batch:
        with evaluating(self):
            images, targets = self.model.transform([in_unit(image) for image in batch["image"]], _targets(batch))
            features, proposals = self._proposals(images)
            rows: Batch = self.heads.sample(features, proposals, images.image_sizes, targets)[0]
        return rows

    def propose(self, images: Sequence[Tensor]) -> Proposed:
        with evaluating(self):
            resized, _ = self.model.transform([in_unit(image) for image in images])
            features, proposals = self._proposals(resized)
            pooled = self.heads.box_roi_pool(features, proposals, resized.image_sizes)
        return Proposed(
            pooled,
            torch.cat(proposals),
            tuple(map(len, proposals)),
            tuple(resized.image_sizes),
            tuple((image.shape[1], image.shape[2]) for image in images),
        )

    def pool(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        with evaluating(self):
            resized, _ = self.model.transform([in_unit(image) for image in images])
            pooled: Tensor = self.heads.box_roi_pool(self._maps(resized), list(boxes), resized.image_sizes)
        return pooled

    def predictions(self, proposed: Proposed) -> tuple[Tensor, Tensor]:
        heads = self.heads
        described = heads.box_head(proposed.feature.to(heads.box_predictor.cls_score.weight))
        with torch.autocast(described.device.type, enabled=False):  # scores of half precision would tie
            scores, corrections = heads.box_predictor(described.to(heads.box_predictor.cls_score.weight))
        return scores, corrections

    def detections(self, scores: Tensor, corrections: Tensor, proposed: Proposed) -> list[Detections]:
        parts = list(proposed.boxes.to(scores.device).split(proposed.counts))
        found = zip(*self.heads.postprocess_detections(scores, corrections, parts, proposed.sizes), strict=True)
        named = [dict(zip(("boxes", "scores", "labels"), one, strict=True)) for one in found]
        placed = self.model.transform.postprocess(named, proposed.sizes, proposed.originals)
        return [Detections(one["boxes"].cpu(), one["scores"].cpu(), one["labels"].cpu() - 1) for one in placed]

    @property
    def most(self) -> int:
        return int(self.heads.detections_per_img)

    def _proposals(self, images: Any) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Feature maps, and the boxes proposed."""
        features = self._maps(images)
        return features, self.model.rpn(images, features)[0]

    def _maps(self, images: Any) -> dict[str, Tensor]:
        features = self.model.backbone(images.tensors)
        return {"0": features} if isinstance(features, Tensor) else features

    @property
    def pooled_shape(self) -> tuple[int, ...]:
        return (int(self.model.backbone.out_channels), *map(int, self.heads.box_roi_pool.output_size))

    def pooled_by(self) -> str:
        pool, transform = self.heads.box_roi_pool, self.model.transform
        described = (
            *(pool.featmap_names, tuple(pool.output_size), pool.sampling_ratio),
            *(tuple(transform.min_size), transform.max_size, transform.image_mean, transform.image_std),
        )
        return repr(described)


def _targets(batch: Images) -> list[dict[str, Tensor]]:
    return [
        {"boxes": boxes, "labels": label + 1, "id": number}
        for boxes, label, number in zip(batch["boxes"], batch["label"], batch["id"], strict=True)
    ]
