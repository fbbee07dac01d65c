"""Evaluation: average precision by COCO's own evaluator, of base and of novel classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from .coco import as_coco
from .data import DetectionSet, Picture
from .detections import Detections
from .detector import Detector

Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
METRICS = ("AP", "AP50", "AP75")


@dataclass(frozen=True)
class Precision:
    """Average precision in percent, by class.

    Attributes:
        by_class: ``AP`` (the mean over IoUs 0.50 to 0.95), ``AP50`` and ``AP75`` of every class that has boxes.
    """

    by_class: Mapping[str, Mapping[str, float]]

    def mean(self, metric: str = "AP50", classes: Iterable[str] | None = None) -> float:
        """Mean over some classes, or all; NaN where none of them has boxes.

        Raises:
            ValueError: there is no such metric.
        """
        if metric not in METRICS:
            raise ValueError(f"metric is {metric!r}; expected one of {', '.join(METRICS)}")
        chosen = self.by_class if classes is None else [name for name in classes if name in self.by_class]
        values = [self.by_class[name][metric] for name in chosen]
        return sum(values) / len(values) if values else float("nan")

    def groups(self, base: Sequence[str], metric: str = "AP50") -> dict[str, float]:
        """The mean over base classes, over the others (novel) and over all."""
        novel = [name for name in self.by_class if name not in base]
        return {
            "base": self.mean(metric, base),
            "novel": self.mean(metric, novel),
            "all": self.mean(metric),
        }


def detect(detector: Detector, data: DetectionSet, batch_size: int = 8) -> list[Detections]:
    """What the detector finds on every image of ``data``."""
    found: list[Detections] = []
    device = next(detector.parameters()).device
    for start in range(0, len(data), batch_size):
        found += detector.detect([data.image(i).to(device) for i in range(start, min(start + batch_size, len(data)))])
    return found


def judge(data: DetectionSet, found: Sequence[Detections]) -> Precision:
    """Average precision of what was found on the images of ``data``, whose classes are those of the detector.

    COCO's evaluator (pycocotools) does the counting: at most 100 detections on an image count, precision is read at 101
    recalls, hard boxes are its crowds.

    Raises:
        ValueError: not as many as there are images.
    """
    if len(found) != len(data):
        raise ValueError(f"found has {len(found)} entries; expected one for each of {len(data)} images")
    results = as_coco_results(found)
    counts = data.counts()
    if not results:
        return Precision({name: dict.fromkeys(METRICS, 0.0) for name in data.classes if counts[name]})
    precision = _precision(as_coco(data), results)
    by_class = {}
    for place, name in enumerate(data.classes):
        if counts[name]:
            curves = precision[:, :, place, 0, -1]
            by_iou = [100 * float(curve[curve > -1].mean()) if (curve > -1).any() else 0.0 for curve in curves]
            by_class[name] = {"AP": sum(by_iou) / len(by_iou), "AP50": by_iou[0], "AP75": by_iou[5]}
    return Precision(by_class)


def judge_voc(data: DetectionSet, found: Sequence[Detections]) -> Precision:
    """VOC's own AP50 of 2007, which papers on its benchmarks use: `judge` with other rules.

    A detection belongs to the box that it overlaps most, by more than half; a second one there is wrong. Precision is
    read at eleven recalls. All detections count (Everingham et al., The Pascal Visual Object Classes Challenge, IJCV
    2010).

    Raises:
        ValueError: not as many as there are images.
    """
    if len(found) != len(data):
        raise ValueError(f"found has {len(found)} entries; expected one for each of {len(data)} images")
    by_class = {}
    for place, name in enumerate(data.classes):
        scores, right = [np.zeros(0)], [np.zeros(0, dtype=bool)]
        for picture, one in zip(data.pictures, found, strict=True):
            own = one.labels == place
            verdict, counts = _verdicts(picture.only(picture.labels == place), one.boxes[own], one.scores[own])
            scores.append(one.scores[own].numpy()[counts])
            right.append(verdict[counts])
        if total := data.counts()[name]:
            by_class[name] = {"AP50": 100 * _eleven(np.concatenate(scores), np.concatenate(right), total)}
    return Precision(by_class)


def _verdicts(picture: Picture, boxes: Tensor, scores: Tensor) -> tuple[Flags, Flags]:
    """Which detections of a class are right, and which of them count: those of hard boxes do not."""
    from torchvision.ops import box_iou

    right, counts = np.zeros(len(boxes), dtype=bool), np.ones(len(boxes), dtype=bool)
    if not len(picture.boxes) or not len(boxes):
        return right, counts
    overlap, nearest = (values.tolist() for values in box_iou(boxes, picture.boxes).max(1))
    taken = set()
    for i in scores.argsort(descending=True, stable=True).tolist():
        if overlap[i] > 0.5:
            counts[i] = not picture.hard[nearest[i]]
            right[i] = nearest[i] not in taken
            taken.add(nearest[i])
    return right, counts


def _eleven(scores: np.ndarray[Any, Any], right: Flags, total: int) -> float:
    """Mean over recalls 0, 0.1, ... 1 of the best precision from there on, of ``total`` boxes."""
    hits = right[np.argsort(-scores, kind="stable")].cumsum()
    recall, precision = hits / total, hits / np.arange(1, len(hits) + 1)
    best = [precision[recall >= at].max(initial=0.0) for at in np.arange(11) / 10]
    return float(np.mean(best))


def as_coco_results(found: Sequence[Detections]) -> list[dict[str, Any]]:
    """Detections in COCO's format for results, numbered as `as_coco` numbers images and classes."""
    results: list[dict[str, Any]] = []
    for number, one in enumerate(found):
        sizes = one.boxes[:, 2:] - one.boxes[:, :2]
        for corner, size, score, label in zip(
            one.boxes[:, :2].tolist(), sizes.tolist(), one.scores.tolist(), one.labels.tolist(), strict=True
        ):
            results.append({"image_id": number, "category_id": label + 1, "bbox": [*corner, *size], "score": score})
    return results


def _precision(truth: dict[str, Any], results: list[dict[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Precision by IoU, recall, class, size of the object and number of detections."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(StringIO()):
        expected = COCO()
        expected.dataset = truth
        expected.createIndex()
        evaluator = COCOeval(expected, expected.loadRes(results), "bbox")
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    precision: np.ndarray[Any, np.dtype[np.float64]] = evaluator.eval["precision"]
    return precision
