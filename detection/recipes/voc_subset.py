"""Pascal VOC at 320 pixels: nine base classes, then four new ones from 1 to 10 boxes each, from one base detector.

The data are a subset of VOC 2007 and 2012 in COCO's format: ``train.json``, ``test.json`` and ``images.zip`` in the
folder ``voc_subset``, and ImageNet weights of MobileNetV2 in ``weights_vision``. Base: person, car, cat, dog, horse,
sheep, train, chair, pottedplant; novel: bus, cow, motorbike, sofa. Two hundred training images are kept apart: on them
every method's learning rate is chosen, with boxes of another draw. Every method then learns from the same
boxes, with the same number of steps, from the same detector. All that is done is kept in the output folder, so that a
run that was stopped goes on.

Where detectron2 is installed, some methods learn once more by its losses and layers, from the same base detector,
carried over, the same boxes and the same learning rates to choose from. Their rows also have what detectron2's own
evaluator says of the same detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from ...core.reporting import Results
from ...core.reporting.asked import check_asked
from ..adapter import DetectionAdapter
from ..base import BaseTraining
from ..coco import Coco
from ..faster_rcnn import FasterRCNN
from ..few_shot import AP_BY_DETECTRON2, NAMES, FewShot, Table, fill_in
from ..folder import Folder
from ..parts import Parts
from ..prototypes import PrototypeCalibration
from ..tuning import FineTuning

BASE = ("person", "car", "cat", "dog", "horse", "sheep", "train", "chair", "pottedplant")
NOVEL = ("bus", "cow", "motorbike", "sofa")
VALIDATION = 200
DETECTRON2 = "detectron2"
CARRIED = ("finetune", "tfa", "replay", "distill", "distill, old scores apart", "distill, old scores apart, prototypes")
"""The methods that learn by detectron2 as well."""

PLAN = FewShot(
    FasterRCNN(
        "mobilenet_v2",
        fixed=7,
        levels=(8, 16, 32),
        channels=64,
        head=512,
        regions=64,
        proposals=200,
        min_size=(180, 210, 240, 320),
        max_size=320,
        anchor=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
    BaseTraining(steps=2500, lr=0.0004, optimizer="adamw", weight_decay=0.05),
    FineTuning(steps=150, regions=64, replay=64),
    PrototypeCalibration("mobilenet_v2", min_size=320, max_size=320, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    shots=(1, 3, 5, 10),
    learning_rates=(0.0003, 0.001, 0.003, 0.01),
    moments=(10, 25, 50, 100, 150),
    mixed_precision="bf16",
    pooled=100,
)


def reproduce(
    *,
    seeds: int | None,
    data: Path | None,
    out: Path,
    only: Sequence[str],
    plan: FewShot = PLAN,
    images: int | None = None,
) -> Results:
    """Runs the table.

    Args:
        seeds: draws of boxes; 3 by default.
        data: the folder with ``voc_subset`` and ``weights_vision``.
        out: folder for results, and for all that is done on the way.
        only: names of methods, ``base`` or ``curves``, see `fill_in`; ``detectron2`` for what it does, of the methods
            that are named, or of all its own.
        plan: how much is done; tests do less.
        images: of each of the sets, at most; None: all.

    Raises:
        ValueError: there are no data, or an unknown name, or detectron2 is asked for and not installed.
    """
    count = 3 if seeds is None else seeds
    check_asked(only, [DETECTRON2, *NAMES], count)
    installed = find_spec("detectron2") is not None
    if DETECTRON2 in only and not installed:
        raise ValueError(f"only is {DETECTRON2!r}, which is not installed; expected it to be, or other names")
    folder = Folder.holding("voc_subset/train.json", data, "voc_subset/train.json and weights_vision")
    plan = plan.weighted(folder.first("weights_vision/mobilenet_v2_imagenet_features.safetensors"))
    held = folder.root / "voc_subset"
    learned, test = (Coco(held / f"{name}.json", held / "images.zip", [*BASE, *NOVEL]) for name in ("train", "test"))
    parts = Parts.load(learned, test, VALIDATION, images)
    table = Table(plan, BASE, NOVEL, parts, Path(out))
    results = Results("detection/voc-subset", {"base_steps": plan.base.steps, "digest": parts.train.digest()})
    fill_in(results, table, count, only)
    if DETECTRON2 in only or (installed and not only):
        chosen = [name for name in CARRIED if name in only] or CARRIED
        metrics = ("AP50", "AP", AP_BY_DETECTRON2)
        fill_in(results, _carried(table), count, chosen, metrics=metrics, prefix=f"{DETECTRON2}: ")
    results.save(out)
    results.print(decimals=1)
    return results


def _carried(table: Table) -> Table:
    """The same table by detectron2, from the same base detector, for the K of the rehearsal alone."""
    out = table.out / DETECTRON2
    architecture = replace(table.adapter.architecture, backend="detectron2")
    DetectionAdapter(architecture, architecture.carried(table.adapter.detector), table.base).save(out / "base")
    plan = replace(table.plan, detector=architecture, shots=(table.plan.rehearsal,))
    return Table(plan, table.base, table.novel, table.parts, out)
