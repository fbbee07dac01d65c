"""Prototypes: how the shots of a class look to a network that has not learned to detect, and finds that look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import PUBLISHED, backbone, fixing, stages
from .data import DetectionSet, in_unit
from .detections import Detections


@dataclass(frozen=True)
class PrototypeCalibration:
    """Scores of classes that a few boxes were seen of, corrected by how much a find looks like these (the prototypical
    calibration block of DeFRCN: Qiao et al., Decoupled Faster R-CNN for Few-Shot Object Detection, ICCV 2021)::

        score <- max(0, share * score + (1 - share) * cos(f(find), mean of f over the boxes of its class))

    f is the last map of a classifier, pooled from the region. It was not taught by the detector's images, on which
    objects of classes that came later were background. In the paper f goes one layer further, to the classifier's 1,000
    scores.

    Args:
        backbone: the classifier, of torchvision by name; see `FasterRCNN`.
        weights: a file with weights for it; null: those that torchvision publishes for it, which are downloaded. They
            are saved with an adapter; a detector that has prototypes keeps its classifier, and none are read.
        share: of the detector's own score.
        min_size: images are resized for it so that their shorter side has this many pixels,
        max_size: unless their longer side had more than this.
        mean: of red, green and blue, subtracted from images in [0, 1],
        std: and what they are then divided by.

    Raises:
        ValueError: ``share`` is not between 0 and 1.
    """

    backbone: str = "resnet50"
    weights: Path | None = None
    share: float = 0.5
    min_size: int = 800
    max_size: int = 1333
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; expected a share from 0 to 1")


class Seen(NamedTuple):
    """An image as the classifier sees it.

    Attributes:
        values: its last map, (C, h, w).
        scale: pixels of the resized image for one of the image as it came, across and down.
    """

    values: Tensor
    scale: tuple[float, float]


class Prototypes(nn.Module):
    """The mean look of the boxes of some classes, and the classifier that looks. Nothing in it learns by gradients.

    Args:
        calibration: which classifier, and what is made of it.
        classes: how many there are places for; `learn` adds to them.
        random: leave the classifier without its weights, for those of a save.

    Raises:
        ValueError: there is no such classifier, its layers do not run one after the other, or the weights are not its
            own.
        OSError: the weights cannot be read or downloaded.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, calibration: PrototypeCalibration, classes: int = 0, *, random: bool = False) -> None:
        from torchvision.models._utils import IntermediateLayerGetter
        from torchvision.models.detection.transform import GeneralizedRCNNTransform

        super().__init__()
        self.calibration = replace(calibration, weights=None)
        with torch.random.fork_rng(devices=[]):
            body = backbone(calibration.backbone, None if random else calibration.weights or PUBLISHED)
        found = stages(body.eval())
        self.stride = max(found)
        last, channels = found[self.stride]
        layers = IntermediateLayerGetter(body, {last: "map"})
        self.encoder = fixing(layers, len(layers)).to(memory_format=torch.channels_last)
        self.resize = GeneralizedRCNNTransform(
            calibration.min_size, calibration.max_size, list(calibration.mean), list(calibration.std)
        )
        self.register_buffer("sums", torch.zeros(classes, channels))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64))
        self.eval()

    def train(self, mode: bool = True) -> Prototypes:
        """It stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def look(self, image: Tensor) -> Seen:
        """An image (3, H, W), uint8 or floats in [0, 1], as the classifier sees it."""
        resized = self.resize([in_unit(image)])[0]
        high, wide = resized.image_sizes[0]
        values = self.encoder(resized.tensors.contiguous(memory_format=torch.channels_last))["map"][0]
        return Seen(values, (wide / image.shape[2], high / image.shape[1]))

    def features(self, seen: Seen, boxes: Tensor) -> Tensor:
        """How boxes (N, 4), in pixels of the image as it came, look: float32 (N, C)."""
        from torchvision.ops import roi_align

        values = seen.values.to(self.sums)
        placed = boxes.to(values) * values.new_tensor([*seen.scale, *seen.scale])
        pooled: Tensor = roi_align(values[None], [placed], 1, 1 / self.stride, aligned=True)
        return pooled.flatten(1)

    @torch.no_grad()
    def learn(self, data: DetectionSet) -> None:
        """Takes in the boxes of ``data``, whose labels are those of the detector."""
        lacking = len(data.classes) - len(self.counts)
        if lacking > 0:
            self.sums = F.pad(self.sums, (0, 0, 0, lacking))
            self.counts = F.pad(self.counts, (0, lacking))
        for index, picture in enumerate(data.pictures):
            own = picture.only(~picture.hard)
            if len(own.labels):
                labels = own.labels.to(self.counts.device)
                seen = self.look(data.image(index).to(self.sums.device))
                self.sums.index_add_(0, labels, self.features(seen, own.boxes))
                self.counts.index_add_(0, labels, torch.ones_like(labels))

    def drop(self, label: int) -> None:
        """Erases what is known of a class."""
        if label < len(self.counts):
            self.sums[label] = 0
            self.counts[label] = 0

    def known(self, found: Detections) -> Tensor:
        """Which of them, bool (N,), are of classes that boxes were seen of."""
        places = found.labels.clamp(max=len(self.counts))
        return F.pad(self.counts.cpu() > 0, (0, 1))[places]

    def calibrated(self, found: Detections, seen: Seen) -> Detections:
        """``found`` with other scores of the classes that boxes were seen of; best first."""
        known = self.known(found)
        labels = found.labels[known].to(self.sums.device)
        alike = F.cosine_similarity(self.features(seen, found.boxes[known]), self.sums[labels]).cpu()
        scores = found.scores.clone()
        share = self.calibration.share
        scores[known] = (share * scores[known] + (1 - share) * alike).clamp(min=0)
        order = scores.argsort(descending=True, stable=True)
        return Detections(found.boxes[order], scores[order], found.labels[order])

    def calibrate(self, found: Sequence[Detections], images: Sequence[Tensor]) -> list[Detections]:
        """Detections on images, image by image, `calibrated`; of images without any there is no look."""
        return [
            self.calibrated(one, self.look(image)) if self.known(one).any() else one
            for one, image in zip(found, images, strict=True)
        ]
