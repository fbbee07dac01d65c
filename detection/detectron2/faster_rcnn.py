"""carried: a Faster R-CNN of torchvision as one of detectron2, with the same weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator import RPN, StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers
from torch import Tensor, nn

from ..faster_rcnn import FasterRCNN
from ..torchvision_detector import TorchvisionDetector
from .detector import Detectron2Detector
from .heads import ROIMemoryHeads


class TorchvisionPyramid(Backbone):  # type: ignore[misc]
    """A backbone of torchvision with its feature pyramid, as detectron2 wants one; maps are named ``p3`` for stride 8.

    Args:
        pyramid: torchvision's ``BackboneWithFPN``.
        strides: of its maps, those of the pyramid and the pooled one.
    """

    def __init__(self, pyramid: Any, strides: tuple[int, ...]) -> None:
        super().__init__()
        self.pyramid: nn.Module = pyramid
        names = [f"p{stride.bit_length() - 1}" for stride in strides]
        self._out_features = names
        self._out_feature_strides = dict(zip(names, strides, strict=True))
        self._out_feature_channels = dict.fromkeys(names, int(pyramid.out_channels))

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of this, as in torchvision."""
        return 32

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The maps by name."""
        return dict(zip(self._out_features, self.pyramid(images).values(), strict=True))


def carried(detector: TorchvisionDetector, architecture: FasterRCNN) -> Detectron2Detector:
    """A detector of detectron2 with the weights of one of torchvision, copied, that finds the same.

    In training it differs as the libraries do: detectron2's loss of boxes is L1, and images are resized to the last of
    several sizes only.

    Args:
        architecture: that ``detector`` was built by.
    """
    model = detector.model
    strides = (*architecture.levels, 2 * architecture.levels[-1])
    backbone = TorchvisionPyramid(copy.deepcopy(model.backbone), strides)
    sizes = [[float(architecture.anchor * 2**level)] for level in range(len(strides))]
    anchors = DefaultAnchorGenerator(
        sizes=sizes, aspect_ratios=[list(architecture.ratios)], strides=list(strides), offset=0.0
    )
    count = architecture.proposals
    rpn = RPN(
        in_features=list(backbone._out_features),
        head=StandardRPNHead(in_channels=architecture.channels, num_anchors=len(architecture.ratios)),
        anchor_generator=anchors,
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform(weights=(1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_topk=(2 * count, count),
        post_nms_topk=(2 * count, count),
        nms_thresh=0.7,
    )
    pooled = ShapeSpec(channels=architecture.channels, height=architecture.pool, width=architecture.pool)
    heads = ROIMemoryHeads(
        num_classes=detector.classes,
        batch_size_per_image=architecture.regions,
        positive_fraction=architecture.positive,
        proposal_matcher=Matcher([0.5], [0, 1], allow_low_quality_matches=False),
        box_in_features=list(backbone._out_features)[:-1],
        box_pooler=ROIPooler(
            output_size=architecture.pool,
            scales=tuple(1 / stride for stride in architecture.levels),
            sampling_ratio=2,
            pooler_type="ROIAlign",
        ),
        box_head=FastRCNNConvFCHead(pooled, conv_dims=[], fc_dims=[architecture.head] * 2),
        box_predictor=FastRCNNOutputLayers(
            ShapeSpec(channels=architecture.head),
            box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
            num_classes=detector.classes,
            test_score_thresh=detector.heads.score_thresh,
            test_nms_thresh=detector.heads.nms_thresh,
            test_topk_per_image=architecture.detections,
        ),
    )
    made = GeneralizedRCNN(
        backbone=backbone,
        proposal_generator=rpn,
        roi_heads=heads,
        pixel_mean=[255 * value for value in architecture.mean],
        pixel_std=[255 * value for value in architecture.std],
        input_format="RGB",
    )
    shorter = architecture.min_size if isinstance(architecture.min_size, int) else architecture.min_size[-1]
    found = Detectron2Detector(made, shorter, architecture.max_size)
    if detector.cosines:
        found.use_cosines()
    found.rounds = detector.rounds
    found.prototypes = copy.deepcopy(detector.prototypes)
    _copy(model, made)
    return found.to(next(model.parameters()).device)


@torch.no_grad()
def _copy(theirs: Any, ours: Any) -> None:
    """Weights from torchvision's model to detectron2's, which has the backbone already."""
    rpn, made = theirs.rpn, ours.proposal_generator
    head, predictor = theirs.roi_heads.box_head, theirs.roi_heads.box_predictor
    for source, target in (
        (rpn.head.conv[0][0], made.rpn_head.conv),
        (rpn.head.cls_logits, made.rpn_head.objectness_logits),
        (rpn.head.bbox_pred, made.rpn_head.anchor_deltas),
        (head.fc6, ours.roi_heads.box_head.fc1),
        (head.fc7, ours.roi_heads.box_head.fc2),
    ):
        target.load_state_dict(source.state_dict())
    for source, target in zip(rpn.anchor_generator.cell_anchors, made.anchor_generator.cell_anchors, strict=True):
        target.copy_(source)  # torchvision's are rounded
    own = ours.roi_heads.box_predictor
    for name in ("weight", "bias"):
        scores, boxes = (getattr(layer, name) for layer in (predictor.cls_score, predictor.bbox_pred))
        getattr(own.cls_score, name).copy_(torch.cat([scores[1:], scores[:1]]))  # the background comes last,
        getattr(own.bbox_pred, name).copy_(boxes[4:])  # and has no box
