"""Proposals: regions proposed on every image of a set, pooled once, for detectors that differ in their heads alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..core.fingerprint import fingerprint
from .data import DetectionSet
from .detections import Detections
from .detector import Detector, Proposed
from .prototypes import Prototypes, Seen


class Proposals:
    """What a detector whose backbone and proposals stay as they are sees of a set of images, in half precision.

    To find objects, a detector with the same backbone and the same proposals needs no image any more, whatever its head
    has learned since; one with prototypes reads them once more. Made by `of`.

    Args:
        parts: of some images each.
        fingerprint: of the parts of the detector that they come from.
        data: the images.
    """

    def __init__(self, parts: Sequence[Proposed], fingerprint: str, data: DetectionSet) -> None:
        self.parts = list(parts)
        self.fingerprint = fingerprint
        self.data = data
        self._seen: tuple[str, list[Seen]] = "", []

    @staticmethod
    def of(detector: Detector, data: DetectionSet, most: int | None = None, batch_size: int = 8) -> Proposals:
        """Proposes on all images of ``data``.

        Args:
            most: regions to keep of an image, the best; None: all.
        """
        device = next(detector.parameters()).device
        parts = []
        for start in range(0, len(data), batch_size):
            images = [data.image(i).to(device) for i in range(start, min(start + batch_size, len(data)))]
            part = detector.propose(images)
            counts = tuple(count if most is None else min(count, most) for count in part.counts)
            best = torch.cat([torch.arange(count) < kept for count, kept in zip(part.counts, counts, strict=True)])
            feature, boxes = part.feature.cpu()[best].half(), part.boxes.cpu()[best]
            parts.append(Proposed(feature, boxes, counts, part.sizes, part.originals))
        return Proposals(parts, _names(detector), data)

    def found(self, detector: Detector) -> list[Detections]:
        """What ``detector`` finds on every image.

        Raises:
            ValueError: its backbone, pooler or proposals are other ones.
        """
        if _names(detector) != self.fingerprint:
            raise ValueError(
                f"the proposals are of a backbone, pooler and proposals {self.fingerprint}; "
                f"the detector has {_names(detector)}"
            )
        found = [one for part in self.parts for one in detector.find(part)]
        if (prototypes := detector.prototypes) is None:
            return found
        return [prototypes.calibrated(*both) for both in zip(found, self._looks(prototypes), strict=True)]

    def _looks(self, prototypes: Prototypes) -> list[Seen]:
        """The images as the classifier of the prototypes sees them, in half precision."""
        name = fingerprint(prototypes.encoder, repr(replace(prototypes.calibration, share=0.0)))
        if self._seen[0] != name:
            device = prototypes.sums.device
            looks = (prototypes.look(self.data.image(i).to(device)) for i in range(len(self.data)))
            self._seen = name, [seen._replace(values=seen.values.half().cpu()) for seen in looks]
        return self._seen[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the features and boxes, and of what prototypes saw."""
        seen = sum(seen.values.nbytes for seen in self._seen[1])
        return seen + sum(part.feature.nbytes + part.boxes.nbytes for part in self.parts)


def _names(detector: Detector) -> str:
    return fingerprint(detector.part("proposals"), detector.fingerprint())[:16]
