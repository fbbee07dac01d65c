"""Detectron2Detector: a Faster R-CNN of detectron2 for this package's memory, training loop and evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ...core.batch import Batch
from ..detections import Detections
from ..detector import Detector, Images, Part, Proposed, evaluating
from .checkpoint import load_checkpoint
from .heads import ROIMemoryHeads, storage

_NAMES = {
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_box",
    "loss_rpn_cls": "loss_objectness",
    "loss_rpn_loc": "loss_rpn_box",
}


class Detectron2Detector(Detector):
    """A detectron2 model with standard heads.

    Images are resized as detectron2's own ``ResizeShortestEdge`` does, and their channels ordered as the model wants
    them. Class c is detectron2's class c; the background follows after the last one.

    Args:
        model: a `GeneralizedRCNN`; it is changed in place.
        min_size: an image is resized so that its shorter side has this many pixels,
        max_size: unless its longer side had more than this.

    Raises:
        ValueError: it is of another kind, or has masks or keypoints.
    """

    background_last = True

    def __init__(self, model: nn.Module, min_size: int = 800, max_size: int = 1333) -> None:
        super().__init__()
        heads = getattr(model, "roi_heads", None)
        if not isinstance(model, GeneralizedRCNN) or not isinstance(heads, StandardROIHeads):
            raise ValueError(f"model is a {type(model).__name__}; expected a GeneralizedRCNN with StandardROIHeads")
        self.model: Any = model
        if not isinstance(heads, ROIMemoryHeads):
            self.model.roi_heads = ROIMemoryHeads.of(heads)
        self.min_size, self.max_size = min_size, max_size

    @staticmethod
    def of_yaml(
        path: str | Path, classes: int, weights: str | Path | None = None, options: Sequence[str] = ()
    ) -> Detectron2Detector:
        """A model by a yaml file of detectron2, such as one of its model zoo, for a number of classes.

        Args:
            weights: a file with weights; layers of another size are left out.
            options: names and values by turns, that change the configuration: ``["MODEL.MASK_ON", "False"]``.
        """
        config = get_cfg()
        config.merge_from_file(str(path))
        config.MODEL.DEVICE = "cpu"
        config.merge_from_list(list(options))
        config.MODEL.ROI_HEADS.NAME = "ROIMemoryHeads"
        config.MODEL.ROI_HEADS.NUM_CLASSES = classes
        made = Detectron2Detector(build_model(config), config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST)
        if weights is not None:
            load_checkpoint(made.model, weights)
        return made

    @staticmethod
    def of_lazy(
        path: str | Path, classes: int, weights: str | Path | None = None, options: Sequence[str] = ()
    ) -> Detectron2Detector:
        """A model by a Python file of detectron2, which is run: its ``model``, for a number of classes.

        Args:
            weights: a file with weights; layers of another size are left out.
            options: changes such as ``["model.backbone.bottom_up.stages.depth=18"]``.
        """
        config = LazyConfig.apply_overrides(LazyConfig.load(str(path)), list(options))
        heads = config.model.roi_heads
        heads._target_ = ROIMemoryHeads
        heads.num_classes = classes
        for name in [name for name in heads if name.startswith(("mask_", "keypoint_"))]:
            del heads[name]
        made = Detectron2Detector(instantiate(config.model))
        if weights is not None:
            load_checkpoint(made.model, weights)
        return made

    @property
    def classes(self) -> int:  # type: ignore[override]
        return int(self.heads.num_classes)

    @property
    def heads(self) -> Any:
        """The `ROIMemoryHeads`."""
        return self.model.roi_heads

    def part(self, name: Part) -> nn.Module:
        found: dict[Part, nn.Module] = {
            "backbone": self.model.backbone,
            "proposals": self.model.proposal_generator,
            "head": self.heads.box_head,
            "predictor": self.heads.box_predictor,
        }
        return found[name]

    def live(self, batch: Images) -> tuple[Batch, dict[str, Tensor]]:
        self.heads.sources = [int(number) for number in batch["id"]]
        with storage():
            losses = self.model(self._inputs(batch))
        rows = self.heads.sampled
        size = len(rows["label"])
        return rows, {_NAMES[name]: value.expand(size) for name, value in losses.items()}

    def judge(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self.heads.judge(rows)
        size = len(rows["label"])
        losses = {_NAMES[name]: value.expand(size) for name, value in found.items() if name in _NAMES}
        return {"logits": found["logits"], **losses}

    def regions(self, batch: Images) -> Batch:
        self.heads.sources = [int(number) for number in batch["id"]]
        with evaluating(self):
            inputs = self._inputs(batch)
            features, proposals = self._proposals(inputs)
            rows: Batch = self.heads.sample(features, proposals, [entry["instances"] for entry in inputs])[2]
        return rows

    def propose(self, images: Sequence[Tensor]) -> Proposed:
        heads = self.heads
        with evaluating(self):
            features, proposals = self._proposals(self._inputs({"image": list(images)}))
            boxes = [part.proposal_boxes for part in proposals]
            pooled = heads.box_pooler([features[name] for name in heads.box_in_features], boxes)
        return Proposed(
            pooled,
            torch.cat([part.tensor for part in boxes]),
            tuple(map(len, boxes)),
            tuple(part.image_size for part in proposals),
            tuple((image.shape[1], image.shape[2]) for image in images),
        )

    def pool(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        heads = self.heads
        with evaluating(self):
            features = self._maps(self._inputs({"image": list(images)}))[1]
            pooled: Tensor = heads.box_pooler(
                [features[name] for name in heads.box_in_features], [Boxes(part) for part in boxes]
            )
        return pooled

    def predictions(self, proposed: Proposed) -> tuple[Tensor, Tensor]:
        predictor = self.heads.box_predictor
        described = self.heads.box_head(proposed.feature.to(predictor.cls_score.weight))
        with torch.autocast(described.device.type, enabled=False):  # scores of half precision would tie
            scores, corrections = predictor(described.to(predictor.cls_score.weight))
        return scores, corrections

    def detections(self, scores: Tensor, corrections: Tensor, proposed: Proposed) -> list[Detections]:
        parts = []
        for size, boxes in zip(proposed.sizes, proposed.boxes.split(proposed.counts), strict=True):
            parts.append(Instances(size, proposal_boxes=Boxes(boxes.to(scores))))
        found = self.heads.box_predictor.inference((scores, corrections), parts)[0]
        placed = [detector_postprocess(one, *size) for one, size in zip(found, proposed.originals, strict=True)]
        return [Detections(one.pred_boxes.tensor.cpu(), one.scores.cpu(), one.pred_classes.cpu()) for one in placed]

    @property
    def most(self) -> int:
        return int(self.heads.box_predictor.test_topk_per_image)

    def _proposals(self, inputs: list[dict[str, Any]]) -> tuple[dict[str, Tensor], list[Instances]]:
        """Feature maps, and the boxes proposed."""
        images, features = self._maps(inputs)
        return features, self.model.proposal_generator(images, features)[0]

    def _maps(self, inputs: list[dict[str, Any]]) -> tuple[Any, dict[str, Tensor]]:
        images = self.model.preprocess_image(inputs)
        return images, self.model.backbone(images.tensor)

    def grow(self, classes: int, generator: torch.Generator) -> None:
        super().grow(classes, generator)
        self.heads.num_classes += classes
        self.heads.box_predictor.num_classes += classes

    @property
    def pooled_shape(self) -> tuple[int, ...]:
        channels = self.model.backbone.output_shape()[self.heads.box_in_features[0]].channels
        return (channels, *self.heads.box_pooler.output_size)

    def pooled_by(self) -> str:
        pooler = [(p.output_size, p.spatial_scale, p.sampling_ratio) for p in self.heads.box_pooler.level_poolers]
        pixels = self.model.pixel_mean.flatten().tolist(), self.model.pixel_std.flatten().tolist()
        return repr((self.heads.box_in_features, pooler, pixels, self.min_size, self.max_size))

    def _inputs(self, batch: Images) -> list[dict[str, Any]]:
        """Images as detectron2 takes them."""
        made: list[dict[str, Any]] = []
        for number, image in enumerate(batch["image"]):
            high, wide = image.shape[1:]
            pixels = image.float() * (1 if image.dtype == torch.uint8 else 255)
            scale = min(self.min_size / min(high, wide), self.max_size / max(high, wide))
            size = int(high * scale + 0.5), int(wide * scale + 0.5)
            if size != (high, wide):
                pixels = F.interpolate(pixels[None], size, mode="bilinear", align_corners=False, antialias=scale < 1)[0]
            if self.model.input_format == "BGR":
                pixels = pixels.flip(0)
            entry: dict[str, Any] = {"image": pixels, "height": high, "width": wide}
            if "boxes" in batch:
                targets = Instances(size)
                factors = pixels.new_tensor([size[1] / wide, size[0] / high] * 2)
                targets.gt_boxes = Boxes(batch["boxes"][number] * factors)
                targets.gt_classes = batch["label"][number]
                entry["instances"] = targets
            made.append(entry)
        return made
