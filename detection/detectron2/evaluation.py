"""Evaluation by detectron2: its own evaluator for COCO's average precision, to compare ours with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from ..coco import as_coco
from ..data import DetectionSet
from ..detections import Detections
from ..evaluation import Precision


def judge(data: DetectionSet, found: Sequence[Detections]) -> Precision:
    """As `memreplay.detection.evaluation.judge`, by detectron2: of every class that has boxes its ``AP`` alone."""
    theirs = evaluate(data, found) if any(len(one.scores) for one in found) else {"AP": 0.0}
    counts = data.counts()
    return Precision({name: {"AP": theirs.get(f"AP-{name}", theirs["AP"])} for name in data.classes if counts[name]})


def evaluate(data: DetectionSet, found: Sequence[Detections]) -> dict[str, float]:
    """What detectron2's ``COCOEvaluator`` says of detections on the images of ``data``: ``AP``, ``AP50``, ``AP75`` and,
    where there are several classes, ``AP-<class>``; in percent. Without detections all are NaN.
    """
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        truth = Path(folder, "truth.json")
        truth.write_text(json.dumps(as_coco(data)), encoding="utf-8")
        known = MetadataCatalog.get(folder)
        known.json_file, known.thing_classes = str(truth), list(data.classes)
        known.thing_dataset_id_to_contiguous_id = {place + 1: place for place in range(len(data.classes))}
        try:
            evaluator = COCOEvaluator(folder, tasks=("bbox",), distributed=False)
            evaluator.reset()
            for number, (picture, one) in enumerate(zip(data.pictures, found, strict=True)):
                instances = Instances(picture.size)
                instances.pred_boxes, instances.scores, instances.pred_classes = (
                    Boxes(one.boxes),
                    one.scores,
                    one.labels,
                )
                evaluator.process([{"image_id": number}], [{"instances": instances}])
            theirs: dict[str, float] = dict(evaluator.evaluate()["bbox"])
        finally:
            MetadataCatalog.remove(folder)
    return theirs
