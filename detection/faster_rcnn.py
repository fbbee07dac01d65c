"""FasterRCNN: a Faster R-CNN with a feature pyramid, described in words that fit in a configuration file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from .backbones import backbone, fixing, stages
from .detector import Detector
from .torchvision_detector import TorchvisionDetector


@dataclass(frozen=True)
class FasterRCNN:
    """A Faster R-CNN (Ren et al., NeurIPS 2015) with a feature pyramid (Lin et al., CVPR 2017), built of torchvision's
    parts, or of detectron2's around a backbone of torchvision.

    Args:
        backbone: a torchvision classifier by name whose layers run one after the other, such as ``resnet50``,
            ``mobilenet_v2``, ``mobilenet_v3_large``, ``efficientnet_b0``; or ``small``, for small and simple images.
        weights: a file with weights for it, under torchvision's names: safetensors, or a state dict of PyTorch. Null:
            random ones. Batch statistics are frozen.
        fixed: of its layers, the first ones, which never learn: their weights are buffers.
        levels: strides of the maps that the pyramid is made of.
        channels: of the pyramid.
        pool: height and width of a pooled region.
        head: numbers that describe a region, in the box head.
        regions: sampled on an image to learn from,
        positive: and the share of objects among them, at most.
        proposals: on an image, at most; twice as many while it learns.
        min_size: an image is resized so that its shorter side has this many pixels; of several, the last, and one of
            them at random while it learns,
        max_size: unless its longer side had more than this.
        anchor: size of the anchors on the first level, in pixels; each level has twice that of the one before.
        ratios: heights of the anchors, divided by their widths.
        mean: of red, green and blue, subtracted from images in [0, 1],
        std: and what they are then divided by.
        detections: on an image, at most.
        backend: the library whose detector it becomes. torchvision is always there; detectron2 is on no package index,
            see its own instructions.
    """

    backbone: str = "resnet50"
    weights: Path | None = None
    fixed: int = 0
    levels: tuple[int, ...] = (4, 8, 16, 32)
    channels: int = 256
    pool: int = 7
    head: int = 1024
    regions: int = 512
    positive: float = 0.25
    proposals: int = 1000
    min_size: int | tuple[int, ...] = 800
    max_size: int = 1333
    anchor: int = 32
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    detections: int = 100
    backend: Literal["torchvision", "detectron2"] = "torchvision"

    def __str__(self) -> str:
        return f"{self.backend}'s Faster R-CNN with {self.backbone}"

    def build(self, classes: int, seed: int = 0) -> Detector:
        """The detector for a number of classes, its other weights random by ``seed``, the same ones for both back-ends.

        Raises:
            ValueError: there is no such backbone, it has not these levels, the weights are not its own, or the back-end
                is not installed.
        """
        made = self._of_torchvision(classes, seed)
        return made if self.backend == "torchvision" else self.carried(made)

    def carried(self, detector: Detector) -> Detector:
        """A detector of torchvision that was built by these words, as one of detectron2 with the same weights.

        Raises:
            ValueError: the detector is none of torchvision, or detectron2 is not installed.
        """
        if not isinstance(detector, TorchvisionDetector):
            raise ValueError(f"detector is a {type(detector).__name__}; expected one of torchvision")
        try:
            from .detectron2.faster_rcnn import carried
        except ImportError as error:
            raise ValueError(
                f"backend is 'detectron2', which cannot be imported ({error}); expected it to be installed, or "
                "torchvision, which needs nothing else"
            ) from error
        return carried(detector, self)

    def _of_torchvision(self, classes: int, seed: int) -> TorchvisionDetector:
        from torchvision.models.detection import FasterRCNN as TorchvisionFasterRCNN
        from torchvision.models.detection.rpn import AnchorGenerator
        from torchvision.ops import MultiScaleRoIAlign

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pyramid = self._pyramid()
            count = len(self.levels) + 1
            model = TorchvisionFasterRCNN(
                pyramid,
                min_size=self.min_size,
                max_size=self.max_size,
                image_mean=self.mean,
                image_std=self.std,
                rpn_anchor_generator=AnchorGenerator(
                    tuple((self.anchor * 2**level,) for level in range(count)), (self.ratios,) * count
                ),
                rpn_pre_nms_top_n_train=2 * self.proposals,
                rpn_pre_nms_top_n_test=self.proposals,
                rpn_post_nms_top_n_train=2 * self.proposals,
                rpn_post_nms_top_n_test=self.proposals,
                box_roi_pool=MultiScaleRoIAlign([str(level) for level in range(count - 1)], self.pool, 2),
                box_head=_box_head(self.channels * self.pool**2, self.head),
                box_predictor=_predictor(self.head, classes),
                box_batch_size_per_image=self.regions,
                box_positive_fraction=self.positive,
                box_detections_per_img=self.detections,
            )
        # on CPUs convolutions are quicker on channels that lie side by side
        return TorchvisionDetector(model.to(memory_format=torch.channels_last))

    def _pyramid(self) -> nn.Module:
        from torchvision.models.detection.backbone_utils import BackboneWithFPN

        body = fixing(backbone(self.backbone, self.weights), self.fixed)
        found = stages(body)
        lacking = [stride for stride in self.levels if stride not in found]
        if lacking:
            raise ValueError(f"levels is {self.levels}; {self.backbone} has the strides {sorted(found)}")
        names = {found[stride][0]: str(level) for level, stride in enumerate(self.levels)}
        return cast(nn.Module, BackboneWithFPN(body, names, [found[s][1] for s in self.levels], self.channels))


def _box_head(size: int, width: int) -> Any:
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    return TwoMLPHead(size, width)


def _predictor(width: int, classes: int) -> Any:
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

    return FastRCNNPredictor(width, classes + 1)
